// The mixes of llama-quantize. Source: llama.cpp src/llama-quant.cpp (llama_tensor_get_type), told in docs; without importance
// matrices, and without the IQ types.
#include "gguf_types.h"

#include <cstdlib>

#include "miq/core/error.h"
#include "miq/format/gguf.h"

namespace miq::format {
namespace {

constexpr GgufMix kMixes[] = {
    {"f32", 0, kGgmlF32},      {"f16", 1, kGgmlF16},      {"bf16", 32, kGgmlBf16},   {"q8_0", 7, kGgmlQ8_0},    {"q4_0", 2, kGgmlQ4_0},
    {"q4_1", 3, kGgmlQ4_1},    {"q5_0", 8, kGgmlQ5_0},    {"q5_1", 9, kGgmlQ5_1},    {"q2_k", 10, kGgmlQ2_K},   {"q3_k_s", 11, kGgmlQ3_K},
    {"q3_k_m", 12, kGgmlQ3_K}, {"q3_k_l", 13, kGgmlQ3_K}, {"q4_k_s", 14, kGgmlQ4_K}, {"q4_k_m", 15, kGgmlQ4_K}, {"q5_k_s", 16, kGgmlQ5_K},
    {"q5_k_m", 17, kGgmlQ5_K}, {"q6_k", 18, kGgmlQ6_K},
};

// The first and last eighth of the layers, and every third between.
bool use_more_bits(std::int64_t layer, std::int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

std::int64_t layer_of(const std::string& name) { return name.rfind("blk.", 0) == 0 ? std::atoll(name.c_str() + 4) : 0; }

std::int32_t value_type(const std::string& mix, std::int32_t type, std::int64_t layer, const GgufFacts& facts) {
  if (mix == "q2_k") type = facts.heads_per_kv_head >= 4 ? kGgmlQ4_K : kGgmlQ3_K;
  if (mix == "q3_k_m") type = layer < 2 ? kGgmlQ5_K : kGgmlQ4_K;
  if (mix == "q3_k_l") type = kGgmlQ5_K;
  if ((mix == "q4_k_m" || mix == "q5_k_m") && use_more_bits(layer, facts.layers)) type = kGgmlQ6_K;
  if (mix == "q4_k_s" && layer < 4) type = kGgmlQ5_K;
  const bool is_70b = facts.layers == 80 && facts.heads_per_kv_head == 8;  // v is small beside q there
  if (is_70b && (type == kGgmlQ3_K || type == kGgmlQ4_K)) type = kGgmlQ5_K;
  return facts.experts == 8 ? static_cast<std::int32_t>(kGgmlQ8_0) : type;
}

std::int32_t down_type(const std::string& mix, std::int32_t type, std::int64_t layer, const GgufFacts& facts) {
  if (mix == "q2_k") return kGgmlQ3_K;
  if (mix == "q3_k_m") return layer < facts.layers / 16 ? kGgmlQ5_K : kGgmlQ4_K;
  if (mix == "q3_k_l") return kGgmlQ5_K;
  if ((mix == "q4_k_m" || mix == "q5_k_m") && use_more_bits(layer, facts.layers)) return kGgmlQ6_K;
  if (mix == "q4_k_s" && layer < facts.layers / 8) return kGgmlQ5_K;
  return type;
}

std::int32_t attention_output_type(const std::string& mix, std::int32_t type, const GgufFacts& facts) {
  if (facts.experts == 8)
    return mix == "q2_k" || mix == "q3_k_s" || mix == "q3_k_m" || mix == "q4_k_s" || mix == "q4_k_m" ? static_cast<std::int32_t>(kGgmlQ5_K) : type;
  if (mix == "q2_k") return kGgmlQ3_K;
  if (mix == "q3_k_m") return kGgmlQ4_K;
  if (mix == "q3_k_l") return kGgmlQ5_K;
  return type;
}

}  // namespace

std::vector<std::string> gguf_variants() {
  std::vector<std::string> names;
  for (const GgufMix& mix : kMixes) names.emplace_back(mix.name);
  return names;
}

GgufVariant find_gguf_variant(const std::string& name) {
  constexpr std::string_view kPure = "-pure";
  const bool pure = name.ends_with(kPure);
  const std::string own = pure ? name.substr(0, name.size() - kPure.size()) : name;
  for (const GgufMix& mix : kMixes)
    if (own == mix.name) return {&mix, pure};
  std::string known;
  for (const GgufMix& mix : kMixes) known += std::string(known.empty() ? "" : ", ") + mix.name;
  const std::string near = nearest_name(own, gguf_variants());
  throw Error(ErrorKind::config, "unknown GGUF type or mix '" + name + "'", "export.variant", (near.empty() ? "" : "did you mean " + near + "? ") + "known: " + known);
}

std::uint32_t gguf_file_type(std::int32_t type) {
  if (type == kGgmlQ3_K || type == kGgmlQ4_K || type == kGgmlQ5_K) return type == kGgmlQ3_K ? 12 : type == kGgmlQ4_K ? 15 : 17;
  for (const GgufMix& mix : kMixes)
    if (mix.type == type) return mix.file_type;
  return 0;
}

GgufFacts gguf_facts(const GgufMetadata& metadata) {
  GgufFacts facts;
  std::int64_t heads = 1, kv_heads = 0;
  for (const auto& [key, value] : metadata) {
    const auto* const number = std::get_if<std::uint32_t>(&value);
    if (number == nullptr) continue;
    if (key.ends_with(".block_count")) facts.layers = *number;
    if (key.ends_with(".attention.head_count")) heads = *number;
    if (key.ends_with(".attention.head_count_kv")) kv_heads = *number;
    if (key.ends_with(".expert_count")) facts.experts = *number;
  }
  facts.heads_per_kv_head = kv_heads > 0 ? heads / kv_heads : 1;
  return facts;
}

bool gguf_stays_float(const std::string& name, const std::vector<std::int64_t>& shape) {
  return shape.size() < 2 || name.find("ffn_gate_inp.") != std::string::npos;
}

std::int32_t gguf_fallback(std::int32_t type, std::int64_t columns) {
  if (columns % ggml_block_values(type) == 0) return type;
  switch (type) {
    case kGgmlQ2_K:
    case kGgmlQ3_K: type = kGgmlQ4_0; break;
    case kGgmlQ4_K: type = kGgmlQ5_0; break;
    case kGgmlQ5_K: type = kGgmlQ5_1; break;
    case kGgmlQ6_K: type = kGgmlQ8_0; break;
    default: type = kGgmlF16;
  }
  return columns % ggml_block_values(type) == 0 ? type : static_cast<std::int32_t>(kGgmlF16);
}

std::int32_t gguf_mix_type(const GgufVariant& version, const std::string& name, const std::vector<std::int64_t>& shape, const GgufFacts& facts) {
  if (gguf_stays_float(name, shape)) return kGgmlF32;
  const std::string mix = version.mix->name;
  std::int32_t type = version.mix->type;
  if (ggml_block_values(type) == 1) return type;
  const std::int64_t layer = layer_of(name);
  const auto is = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (version.pure) {
  } else if (name == "output.weight" || (!facts.has_output && name == "token_embd.weight")) {
    // Q6_K serves every mix's head; where its rows do not fit, Q8_0.
    type = type == kGgmlQ8_0 || shape.back() % ggml_block_values(type) != 0 ? kGgmlQ8_0 : kGgmlQ6_K;
  } else if (is("attn_v.weight")) {
    type = value_type(mix, type, layer, facts);
  } else if (is("attn_k.weight") && facts.experts == 8) {
    type = kGgmlQ8_0;
  } else if (is("ffn_down")) {
    type = down_type(mix, type, layer, facts);
  } else if (is("attn_output.weight")) {
    type = attention_output_type(mix, type, facts);
  }
  return gguf_fallback(type, shape.back());
}

}  // namespace miq::format
