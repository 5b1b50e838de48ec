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

/// How attention knows positions.
enum class Positions { rope, alibi };
enum class RopeScaling { none, linear, llama3, yarn, factors };

/// Rotary positions of the first `dim` dimensions of a head; the others pass through.
struct Rope {
  std::int64_t dim = 0;      ///< 0: all of head_dim
  bool interleaved = false;  ///< pairs (x[2k], x[2k+1]) instead of (x[k], x[k + dim/2])
  double theta = 10000;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  double beta_fast = 32,
         beta_slow =
             1;  ///< yarn: rotations over the original context above which a frequency stays, below which it is divided
  std::vector<double> factors;  ///< factors: the divisor of each frequency (llama.cpp's rope_freqs)
  double attention_factor = 1;  ///< yarn: cos and sin are multiplied by it
  std::int64_t original_max_position_embeddings = 0;
  std::int64_t max_positions = 0;  ///< 0: no limit. Dynamic NTK scaling is none up to here, and not supported beyond
};

/// Names of a block's tensors, relative to the block's prefix; "" for what a family does not have.
struct BlockNames {
  std::string input_norm = "input_layernorm", post_attention_norm = "post_attention_layernorm";
  std::string q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", o = "self_attn.o_proj";
  std::string qkv;  ///< one linear in place of q, k, v: rows of q, then k, then v
  std::string gate = "mlp.gate_proj", up = "mlp.up_proj", down = "mlp.down_proj";
  std::string gate_up;  ///< one linear in place of gate and up: rows of gate, then up
  std::string q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";
  std::string attention_out_norm, mlp_out_norm;  ///< norms of what attention and MLP add to the residual
  std::string router = "mlp.gate", expert = "mlp.experts.";  ///< `expert` is followed by the index and a dot
  std::string expert_gate = "gate_proj", expert_up = "up_proj", expert_down = "down_proj";
};

/// A mixture of experts: each token goes through the `per_token` experts that the router likes best.
struct Experts {
  std::int64_t count = 0;  ///< 0: every MLP is dense
  std::int64_t per_token = 0, intermediate_size = 0;
  bool normalise = true;           ///< the chosen experts' weights sum to 1
  std::vector<bool> sparse_layer;  ///< which layers have experts; empty = all
};

struct Architecture {
  std::string family;  ///< a name in families.def
  std::int64_t hidden_size = 0, intermediate_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  std::int64_t vocab_size = 0, max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  Positions positions = Positions::rope;
  Rope rope;
  std::vector<std::int64_t> sliding_window;  ///< per layer, 0 = none; empty = none anywhere
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;  ///< RMSNorm over head_dim on q and k before rope
  Experts experts;
  bool tie_word_embeddings = false;
  bool normalised_head = false;  ///< rows of the head are divided by their length (Baichuan 2's NormHead)
  std::optional<std::int64_t> bos_token_id;
  std::vector<std::int64_t> eos_token_ids;
  std::string torch_dtype = "float32";  ///< as config.json states it

  std::string embedding = "model.embed_tokens", final_norm = "model.norm", head = "lm_head";
  std::string block_prefix = "model.layers.";  ///< followed by the index and a dot
  BlockNames names;

  std::string block_name(std::int64_t layer) const { return block_prefix + std::to_string(layer) + "."; }
  bool is_sparse(std::int64_t layer) const {
    return experts.count > 0 && (experts.sparse_layer.empty() || experts.sparse_layer[static_cast<size_t>(layer)]);
  }
  bool fused_qkv() const { return !names.qkv.empty(); }
  bool fused_gate_up() const { return !names.gate_up.empty(); }
  std::int64_t q_size() const { return num_heads * head_dim; }
  std::int64_t kv_size() const { return num_kv_heads * head_dim; }
  std::int64_t rotary_dim() const { return rope.dim > 0 ? rope.dim : head_dim; }
};

/// Reads the config.json of `path` (a folder; or what a .gguf file says in its metadata) through the
/// family that its model_type names, and generation_config.json's eos. `family`: "auto", a name in
/// families.def in place of model_type, or the path of a YAML description (docs/add-a-model.md).
/// @throws Error{io} missing or malformed, Error{unsupported} for an unknown family or feature (the
/// known ones are listed), Error{config} for values that contradict each other.
Architecture read_architecture(const std::filesystem::path& path, const std::string& family = "auto");

/// The same of a config.json's content; `where` names it in errors. Without generation_config.json.
Architecture read_architecture(const nlohmann::json& config, const std::string& where, const std::string& family = "auto");

/// The config.json of `path`: the file's of a folder, or one made of a .gguf file's metadata, as transformers would have
/// written it. @throws Error{io} missing or malformed, Error{unsupported} for a GGUF architecture that is not read.
nlohmann::json checkpoint_config(const std::filesystem::path& path);

/// Names in families.def.
std::vector<std::string> family_names();

}  // namespace miq::model
