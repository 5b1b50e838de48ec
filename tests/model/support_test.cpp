#include "support.h"

#include <ATen/CPUGeneratorImpl.h>

#include <fstream>

namespace miq::model::test {

nlohmann::json tiny_config() {
  return {{"model_type", "llama"},
          {"hidden_size", 32},
          {"intermediate_size", 48},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 64},
          {"max_position_embeddings", 128},
          {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"},
          {"eos_token_id", 2},
          {"bos_token_id", 1},
          {"tie_word_embeddings", false},
          {"torch_dtype", "float32"}};
}

std::map<std::string, at::Tensor> tiny_tensors(const nlohmann::json& config, at::ScalarType dtype, std::uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  std::map<std::string, at::Tensor> tensors;
  const std::string type = config.at("model_type");
  const std::int64_t hidden = config.at("hidden_size"), inner = config.at("intermediate_size"),
                     vocab = config.at("vocab_size"), heads = config.at("num_attention_heads");
  const std::int64_t kv = config.value("num_key_value_heads", heads), dim = config.value("head_dim", hidden / heads);
  const auto add = [&](const std::string& name, at::IntArrayRef shape) {
    // Norm weights near 1; matrices that keep the variance of their input.
    const bool norm = name.find("norm") != std::string::npos;
    const at::Tensor noise = at::randn(shape, generator, at::kFloat);
    const double gain = shape.size() == 2 ? 1 / std::sqrt(static_cast<double>(shape[1])) : 0.2;
    tensors[name + (name.find(".bias") == std::string::npos ? ".weight" : "")] =
        (noise * gain + (norm ? 1 : 0)).to(dtype);
  };
  add("model.embed_tokens", {vocab, hidden});
  add("model.norm", {hidden});
  if (!config.value("tie_word_embeddings", false)) add("lm_head", {vocab, hidden});
  const bool qkv_bias = type == "qwen2" || config.value("attention_bias", false);
  for (std::int64_t l = 0; l < config.at("num_hidden_layers"); ++l) {
    const std::string p = "model.layers." + std::to_string(l) + ".";
    add(p + "input_layernorm", {hidden});
    add(p + "post_attention_layernorm", {hidden});
    const std::vector<std::tuple<std::string, std::int64_t, std::int64_t, bool>> linears = {
        {"self_attn.q_proj", heads * dim, hidden, qkv_bias},
        {"self_attn.k_proj", kv * dim, hidden, qkv_bias},
        {"self_attn.v_proj", kv * dim, hidden, qkv_bias},
        {"self_attn.o_proj", hidden, heads * dim, config.value("attention_bias", false)},
        {"mlp.gate_proj", inner, hidden, config.value("mlp_bias", false)},
        {"mlp.up_proj", inner, hidden, config.value("mlp_bias", false)},
        {"mlp.down_proj", hidden, inner, config.value("mlp_bias", false)}};
    for (const auto& [name, out, in, bias] : linears) {
      add(p + name, {out, in});
      if (bias) add(p + name + ".bias", {out});
    }
    if (type == "qwen3") {
      add(p + "self_attn.q_norm", {dim});
      add(p + "self_attn.k_norm", {dim});
    }
  }
  return tensors;
}

void write_model(const std::filesystem::path& folder, const nlohmann::json& config,
                 const std::map<std::string, at::Tensor>& tensors) {
  std::ofstream(folder / "config.json") << config.dump(1);
  save_safetensors(folder / "model.safetensors", tensors);
}

}  // namespace miq::model::test
