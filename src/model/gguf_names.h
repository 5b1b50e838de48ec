// What GGUF files call the parts of our families: one table for reading and writing.
// Source: llama.cpp convert_hf_to_gguf.py, gguf-py/gguf/tensor_mapping.py.
#pragma once

#include <string>
#include <utility>

#include "miq/model/architecture.h"

namespace miq::model {

struct GgufFamily {
  const char* architecture;
  const char* family;
  const char* class_name;  ///< transformers' `architectures`
  bool permuted;           ///< rows of q and k stand in the order of interleaved rotation
  bool experts;
};
inline constexpr GgufFamily kGgufFamilies[] = {
    {"llama", "llama", "LlamaForCausalLM", true, false},
    {"llama", "mistral", "MistralForCausalLM", true, false},
    {"llama", "mixtral", "MixtralForCausalLM", true, true},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", false, false},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", false, false},
    {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", false, true},
};

/// Parts of a block: GGUF's name and ours.
inline constexpr std::pair<const char*, std::string BlockNames::*> kGgufBlockParts[] = {
    {"attn_norm", &BlockNames::input_norm}, {"ffn_norm", &BlockNames::post_attention_norm},
    {"attn_q", &BlockNames::q},             {"attn_k", &BlockNames::k},
    {"attn_v", &BlockNames::v},             {"attn_output", &BlockNames::o},
    {"attn_q_norm", &BlockNames::q_norm},   {"attn_k_norm", &BlockNames::k_norm},
    {"ffn_gate", &BlockNames::gate},        {"ffn_up", &BlockNames::up},
    {"ffn_down", &BlockNames::down},        {"ffn_gate_inp", &BlockNames::router},
};
/// Parts of an expert: all experts of a block are one tensor.
inline constexpr std::pair<const char*, std::string BlockNames::*> kGgufExpertParts[] = {
    {"ffn_gate_exps", &BlockNames::expert_gate}, {"ffn_up_exps", &BlockNames::expert_up}, {"ffn_down_exps", &BlockNames::expert_down}};

}  // namespace miq::model
