// NVIDIA ModelOpt's checkpoints for TensorRT-LLM (`quant_method: "modelopt"`, hf_quant_config.json): FP8, and INT4 with AWQ's
// scales. Source: modelopt/torch/export/quant_utils.py; TensorRT-LLM _torch/modules/linear.py (loading).
#include <ATen/ATen.h>

#include <algorithm>

#include "formats.h"
#include "reading.h"

namespace miq::format {
namespace {

using quantizer::Activation;
using quantizer::ActivationGranularity;
using quantizer::Granularity;
using quantizer::Grid;
using quantizer::GridType;
using quantizer::QuantizedLinear;

constexpr std::int64_t kBlock = 128;
constexpr float kRatio = 64;  // 448 / 7: weight_scale over weight_scale_2 of the largest group

enum class Algorithm { fp8, fp8_by_channel, fp8_by_block, int4, int4_fp8 };
struct Row {
  Algorithm algorithm;
  const char* name;
};
constexpr Row kAlgorithms[] = {{Algorithm::fp8, "FP8"}, {Algorithm::fp8_by_channel, "FP8_PER_CHANNEL_PER_TOKEN"}, {Algorithm::fp8_by_block, "FP8_PB_WO"},
                               {Algorithm::int4, "W4A16_AWQ"}, {Algorithm::int4_fp8, "W4A8_AWQ"}};

const char* name_of(Algorithm algorithm) {
  for (const Row& row : kAlgorithms)
    if (row.algorithm == algorithm) return row.name;
  return "";
}

bool is_int4(Algorithm a) { return a == Algorithm::int4 || a == Algorithm::int4_fp8; }
bool has_static_input(Algorithm a) { return a == Algorithm::fp8 || a == Algorithm::int4_fp8; }

// TensorRT-LLM folds the divisors of the others into norms, but looks for these.
bool has_pre_quant_scale(const std::string& linear) { return linear.ends_with("o_proj") || linear.ends_with("down_proj"); }

std::optional<Algorithm> algorithm_of(const Grid& grid, const Activation& x) {
  const bool fp8_input = x.enabled() && x.type == GridType::fp8_e4m3, static_input = fp8_input && !x.dynamic;
  if (grid.type == GridType::fp8_e4m3) {
    if (grid.granularity == Granularity::tensor && static_input) return Algorithm::fp8;
    if (grid.granularity == Granularity::channel && fp8_input && x.dynamic && x.granularity == ActivationGranularity::token) return Algorithm::fp8_by_channel;
    if (grid.granularity == Granularity::block && grid.group_size == kBlock && !x.enabled()) return Algorithm::fp8_by_block;
  }
  if (grid.is_integer() && grid.bits == 4 && grid.symmetric && grid.granularity == Granularity::group) {
    if (!x.enabled()) return Algorithm::int4;
    if (static_input) return Algorithm::int4_fp8;
  }
  return std::nullopt;
}

std::optional<std::string> why_not(const Scheme& s, const FormatOptions&) {
  const std::string others = "; compressed-tensors, miq and dequantized can";
  Scheme rest = s;
  if (has_pre_quant_scale(s.name)) rest.divisor = false;  // its pre_quant_scale
  const auto algorithm = algorithm_of(s.grid, s.activation);
  if (auto reason = why_not_plain(rest, "modelopt")) return reason;
  if (s.rotated_input || s.rotated_output) return "modelopt cannot hold a rotation at run time; miq and dequantized can";
  if (s.group_of_column) return "modelopt cannot hold groups that are not runs of columns; gptq and miq can";
  if (!algorithm)
    return "modelopt holds fp8_e4m3 by tensor with a static input, by channel with inputs by token, by block of 128 without, and symmetric int4 by group with inputs in 16 bits or static fp8" + others;
  if (s.divisor && !is_int4(*algorithm)) return "modelopt's FP8 cannot hold a division of the input; miq can";
  if (is_int4(*algorithm) && is_ragged(s)) return "groups of " + std::to_string(s.grid.group_size) + " do not divide " + std::to_string(s.in_features) + " inputs; miq and dequantized can";
  if (is_int4(*algorithm) && s.out_features % 2 != 0) return "modelopt packs pairs of outputs, and " + std::to_string(s.out_features) + " is odd" + others;
  return std::nullopt;
}

std::optional<std::string> why_not_together(const std::vector<Scheme>& schemes) {
  for (const Scheme& s : schemes)
    if (algorithm_of(s.grid, s.activation) != algorithm_of(schemes.front().grid, schemes.front().activation) || declared_group(s) != declared_group(schemes.front()))
      return "modelopt holds one quantization for all linears, " + s.name + " has another than " + schemes.front().name + "; compressed-tensors and miq can";
  return std::nullopt;
}

std::vector<std::string> warnings(const std::vector<Scheme>& schemes, const FormatOptions&) {
  std::vector<std::string> out = {"transformers does not know modelopt and takes the codes for weights"};
  if (schemes.empty()) return out;
  const auto algorithm = algorithm_of(schemes.front().grid, schemes.front().activation);
  if (algorithm && is_int4(*algorithm)) out.push_back("vLLM does not load modelopt's AWQ kinds; awq and compressed-tensors are for it");
  if (algorithm == Algorithm::fp8_by_channel || algorithm == Algorithm::fp8_by_block || (algorithm && is_int4(*algorithm)))
    out.push_back("SGLang loads of modelopt only FP8 with one scale for the matrix");
  out.push_back("llama.cpp's converter reads of modelopt only FP8");
  return out;
}

at::ScalarType scale_dtype(const Grid&, const FormatOptions&) { return at::kFloat; }

// q[2r, k] & 15 | (q[2r + 1, k] & 15) << 4 of signed codes.
at::Tensor pack_pairs(const at::Tensor& codes_OI) {
  const at::Tensor nibbles = codes_OI.bitwise_xor(8);  // code - 8 as a two's complement of 4 bits
  const at::Tensor pairs = nibbles.view({codes_OI.size(0) / 2, 2, codes_OI.size(1)});
  return pairs.select(1, 0).bitwise_or(pairs.select(1, 1).bitwise_left_shift(4)).contiguous();
}

at::Tensor unpack_pairs(const at::Tensor& bytes) {
  return at::stack({bytes.bitwise_and(15), bytes.bitwise_right_shift(4)}, 1).view({bytes.size(0) * 2, bytes.size(1)}).bitwise_xor(8);
}

std::vector<NamedTensor> encode(const std::vector<NamedLinear>& fused, const FormatOptions& options) {
  std::vector<NamedTensor> tensors;
  float largest = 0;
  for (const NamedLinear& named : fused) largest = std::max(largest, named.linear->params.scales_OG.max().item<float>());
  for (const auto& [name, linear] : fused) {
    const at::Tensor& scales = linear->params.scales_OG;
    const auto algorithm = algorithm_of(linear->grid, linear->activation);
    if (!algorithm) throw Error(ErrorKind::unsupported, "modelopt cannot hold this grid", name);
    tensors.push_back({name + ".weight", is_int4(*algorithm) ? pack_pairs(linear->codes_OI) : linear->codes_OI.view(at::kFloat8_e4m3fn)});
    switch (*algorithm) {
      case Algorithm::fp8: tensors.push_back({name + ".weight_scale", scales.flatten()[0].clone()}); break;
      case Algorithm::fp8_by_channel: tensors.push_back({name + ".weight_scale", scales.flatten()}); break;
      case Algorithm::fp8_by_block: {
        const at::Tensor blocks = scales.slice(0, 0, scales.size(0), kBlock).contiguous();
        tensors.push_back({name + ".weight_scale", blocks.numel() == 1 ? blocks.reshape({}) : blocks.view({blocks.size(0), 1, blocks.size(1), 1})});
        break;
      }
      case Algorithm::int4_fp8: tensors.push_back({name + ".weight_scale_2", at::scalar_tensor(largest / kRatio, at::kFloat)}); [[fallthrough]];
      case Algorithm::int4:
        tensors.push_back({name + ".weight_scale", scales});
        if (!has_pre_quant_scale(name)) break;
        const at::Tensor divisor = linear->online.divisor_I.defined() ? linear->online.divisor_I : at::ones({linear->in_features()});
        tensors.push_back({name + ".pre_quant_scale", divisor.reciprocal().to(options.model_dtype)});
        break;
    }
    if (has_static_input(*algorithm)) tensors.push_back({name + ".input_scale", linear->activation_params.scale.to(at::kFloat).reshape({})});
  }
  return tensors;
}

void declare(const std::vector<Scheme>& schemes, const std::vector<std::string>& kept, const FormatOptions& options, Declaration& declaration) {
  using Json = nlohmann::ordered_json;
  if (schemes.empty()) return;
  const auto algorithm = algorithm_of(schemes.front().grid, schemes.front().activation);
  const Json producer = {{"name", "modelopt"}, {"version", "0.47.0"}};
  Json flat = {{"quant_method", "modelopt"}, {"quant_algo", name_of(*algorithm)}, {"ignore", kept}, {"producer", producer}};
  if (*algorithm == Algorithm::fp8) {
    const Json eight = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
    flat["config_groups"] = {{"group_0", {{"input_activations", eight}, {"weights", eight}, {"targets", {"Linear"}}}}};
  }
  const bool fp8_cache = options.kv_cache_scheme.is_object();
  if (fp8_cache) flat["kv_cache_scheme"] = options.kv_cache_scheme;
  declaration.config["quantization_config"] = flat;
  Json quantization = {{"quant_algo", name_of(*algorithm)}, {"kv_cache_quant_algo", fp8_cache ? Json("FP8") : Json()}};
  if (is_int4(*algorithm)) quantization.update(Json{{"group_size", schemes.front().grid.group_size}, {"has_zero_point", false}, {"pre_quant_scale", true}});
  quantization["exclude_modules"] = kept;
  declaration.files["hf_quant_config.json"] = Json{{"producer", producer}, {"quantization", quantization}}.dump(4) + "\n";
}

bool recognises(const nlohmann::json& quantization) {
  if (!quantization.is_object()) return false;
  const nlohmann::json method = quantization.value("quant_method", nlohmann::json());
  return method.is_string() && method.get<std::string>().rfind("modelopt", 0) == 0;
}

class ModeloptDecoder : public TableDecoder {
 public:
  ModeloptDecoder(std::shared_ptr<const TensorSource> source, const nlohmann::json& quantization, const std::string& where) : TableDecoder(Contents(std::move(source), where)) {
    std::string algorithm = text(quantization, "quant_algo", where);
    std::transform(algorithm.begin(), algorithm.end(), algorithm.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    const auto* const row = std::find_if(std::begin(kAlgorithms), std::end(kAlgorithms), [&](const Row& r) { return algorithm == r.name; });
    if (row == std::end(kAlgorithms)) {
      std::string known;
      for (const Row& each : kAlgorithms) known += std::string(known.empty() ? "" : ", ") + each.name;
      throw Error(ErrorKind::unsupported, "modelopt's " + algorithm.substr(0, 40) + " is not read", where, "read are " + known);
    }
    algorithm_ = row->algorithm;
    for (const std::string& name : contents_.named(".weight_scale")) add_linear(name);
    for (const char* suffix : {".k_scale", ".v_scale", ".k_proj.k_bmm_quantizer._amax"})  // of the KV cache
      for (const std::string& name : contents_.named(suffix)) owned_.insert(name + suffix);
    if (linears().empty()) throw Error(ErrorKind::io, "the configuration tells of modelopt, but no linear has a weight_scale", where);
  }

  QuantizedLinear linear(const std::string& name) const override {
    const Scheme& s = scheme(name);
    QuantizedLinear linear;
    linear.grid = s.grid;
    linear.activation = s.activation;
    const std::int64_t groups = s.grid.num_groups(s.in_features);
    at::Tensor scales;
    const std::string scale = name + ".weight_scale";
    if (is_int4(algorithm_)) {
      linear.codes_OI = unpack_pairs(contents_.read(name + ".weight", {at::kByte}, {s.out_features / 2, s.in_features}));
      scales = contents_.read(scale, {at::kFloat}, {s.out_features, groups});
      linear.params.zeros_OG = at::full_like(scales, 8);
      // What servers divide by; it is in the scales already.
      if (algorithm_ == Algorithm::int4_fp8) contents_.read(name + ".weight_scale_2", {at::kFloat}, {});
    } else {
      linear.codes_OI = contents_.read(name + ".weight", {at::kFloat8_e4m3fn}, {s.out_features, s.in_features}).view(at::kByte);
      if (algorithm_ == Algorithm::fp8) scales = contents_.read(scale, {at::kFloat}, {}).expand({s.out_features, 1}).contiguous();
      if (algorithm_ == Algorithm::fp8_by_channel) scales = contents_.read(scale, {at::kFloat}, {s.out_features}).unsqueeze(1);
      if (algorithm_ == Algorithm::fp8_by_block) scales = block_scales(scale, s, groups);
      linear.params.zeros_OG = at::zeros_like(scales);
    }
    linear.params.scales_OG = scales;
    if (has_static_input(algorithm_)) linear.activation_params.scale = contents_.read(name + ".input_scale", {at::kFloat}, {});
    if (s.divisor) linear.online.divisor_I = contents_.read(name + ".pre_quant_scale", {at::kHalf, at::kBFloat16, at::kFloat}, {s.in_features}).to(at::kFloat).reciprocal();
    return linear;
  }

 private:
  void add_linear(const std::string& name) {
    const TensorSpec& weight = contents_.spec(name + ".weight", 2);
    Scheme s{.name = name, .out_features = weight.shape[0] * (is_int4(algorithm_) ? 2 : 1), .in_features = weight.shape[1]};
    if (is_int4(algorithm_)) {
      const std::int64_t groups = contents_.spec(name + ".weight_scale", 2).shape[1];
      if (s.in_features % groups != 0) contents_.refuse(name + ".weight_scale", std::to_string(groups) + " groups do not divide " + std::to_string(s.in_features) + " inputs");
      s.grid.group_size = s.in_features / groups;
      s.divisor = has_pre_quant_scale(name) || contents_.has(name + ".pre_quant_scale");
    } else {
      s.grid.type = GridType::fp8_e4m3;
      s.grid.bits = 8;
      s.grid.granularity = algorithm_ == Algorithm::fp8 ? Granularity::tensor : algorithm_ == Algorithm::fp8_by_channel ? Granularity::channel : Granularity::block;
    }
    s.grid.symmetric = true;
    if (has_static_input(algorithm_))
      s.activation = {.type = GridType::fp8_e4m3, .bits = 8, .granularity = ActivationGranularity::tensor, .dynamic = false};
    if (algorithm_ == Algorithm::fp8_by_channel) s.activation = {.type = GridType::fp8_e4m3, .bits = 8};
    add(std::move(s), {name + ".weight", name + ".weight_scale", name + ".weight_scale_2", name + ".input_scale", name + ".pre_quant_scale"});
  }

  // F32 [rows, 1, columns, 1] of blocks; a single one has no dimensions.
  at::Tensor block_scales(const std::string& name, const Scheme& s, std::int64_t groups) const {
    const std::int64_t rows = (s.out_features + kBlock - 1) / kBlock;
    const bool single = rows * groups == 1 && contents_.specs().at(name).shape.empty();
    const at::Tensor scales = contents_.read(name, {at::kFloat}, single ? std::vector<std::int64_t>{} : std::vector<std::int64_t>{rows, 1, groups, 1});
    return scales.reshape({rows, groups}).repeat_interleave(kBlock, 0).narrow(0, 0, s.out_features).contiguous();
  }

  Algorithm algorithm_;
};

std::unique_ptr<Decoder> open(std::shared_ptr<const TensorSource> source, const nlohmann::json& quantization, const nlohmann::json&, const std::string& where) {
  return std::make_unique<ModeloptDecoder>(std::move(source), quantization, where);
}

}  // namespace

const Format modelopt_format = {.name = "modelopt",
                                .summary = "NVIDIA ModelOpt's, for TensorRT-LLM: FP8 (by tensor, channel, block), int4 AWQ, int4 AWQ with fp8 inputs",
                                .why_not = why_not,
                                .warnings = warnings,
                                .scale_dtype = scale_dtype,
                                .encode = encode,
                                .declare = declare,
                                .recognises = recognises,
                                .open = open,
                                .why_not_together = why_not_together};

}  // namespace miq::format
