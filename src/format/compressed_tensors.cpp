// compressed-tensors (llm-compressor, vLLM): packed integers, int8, fp8, with or without quantized activations, each linear
// its own. Sources: compressed-tensors 0.19 compressors/{pack_quantized,naive_quantized}, quantization/; the zero points are
// packed along the output.
#include "compressed_tensors.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "formats.h"

namespace miq::format {
namespace ct {

using quantizer::Activation;
using quantizer::ActivationGranularity;
using quantizer::Granularity;
using quantizer::GridType;
using quantizer::QuantizedLinear;
using Json = nlohmann::ordered_json;

Storage storage_of(const Scheme& s) {
  if (s.grid.is_fp8()) return Storage::floats;
  return s.activation.enabled() && s.activation.type == GridType::integer ? Storage::integers : Storage::packed;
}

std::string strategy_of(const Scheme& s) {
  const bool packed = storage_of(s) == Storage::packed;  // rows only: those of a tensor or a block repeat their scale
  switch (s.grid.granularity) {
    case Granularity::tensor:
      return packed ? "channel" : "tensor";
    case Granularity::channel:
      return "channel";
    case Granularity::group:
      return "group";
    case Granularity::block:
      return packed ? "group" : "block";
  }
  return "";
}

namespace {

const char* layout_of(const Scheme& s) {
  switch (storage_of(s)) {
    case Storage::packed:
      return "pack-quantized";
    case Storage::integers:
      return "int-quantized";
    case Storage::floats:
      return s.activation.enabled() ? "float-quantized" : "naive-quantized";
  }
  return "";
}

Json activation_args(const Activation& a) {
  if (!a.enabled()) return nullptr;
  const char* strategy = a.granularity == ActivationGranularity::tensor  ? "tensor"
                         : a.granularity == ActivationGranularity::token ? "token"
                                                                         : "group";
  Json args = {{"num_bits", a.bits},
               {"type", a.type == GridType::integer ? "int" : "float"},
               {"symmetric", a.symmetric},
               {"strategy", strategy},
               {"group_size", a.granularity == ActivationGranularity::group ? Json(a.group_size) : Json()},
               {"block_structure", nullptr},
               {"dynamic", a.dynamic},
               {"actorder", nullptr},
               {"observer", a.dynamic ? Json() : Json("minmax")},
               {"observer_kwargs", Json::object()}};
  if (!a.symmetric) args["zp_dtype"] = "torch.int8";
  return args;
}

Json weight_args(const Scheme& s) {
  const std::string strategy = strategy_of(s);
  Json args = {{"num_bits", s.grid.bits},
               {"type", s.grid.is_integer() ? "int" : "float"},
               {"symmetric", s.grid.is_fp8() || s.grid.symmetric},
               {"strategy", strategy},
               {"group_size", strategy == "group" ? Json(s.grid.group_size) : Json()},
               {"block_structure", strategy == "block" ? Json::array({s.grid.group_size, s.grid.group_size}) : Json()},
               {"dynamic", false},
               {"actorder", nullptr},
               {"observer", "minmax"},
               {"observer_kwargs", Json::object()}};
  if (s.grid.is_integer() && !s.grid.symmetric) args["zp_dtype"] = "torch.int8";
  return args;
}

std::optional<std::string> why_not(const Scheme& s, const FormatOptions&) {
  if (auto reason = why_not_plain(s, "compressed-tensors")) return reason;
  if (s.group_of_column) return "compressed-tensors has no groups other than runs of columns; gptq and miq can";
  if (s.grid.type == GridType::fp8_e5m2) return "compressed-tensors holds fp8 of kind e4m3, not e5m2; miq and dequantized can";
  const Activation& a = s.activation;
  if (a.enabled()) {
    if (a.type == GridType::fp8_e5m2) return "compressed-tensors quantizes activations to fp8 of kind e4m3, not e5m2; miq can";
    if (a.type == GridType::integer && s.grid.is_fp8()) return "compressed-tensors has no fp8 weights with integer activations; miq can";
    if (!a.dynamic && a.granularity != ActivationGranularity::tensor) return "compressed-tensors has static activations per tensor only; miq can";
    if (a.granularity == ActivationGranularity::group && s.in_features % a.group_size != 0)
      return "compressed-tensors has no shorter last group of activations; miq can";
  }
  if (s.grid.granularity != Granularity::block && is_ragged(s)) return "compressed-tensors has no shorter last group; miq and dequantized can";
  if (storage_of(s) == Storage::packed && is_ragged(s))
    return "compressed-tensors has no shorter last block of packed integers; miq and dequantized can";
  return std::nullopt;
}

// One row of scales (zeros) for each that is stored.
at::Tensor stored_rows(const at::Tensor& values_OG, const Scheme& s) {
  const std::string strategy = strategy_of(s);
  if (strategy == "tensor") return values_OG.narrow(0, 0, 1).reshape({1}).contiguous();
  if (strategy == "block") return values_OG.index_select(0, at::arange(0, s.out_features, s.grid.group_size, at::kLong));
  return values_OG.contiguous();
}

at::Tensor signed_codes(const at::Tensor& codes, int bits) { return codes.to(at::kShort).sub_(1 << (bits - 1)).to(at::kChar); }

// Its own type if the value is one of it, else float32.
at::Tensor input_scale(const NamedLinear& named) {
  const at::Tensor scale = named.linear->activation_params.scale;
  if (!scale.defined()) throw Error(ErrorKind::internal, "a static activation range was not calibrated", named.name);
  const at::Tensor exact = scale.to(at::kFloat).reshape({1});
  return exact.to(holds(named.linear->grid.scale_dtype, exact) ? named.linear->grid.scale_dtype : at::kFloat);
}

// Weights alone, a byte for each code, where the variant asks for that.
bool is_naive(const Scheme& s, const FormatOptions& options) { return options.variant == "naive" && storage_of(s) == Storage::packed && !s.activation.enabled(); }

void encode_linear(const NamedLinear& named, const FormatOptions& options, std::vector<NamedTensor>& out) {
  const QuantizedLinear& linear = *named.linear;
  const Scheme s = scheme_of(named.name, linear);
  const int bits = s.grid.bits;
  const auto put = [&](const char* end, const at::Tensor& tensor) { out.push_back({named.name + end, tensor}); };
  const Storage storage = is_naive(s, options) ? Storage::integers : storage_of(s);
  put(".weight_scale", stored_rows(stored_scales(named, s.grid.scale_dtype), s));
  if (storage == Storage::floats) {
    put(".weight", linear.codes_OI.contiguous().view(at::kFloat8_e4m3fn));
  } else {
    const at::Tensor zeros_OG = stored_zeros(named);
    if (s.grid.symmetric && !zeros_OG.eq(1 << (bits - 1)).all().item<bool>())
      throw Error(ErrorKind::unsupported, "compressed-tensors has no zero points other than the middle for symmetric grids", named.name,
                  "export to miq or dequantized");
    if (storage == Storage::packed) {
      put(".weight_packed", pack_bits(linear.codes_OI, bits));
      put(".weight_shape", at::tensor({s.out_features, s.in_features}, at::kLong));
      if (!s.grid.symmetric) put(".weight_zero_point", pack_bits(zeros_OG.t(), bits).t().contiguous());
    } else {
      put(".weight", signed_codes(linear.codes_OI, bits));
      if (!s.grid.symmetric) put(".weight_zero_point", stored_rows(signed_codes(zeros_OG, bits), s));
    }
  }
  if (s.activation.enabled() && !s.activation.dynamic) {
    put(".input_scale", input_scale(named));
    if (!s.activation.symmetric) put(".input_zero_point", linear.activation_params.zero.reshape({1}).to(at::kChar));
  }
}

std::vector<NamedTensor> encode(const std::vector<NamedLinear>& linears, const FormatOptions& options) {
  std::vector<NamedTensor> out;
  for (const NamedLinear& named : linears) encode_linear(named, options, out);
  std::set<std::string> own;
  for (NamedTensor& matrix : encode_rotations(linears, options.stored_rotations ? *options.stored_rotations : own)) out.push_back(std::move(matrix));
  return out;
}

void declare(const std::vector<Scheme>& schemes, const std::vector<std::string>& kept, const FormatOptions& options, Declaration& declaration) {
  std::vector<Json> groups;
  for (const Scheme& s : schemes) {
    Json own = declared_group_of(s);
    if (is_naive(s, options)) own["format"] = "naive-quantized";
    auto group = std::find_if(groups.begin(), groups.end(), [&](const Json& g) {
      return g.at("format") == own.at("format") && g.at("weights") == own.at("weights") && g.at("input_activations") == own.at("input_activations");
    });
    if (group == groups.end()) {
      groups.push_back(own);
      groups.back()["targets"] = Json::array();
      group = groups.end() - 1;
    }
    group->at("targets").push_back(s.name);
  }
  if (groups.size() == 1) groups.front()["targets"] = Json::array({"Linear"});
  Json ignore = kept;
  // A head is a Linear to these readers even when it is the embedding's matrix.
  const bool head =
      std::any_of(schemes.begin(), schemes.end(), [](const Scheme& s) { return is_head(s.name); }) || std::any_of(kept.begin(), kept.end(), is_head);
  if (!head) ignore.push_back("lm_head");
  Json config = {{"quant_method", "compressed-tensors"},
                 {"version", "0.17.0"},  // the first whose packing this is
                 {"format", groups.size() == 1 ? groups.front().at("format") : Json("mixed-precision")},
                 {"quantization_status", "compressed"},
                 {"global_compression_ratio", nullptr},
                 {"ignore", ignore},
                 {"kv_cache_scheme", options.kv_cache_scheme},
                 {"sparsity_config", Json::object()},
                 {"transform_config", declare_rotations(schemes)}};
  for (size_t i = 0; i < groups.size(); ++i) config["config_groups"]["group_" + std::to_string(i)] = groups[i];
  declaration.config["quantization_config"] = config;
}

bool recognises(const nlohmann::json& q) {
  const auto method = q.is_object() ? q.find("quant_method") : q.end();
  return method != q.end() && (*method == "compressed-tensors" || *method == "compressed_tensors");
}

}  // namespace

Json declared_group_of(const Scheme& s) {
  return {{"targets", Json::array()},
          {"format", layout_of(s)},
          {"weights", weight_args(s)},
          {"input_activations", activation_args(s.activation)},
          {"output_activations", nullptr}};
}

}  // namespace ct

const Format compressed_tensors_format = {
    .name = "compressed-tensors",
    .summary = "compressed-tensors (llm-compressor, vLLM): 2 to 8 bits and fp8, activations, mixed schemes, rotations",
    .why_not = ct::why_not,
    .warnings = ct::warnings,
    .scale_dtype = [](const quantizer::Grid&, const FormatOptions& options) { return options.model_dtype; },
    .encode = ct::encode,
    .declare = ct::declare,
    .recognises = ct::recognises,
    .open = ct::open,
    .variants = {"naive"},
};

}  // namespace miq::format
