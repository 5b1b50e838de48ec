// ChatGLM2, ChatGLM3 and GLM-4 in the layout of their first release: fused q,k,v and gate,up, rotation of
// interleaved pairs on the first half of each head. Source: THUDM's modeling_chatglm.py of each model.
#include "../families.h"

namespace miq::model {
namespace {

// What all releases have alike, and the decoder builds on.
void check_fixed(const ConfigJson& config) {
  if (config.has("inner_hidden_size"))
    config.unsupported("inner_hidden_size", "is there: ChatGLM-6B of the first generation (2D positions, a prefix that sees itself) is not supported");
  const std::pair<const char*, bool> fixed[] = {{"apply_residual_connection_post_layernorm", false}, {"post_layer_norm", true}, {"rmsnorm", true}, {"add_bias_linear", false}};
  for (const auto& [key, value] : fixed)
    if (config.flag(key, value) != value) config.unsupported(key, value ? "false is not supported" : "true is not supported");
}

}  // namespace

Architecture family_chatglm(const ConfigJson& config) {
  check_fixed(config);
  std::map<std::string, std::string> keys = {{"num_hidden_layers", "num_layers"},     {"intermediate_size", "ffn_hidden_size"},
                                             {"rms_norm_eps", "layernorm_epsilon"},   {"vocab_size", "padded_vocab_size"},
                                             {"max_position_embeddings", "seq_length"}, {"head_dim", "kv_channels"}};
  if (config.flag("multi_query_attention", false)) keys["num_key_value_heads"] = "multi_query_group_num";
  Architecture a = read_common(config.with_keys(keys), 0.5);
  a.rope.interleaved = true;
  a.rope.theta *= config.positive("rope_ratio", 1);
  a.qkv_bias = config.flag("add_qkv_bias", false);
  a.embedding = "transformer.embedding.word_embeddings";
  a.final_norm = "transformer.encoder.final_layernorm";
  a.head = "transformer.output_layer";
  a.block_prefix = "transformer.encoder.layers.";
  a.names.qkv = "self_attention.query_key_value";
  a.names.o = "self_attention.dense";
  a.names.gate_up = "mlp.dense_h_to_4h";
  a.names.down = "mlp.dense_4h_to_h";
  return a;
}

}  // namespace miq::model
