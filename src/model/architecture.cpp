#include "miq/model/architecture.h"

#include "families.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/text.h"

namespace miq::model {
namespace fs = std::filesystem;
namespace {

// transformers 4: rope_theta and rope_scaling {type | rope_type, ...}; transformers 5: rope_parameters.
Rope read_rope(const ConfigJson& config, std::int64_t max_positions) {
  Rope rope;
  rope.theta = config.positive("rope_theta", 10000);
  rope.original_max_position_embeddings = max_positions;
  const char* const key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!config.has(key)) return rope;
  const ConfigJson scaling = config.object(key);
  rope.theta = scaling.positive("rope_theta", rope.theta);
  const std::string type = scaling.text("rope_type", scaling.text("type", "default"));
  if (scaling.positive("partial_rotary_factor", config.positive("partial_rotary_factor", 1)) != 1)
    config.unsupported("partial_rotary_factor", "other than 1 is not supported in this family");
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3")
    scaling.unsupported("rope_type", "is '" + type + "'; supported: default, linear, llama3");
  rope.scaling = type == "linear" ? RopeScaling::linear : RopeScaling::llama3;
  if (!scaling.has("factor")) scaling.fail("factor", "is missing");
  rope.factor = scaling.positive("factor", 1);
  rope.low_freq_factor = scaling.positive("low_freq_factor", 1);
  rope.high_freq_factor = scaling.positive("high_freq_factor", 4);
  rope.original_max_position_embeddings = scaling.size("original_max_position_embeddings", max_positions);
  if (rope.scaling == RopeScaling::llama3 && rope.high_freq_factor <= rope.low_freq_factor)
    scaling.fail("high_freq_factor", "must be larger than low_freq_factor");
  return rope;
}

std::int64_t token_id(const nlohmann::json& value, const std::string& key, const ConfigJson& config) {
  if (!value.is_number_integer() || value.get<std::int64_t>() < 0 || value.get<std::int64_t>() > INT32_MAX)
    config.fail(key, "must be a token id or a list of them, not " + value.dump());
  return value.get<std::int64_t>();
}

std::vector<std::int64_t> token_ids(const ConfigJson& config, const std::string& key) {
  std::vector<std::int64_t> ids;
  if (!config.has(key)) return ids;
  const auto& value = config.json()[key];
  if (!value.is_array()) return {token_id(value, key, config)};
  for (const auto& id : value) ids.push_back(token_id(id, key, config));
  return ids;
}

ConfigJson load(const fs::path& path) {
  nlohmann::json object = parse_json(read_file(path, 1 << 24), path.string());
  if (!object.is_object()) throw Error(ErrorKind::io, "not a JSON object", path.string());
  return ConfigJson(std::move(object), path.string());
}

}  // namespace

std::vector<std::vector<std::string>> Architecture::stages() const {
  return {{names.q, names.k, names.v}, {names.o}, {names.gate, names.up}, {names.down}};
}

Architecture read_common(const ConfigJson& config) {
  Architecture a;
  a.hidden_size = config.size("hidden_size");
  a.intermediate_size = config.size("intermediate_size");
  a.num_layers = config.size("num_hidden_layers");
  a.num_heads = config.size("num_attention_heads");
  a.num_kv_heads = config.size("num_key_value_heads", a.num_heads);
  if (a.num_heads % a.num_kv_heads != 0)
    config.fail("num_key_value_heads", "does not divide num_attention_heads (" + std::to_string(a.num_heads) + ")");
  if (!config.has("head_dim") && a.hidden_size % a.num_heads != 0)
    config.fail("num_attention_heads", "does not divide hidden_size (" + std::to_string(a.hidden_size) + ")");
  a.head_dim = config.size("head_dim", std::max<std::int64_t>(1, a.hidden_size / a.num_heads));
  if (a.head_dim % 2 != 0) config.fail("head_dim", "must be even, for the rotation of pairs");
  a.vocab_size = config.size("vocab_size");
  a.max_position_embeddings = config.size("max_position_embeddings", 2048);
  a.rms_norm_eps = config.positive("rms_norm_eps", 1e-6);
  a.rope = read_rope(config, a.max_position_embeddings);
  a.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  a.torch_dtype = config.text("dtype", config.text("torch_dtype", "float32"));
  const std::string activation = config.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    config.unsupported("hidden_act", "is '" + activation + "'; supported: silu");
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "embedding_multiplier"})
    if (config.has(key)) config.unsupported(key, "is a feature the decoder does not have");
  const auto bos = token_ids(config, "bos_token_id");
  if (!bos.empty()) a.bos_token_id = bos.front();
  a.eos_token_ids = token_ids(config, "eos_token_id");
  return a;
}

std::vector<std::string> family_names() {
  return {
#define MIQ_FAMILY(name) #name,
#include "families.def"
#undef MIQ_FAMILY
  };
}

Architecture read_architecture(const fs::path& folder, const std::string& family) {
  const ConfigJson config = load(folder / "config.json");
  const std::string wanted = family == "auto" ? config.text("model_type", "") : family;
  std::optional<Architecture> found;
#define MIQ_FAMILY(name) \
  if (wanted == #name) found = family_##name(config);
#include "families.def"
#undef MIQ_FAMILY
  if (!found) {
    std::string known;
    for (const std::string& name : family_names()) known += (known.empty() ? "" : ", ") + name;
    throw Error(ErrorKind::unsupported, "unknown model family '" + wanted + "'", config.where(), "supported: " + known);
  }
  found->family = wanted;
  const fs::path generation = folder / "generation_config.json";
  if (fs::exists(generation)) {
    const auto eos = token_ids(load(generation), "eos_token_id");
    if (!eos.empty()) found->eos_token_ids = eos;
  }
  return *found;
}

}  // namespace miq::model
