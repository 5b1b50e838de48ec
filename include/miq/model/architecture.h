// A decoder described by data (DESIGN section 4): what a family's file fills in from config.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace miq::model {

enum class RopeScaling { none, linear, llama3, yarn };

/// Rotary positions, half-split pairs (x[k], x[k + d/2]).
struct Rope {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  double beta_fast = 32,
         beta_slow =
             1;  ///< yarn: rotations over the original context above which a frequency stays, below which it is divided
  double attention_factor = 1;  ///< yarn: cos and sin are multiplied by it
  std::int64_t original_max_position_embeddings = 0;
  std::int64_t max_positions = 0;  ///< 0: no limit. Dynamic NTK scaling is none up to here, and not supported beyond
};

/// Names of a block's tensors, relative to the block's prefix.
struct BlockNames {
  std::string input_norm = "input_layernorm", post_attention_norm = "post_attention_layernorm";
  std::string q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", o = "self_attn.o_proj";
  std::string gate = "mlp.gate_proj", up = "mlp.up_proj", down = "mlp.down_proj";
  std::string q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";
};

struct Architecture {
  std::string family;  ///< "llama", "mistral", "qwen2", "qwen3"
  std::int64_t hidden_size = 0, intermediate_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  std::int64_t vocab_size = 0, max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  Rope rope;
  std::vector<std::int64_t> sliding_window;  ///< per layer, 0 = none; empty = none anywhere
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;  ///< RMSNorm over head_dim on q and k before rope
  bool tie_word_embeddings = false;
  std::optional<std::int64_t> bos_token_id;
  std::vector<std::int64_t> eos_token_ids;
  std::string torch_dtype = "float32";  ///< as config.json states it

  std::string embedding = "model.embed_tokens", final_norm = "model.norm", head = "lm_head";
  std::string block_prefix = "model.layers.";  ///< followed by the index and a dot
  BlockNames names;

  std::string block_name(std::int64_t layer) const { return block_prefix + std::to_string(layer) + "."; }
  /// The block's linears in true-sequential stages, relative names: {{q,k,v},{o},{gate,up},{down}}.
  std::vector<std::vector<std::string>> stages() const;
};

/// Reads `folder`/config.json (and generation_config.json's eos) through the family that its
/// model_type names. `family` overrides model_type unless "auto".
/// @throws Error{io} missing or malformed, Error{unsupported} for an unknown family or feature (the
/// known ones are listed), Error{config} for values that contradict each other.
Architecture read_architecture(const std::filesystem::path& folder, const std::string& family = "auto");

/// Names in families.def.
std::vector<std::string> family_names();

}  // namespace miq::model
