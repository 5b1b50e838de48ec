// A tiny random checkpoint of every family, made from its config.json alone.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "miq/core/safetensors.h"
#include "miq/model/language_model.h"

namespace miq::test {

/// name -> config.json. Families that come in kinds (Baichuan) have an entry for each. float32, vocabulary 96.
inline std::map<std::string, nlohmann::json> tiny_configs() {
  const nlohmann::json base = {{"hidden_size", 64},          {"intermediate_size", 96},  {"num_hidden_layers", 2},
                               {"num_attention_heads", 4},   {"num_key_value_heads", 2}, {"vocab_size", 96},
                               {"max_position_embeddings", 128}, {"rms_norm_eps", 1e-5}, {"hidden_act", "silu"},
                               {"bos_token_id", 1},          {"eos_token_id", 2},        {"torch_dtype", "float32"}};
  const auto with = [&](nlohmann::json config, const nlohmann::json& more) {
    config.update(more);
    return config;
  };
  std::map<std::string, nlohmann::json> all;
  all["llama"] = with(base, {{"model_type", "llama"}});
  all["mistral"] = with(base, {{"model_type", "mistral"}, {"sliding_window", 20}, {"head_dim", 32}});
  all["mixtral"] = with(base, {{"model_type", "mixtral"}, {"num_local_experts", 4}, {"num_experts_per_tok", 2}, {"intermediate_size", 64}});
  all["qwen2"] = with(base, {{"model_type", "qwen2"}, {"tie_word_embeddings", true}});
  all["qwen3"] = with(base, {{"model_type", "qwen3"}, {"head_dim", 32}});
  all["qwen3_moe"] = with(base, {{"model_type", "qwen3_moe"}, {"head_dim", 16}, {"num_experts", 6}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 32},
                                 {"norm_topk_prob", true}, {"num_hidden_layers", 3}, {"mlp_only_layers", {1}}});
  nlohmann::json baichuan = base;
  baichuan.erase("num_key_value_heads");
  all["baichuan"] = with(baichuan, {{"model_type", "baichuan"}, {"architectures", {"BaiChuanForCausalLM"}}});
  baichuan.erase("max_position_embeddings");
  all["baichuan_alibi"] = with(baichuan, {{"model_type", "baichuan"}, {"architectures", {"BaichuanForCausalLM"}}, {"model_max_length", 128},
                                          {"tokenizer_class", "BaichuanTokenizer"}, {"hidden_size", 96}, {"num_attention_heads", 6}});
  all["chatglm"] = {{"model_type", "chatglm"}, {"hidden_size", 64}, {"ffn_hidden_size", 96}, {"num_layers", 2}, {"num_attention_heads", 4}, {"kv_channels", 16},
                    {"multi_query_attention", true}, {"multi_query_group_num", 2}, {"padded_vocab_size", 96}, {"seq_length", 128}, {"layernorm_epsilon", 1e-5},
                    {"add_qkv_bias", true}, {"add_bias_linear", false}, {"rmsnorm", true}, {"post_layer_norm", true}, {"eos_token_id", 2}, {"torch_dtype", "float32"}};
  all["glm"] = with(base, {{"model_type", "glm"}, {"attention_bias", true}, {"partial_rotary_factor", 0.5}, {"head_dim", 16}});
  all["glm4"] = with(all["glm"], {{"model_type", "glm4"}});
  return all;
}

/// Writes config.json and model.safetensors into `folder`. Norm weights near 1, a few of them large (outliers);
/// matrices that keep the variance of their input.
inline void write_tiny_model(const std::filesystem::path& folder, const nlohmann::json& config, std::uint64_t seed = 1) {
  std::ofstream(folder / "config.json") << config.dump(1);
  const auto a = std::make_shared<const model::Architecture>(model::read_architecture(folder));
  at::Generator generator = at::detail::createCPUGenerator(seed);
  std::map<std::string, at::Tensor> tensors;
  const auto norm = [&](const std::string& name, std::int64_t size) {
    tensors[name] = at::randn({size}, generator, at::kFloat) * 0.2 + 1;
    tensors[name].narrow(0, size / 3, 2).mul_(4);
  };
  const auto matrix = [&](const std::string& name, std::int64_t out, std::int64_t in) {
    tensors[name] = at::randn({out, in}, generator, at::kFloat) / std::sqrt(static_cast<double>(in));
  };
  matrix(a->embedding + ".weight", a->vocab_size, a->hidden_size);
  tensors[a->embedding + ".weight"].mul_(std::sqrt(static_cast<double>(a->hidden_size)));
  norm(a->final_norm + ".weight", a->hidden_size);
  if (!a->tie_word_embeddings) matrix(a->head + ".weight", a->vocab_size, a->hidden_size);
  for (std::int64_t l = 0; l < a->num_layers; ++l) {
    for (const model::NormPlace& place : norm_places(*a, l)) norm(place.name, place.size);
    if (a->is_sparse(l)) {  // decided: a near tie would flip with any rounding
      matrix(a->block_name(l) + a->names.router + ".weight", a->experts.count, a->hidden_size);
      tensors[a->block_name(l) + a->names.router + ".weight"].mul_(8);
    }
    model::Block block(a, l);
    for (const model::Linear* linear : block.linears()) {
      matrix(linear->name + ".weight", linear->out_features, linear->in_features);
      if (linear->biased) tensors[linear->name + ".bias"] = at::randn({linear->out_features}, generator, at::kFloat) * 0.1;
    }
  }
  save_safetensors(folder / "model.safetensors", tensors);
}

}  // namespace miq::test
