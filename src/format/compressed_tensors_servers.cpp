// What servers refuse of compressed-tensors. Sources: vLLM 0.33 compressed_tensors.py and schemes/, SGLang 0.5.23
// compressed_tensors, TensorRT-LLM _torch/model_config.py@008e0af, llama.cpp convert_hf_to_gguf.py.
#include <algorithm>

#include "compressed_tensors.h"

namespace miq::format::ct {
namespace {

using quantizer::ActivationGranularity;
using quantizer::Granularity;
using quantizer::GridType;
using Reason = std::optional<std::string>;

bool int8_activations(const Scheme& s) { return s.activation.enabled() && s.activation.type == GridType::integer; }
bool dynamic_token(const Scheme& s) { return s.activation.dynamic && s.activation.granularity == ActivationGranularity::token; }
bool has_common_group(const Scheme& s) {
  const std::int64_t group = declared_group(s);
  return group == -1 || group == 32 || group == 64 || group == 128;
}
std::string bits_text(const Scheme& s) { return "has " + std::to_string(s.grid.bits) + " bits"; }

Reason vllm_refuses(const Scheme& s) {
  const std::string strategy = strategy_of(s);
  switch (storage_of(s)) {
    case Storage::packed:
      if (!s.activation.enabled()) return std::nullopt;
      return s.grid.bits == 4 && s.grid.symmetric && strategy == "group" && s.grid.group_size == 128 && dynamic_token(s)
                 ? Reason()
                 : "has fp8 activations and a weight other than symmetric 4 bits in groups of 128";
    case Storage::integers:
      if (s.activation.bits != 8) return "has activations of " + std::to_string(s.activation.bits) + " bits";
      if (!s.grid.symmetric) return "has an asymmetric weight with integer activations";
      if (!dynamic_token(s) && s.activation.dynamic) return "has dynamic activations that are not per token";
      if (s.activation.dynamic && !s.activation.symmetric) return "has dynamic activations that are asymmetric";
      if (s.grid.bits == 4 && s.activation.dynamic) return std::nullopt;  // on processors
      if (s.grid.bits != 8) return bits_text(s) + " with integer activations";
      return strategy == "channel" || strategy == "tensor" ? Reason() : "has integer activations and a weight in groups";
    case Storage::floats:
      return strategy == "group" ? Reason("has fp8 in groups of columns") : std::nullopt;
  }
  return std::nullopt;
}

void warn_of_rotated_outputs(std::vector<std::string>& out, const std::vector<Scheme>& schemes) {
  std::map<std::string, const Scheme*> first;
  warn_first(out, "vLLM cannot load rotations that differ between the outputs of q, k, v or gate, up", schemes, [&](const Scheme& s) -> Reason {
    const std::string fused = fused_name(s.name);
    if (fused.empty()) return std::nullopt;
    const Scheme& mate = *first.emplace(fused, &s).first->second;
    return mate.output_rotation == s.output_rotation ? Reason() : "has another than " + mate.name;
  });
}

}  // namespace

std::vector<std::string> warnings(const std::vector<Scheme>& schemes, const FormatOptions&) {
  std::vector<std::string> out;
  warn_first(out, "vLLM refuses these schemes", schemes, vllm_refuses);
  warn_first(out, "vLLM needs its optional package humming", schemes, [](const Scheme& s) -> Reason {
    if (storage_of(s) != Storage::packed || s.activation.enabled()) return std::nullopt;
    if (s.grid.bits != 4 && s.grid.bits != 8) return bits_text(s);
    if (s.grid.bits == 8 && !s.grid.symmetric) return "has 8 bits, asymmetric";
    return has_common_group(s) ? Reason() : "has groups of " + std::to_string(declared_group(s));
  });
  warn_first(out, "vLLM serves integers with fp8 activations on Hopper GPUs only", schemes, [](const Scheme& s) -> Reason {
    return storage_of(s) == Storage::packed && s.activation.enabled() && !vllm_refuses(s) ? Reason("is one") : std::nullopt;
  });
  warn_first(out, "vLLM serves 4-bit weights with int8 activations on CPU and XPU only", schemes, [](const Scheme& s) -> Reason {
    return storage_of(s) == Storage::integers && s.grid.bits == 4 && !vllm_refuses(s) ? Reason("is one") : std::nullopt;
  });
  warn_of_fused(out, schemes, [](const Scheme& a, const Scheme& b) {
    return declared_group_of(a) == declared_group_of(b) && a.input_rotation == b.input_rotation;
  });
  warn_of_rotated_outputs(out, schemes);
  warn_first(out, "vLLM needs whole blocks of outputs in q, k, v and gate, up", schemes, [](const Scheme& s) -> Reason {
    if (strategy_of(s) != "block" || fused_name(s.name).empty() || s.out_features % s.grid.group_size == 0) return std::nullopt;
    return "has " + std::to_string(s.out_features) + " outputs";
  });
  warn_first(
      out, "vLLM rotates on a single GPU only, and transformers, SGLang, TensorRT-LLM and llama.cpp silently compute nonsense without the rotations",
      schemes, [](const Scheme& s) -> Reason { return s.rotated_input || s.rotated_output ? Reason("is rotated at run time") : std::nullopt; });
  warn_first(out, "SGLang serves packed weights of 4 and 8 bits only", schemes, [](const Scheme& s) -> Reason {
    return storage_of(s) == Storage::packed && s.grid.bits != 4 && s.grid.bits != 8 ? Reason(bits_text(s)) : std::nullopt;
  });
  warn_first(out, "TensorRT-LLM takes int8 weights with int8 activations for fp8", schemes, [](const Scheme& s) -> Reason {
    return int8_activations(s) && s.grid.bits == 8 && strategy_of(s) == "channel" && dynamic_token(s) ? Reason("is one") : std::nullopt;
  });
  warn_first(out, "TensorRT-LLM serves fp8 only, by channel and token or in blocks of 128", schemes, [](const Scheme& s) -> Reason {
    if (storage_of(s) != Storage::floats) return "is no fp8";
    const bool token = strategy_of(s) == "channel" && dynamic_token(s) && s.activation.enabled();
    const bool block = strategy_of(s) == "block" && s.grid.group_size == 128 && s.activation.granularity == ActivationGranularity::group &&
                       s.activation.group_size == 128;
    return token || block ? Reason() : "has other scales";
  });
  warn_first(out, "llama.cpp converts one scheme, packed 4 or 8 bits in groups or int8 and fp8 by channel or block, without static activations",
             schemes, [&](const Scheme& s) -> Reason {
               if (declared_group_of(s) != declared_group_of(schemes.front())) return "differs from " + schemes.front().name;
               const std::string strategy = strategy_of(s);
               if (storage_of(s) == Storage::packed && strategy != "group") return "is packed by channel";
               if (storage_of(s) == Storage::packed && 32 % s.grid.bits != 0) return bits_text(s);
               if (storage_of(s) != Storage::packed && strategy != "channel" && strategy != "block") return "has scales by " + strategy;
               return s.activation.enabled() && !s.activation.dynamic ? Reason("has static activations") : std::nullopt;
             });
  return out;
}

}  // namespace miq::format::ct
