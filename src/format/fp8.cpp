// Hugging Face's fine-grained FP8 (`quant_method: "fp8"`): e4m3 codes with one float32 scale for each block of 128 x 128, inputs
// quantized per token in groups of 128; or one scale for the whole matrix and a static one for the input.
// Source: transformers integrations/finegrained_fp8.py, DeepSeek-V3 inference/fp8_cast_bf16.py.
#include <ATen/ATen.h>

#include "formats.h"
#include "reading.h"

namespace miq::format {
namespace {

using quantizer::ActivationGranularity;
using quantizer::Granularity;
using quantizer::GridType;
using quantizer::QuantizedLinear;

constexpr std::int64_t kBlock = 128;

bool by_block(const Scheme& scheme) { return scheme.grid.granularity == Granularity::block; }

std::optional<std::string> why_not(const Scheme& s, const FormatOptions&) {
  const std::string others = "; compressed-tensors, miq and dequantized can";
  if (s.grid.type != GridType::fp8_e4m3) return "fp8 holds fp8_e4m3 weights only" + others;
  if (auto reason = why_not_plain(s, "fp8")) return reason;
  if (s.rotated_input || s.rotated_output) return "fp8 cannot hold a rotation at run time; miq and dequantized can";
  const quantizer::Activation& x = s.activation;
  if (by_block(s)) {
    if (s.grid.group_size != kBlock) return "fp8 holds blocks of 128 x 128 (grid.group_size: 128)" + others;
    if (x.type != GridType::fp8_e4m3 || !x.enabled() || !x.dynamic || x.granularity != ActivationGranularity::group || x.group_size != kBlock)
      return "readers of fp8 quantize inputs per token in groups of 128: set activation: {type: fp8_e4m3, bits: 8, granularity: group, group_size: 128}" + others;
    return std::nullopt;
  }
  if (s.grid.granularity != Granularity::tensor) return "fp8 holds one scale for each block of 128 x 128, or one for the matrix" + others;
  if (x.type != GridType::fp8_e4m3 || !x.enabled() || x.dynamic)
    return "fp8 with one scale for the matrix has a static input scale: set activation: {type: fp8_e4m3, bits: 8, granularity: tensor, dynamic: false}" + others;
  return std::nullopt;
}

std::optional<std::string> why_not_together(const std::vector<Scheme>& schemes) {
  for (const Scheme& scheme : schemes)
    if (by_block(scheme) != by_block(schemes.front())) return "fp8 holds one kind of scale for all linears, " + scheme.name + " has another than " + schemes.front().name + "; compressed-tensors can";
  return std::nullopt;
}

std::vector<std::string> warnings(const std::vector<Scheme>& schemes, const FormatOptions&) {
  std::vector<std::string> out;
  if (schemes.empty()) return out;
  out.push_back("llama.cpp does not read fp8; its converter does");
  if (!by_block(schemes.front())) {
    out.push_back("vLLM and SGLang look for weight_scale and input_scale: this is transformers' dialect; compressed-tensors is read by both");
    return out;
  }
  warn_first(out, "transformers on a CPU refuses or misreads", schemes, [](const Scheme& s) -> std::optional<std::string> {
    if (s.out_features % kBlock == 0 && s.in_features % kBlock == 0) return std::nullopt;
    return "has dimensions that are no multiples of 128";
  });
  warn_first(out, "vLLM refuses", schemes, [](const Scheme& s) -> std::optional<std::string> {
    const bool fused = s.name.ends_with("q_proj") || s.name.ends_with("k_proj") || s.name.ends_with("gate_proj");
    if (!fused || s.out_features % kBlock == 0) return std::nullopt;
    return "is fused with others and has " + std::to_string(s.out_features) + " outputs, no multiple of 128";
  });
  return out;
}

at::ScalarType scale_dtype(const quantizer::Grid&, const FormatOptions&) { return at::kFloat; }

std::vector<NamedTensor> encode(const std::vector<NamedLinear>& linears, const FormatOptions&) {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, linear] : linears) {
    const at::Tensor& scales = linear->params.scales_OG;
    tensors.push_back({name + ".weight", linear->codes_OI.view(at::kFloat8_e4m3fn)});
    if (linear->grid.granularity == Granularity::block) {
      tensors.push_back({name + ".weight_scale_inv", scales.slice(0, 0, scales.size(0), kBlock).contiguous()});
    } else {
      tensors.push_back({name + ".weight_scale_inv", scales.flatten()[0].clone()});
      tensors.push_back({name + ".activation_scale", linear->activation_params.scale.to(at::kFloat).reshape({})});
    }
  }
  return tensors;
}

void declare(const std::vector<Scheme>& schemes, const std::vector<std::string>& kept, const FormatOptions&, Declaration& declaration) {
  const bool blocks = schemes.empty() || by_block(schemes.front());
  declaration.config["quantization_config"] = {{"quant_method", "fp8"},
                                               {"fmt", "e4m3"},
                                               {"activation_scheme", blocks ? "dynamic" : "static"},
                                               {"weight_block_size", blocks ? nlohmann::ordered_json({kBlock, kBlock}) : nlohmann::ordered_json()},
                                               {"modules_to_not_convert", kept}};
}

bool recognises(const nlohmann::json& quantization) { return quantization.is_object() && quantization.value("quant_method", nlohmann::json()) == "fp8"; }

class Fp8Decoder : public TableDecoder {
 public:
  Fp8Decoder(std::shared_ptr<const TensorSource> source, const nlohmann::json& quantization, const std::string& where) : TableDecoder(Contents(std::move(source), where)) {
    if (text(quantization, "fmt", where, "e4m3") != "e4m3") throw Error(ErrorKind::unsupported, "fp8 of another kind than e4m3", where);
    read_block_size(quantization, where);
    const bool dynamic = text(quantization, "activation_scheme", where, "dynamic") == "dynamic";
    for (const std::string& name : contents_.named(".weight")) {
      const TensorSpec& weight = contents_.specs().at(name + ".weight");
      if (weight.dtype != at::kFloat8_e4m3fn) continue;
      contents_.spec(name + ".weight", 2);
      Scheme scheme{.name = name, .out_features = weight.shape[0], .in_features = weight.shape[1]};
      scheme.grid.type = GridType::fp8_e4m3;
      scheme.grid.bits = 8;
      scheme.grid.symmetric = true;
      scheme.grid.granularity = block_ > 0 ? Granularity::block : Granularity::tensor;
      if (block_ > 0) scheme.grid.group_size = block_;
      scheme.activation = {.type = GridType::fp8_e4m3, .bits = 8};
      scheme.activation.dynamic = dynamic;
      scheme.activation.granularity = !dynamic ? ActivationGranularity::tensor : block_ > 0 ? ActivationGranularity::group : ActivationGranularity::token;
      if (block_ > 0) scheme.activation.group_size = block_;
      if (block_ > 0 && scheme.in_features % block_ != 0) scheme.activation = {};  // no reader quantizes a ragged group
      add(std::move(scheme), {name + ".weight", name + ".weight_scale_inv", name + ".weight_scale", name + ".activation_scale", name + ".input_scale"});
    }
    if (linears().empty()) throw Error(ErrorKind::io, "config.json tells of fp8, but no weight is stored so", where);
  }

  QuantizedLinear linear(const std::string& name) const override {
    const Scheme& s = scheme(name);
    QuantizedLinear linear;
    linear.grid = s.grid;
    linear.activation = s.activation;
    linear.codes_OI = contents_.read(name + ".weight", {at::kFloat8_e4m3fn}, {s.out_features, s.in_features}).view(at::kByte);
    // vLLM's dialect has other names.
    const std::string scale = contents_.has(name + ".weight_scale_inv") ? name + ".weight_scale_inv" : name + ".weight_scale";
    const std::int64_t groups = s.grid.num_groups(s.in_features);
    at::Tensor scales;
    if (block_ > 0) {
      const std::int64_t rows = (s.out_features + block_ - 1) / block_;
      scales = contents_.read(scale, {at::kFloat, at::kBFloat16, at::kHalf}, {rows, groups}).to(at::kFloat);
      scales = scales.repeat_interleave(block_, 0).narrow(0, 0, s.out_features).contiguous();
    } else {
      scales = single(scale).expand({s.out_features, 1}).contiguous();
    }
    linear.params = {scales, at::zeros_like(scales)};
    if (linear.activation.enabled() && !linear.activation.dynamic)
      linear.activation_params.scale = single(contents_.has(name + ".activation_scale") ? name + ".activation_scale" : name + ".input_scale");
    return linear;
  }

 private:
  void read_block_size(const nlohmann::json& quantization, const std::string& where) {
    const auto found = quantization.find("weight_block_size");
    if (found == quantization.end() || found->is_null()) return;
    const bool pair = found->is_array() && found->size() == 2 && (*found)[0].is_number_integer() && (*found)[0] == (*found)[1];
    if (!pair) throw Error(ErrorKind::unsupported, "weight_block_size: " + found->dump().substr(0, 60) + ", square blocks are read", where);
    block_ = whole_number({{"weight_block_size", (*found)[0]}}, "weight_block_size", 1, kMaxGroup, where);
  }

  // One number, 0-d or of shape [1].
  at::Tensor single(const std::string& name) const {
    const auto found = contents_.specs().find(name);
    const bool flat = found != contents_.specs().end() && found->second.shape.size() == 1;
    return contents_.read(name, {at::kFloat, at::kBFloat16, at::kHalf}, flat ? std::vector<std::int64_t>{1} : std::vector<std::int64_t>{}).to(at::kFloat).reshape({});
  }

  std::int64_t block_ = 0;  // 0: one scale for the matrix
};

std::unique_ptr<Decoder> open(std::shared_ptr<const TensorSource> source, const nlohmann::json& quantization, const nlohmann::json&, const std::string& where) {
  return std::make_unique<Fp8Decoder>(std::move(source), quantization, where);
}

}  // namespace

const Format fp8_format = {.name = "fp8",
                           .summary = "Hugging Face's fine-grained FP8: e4m3 in blocks of 128 x 128 (DeepSeek-V3), or one static scale",
                           .why_not = why_not,
                           .warnings = warnings,
                           .scale_dtype = scale_dtype,
                           .encode = encode,
                           .declare = declare,
                           .recognises = recognises,
                           .open = open,
                           .why_not_together = why_not_together};

}  // namespace miq::format
