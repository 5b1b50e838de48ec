#include "miq/model/architecture.h"

#include <cmath>

#include "description.h"
#include "families.h"
#include "gguf_model.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/text.h"

namespace miq::model {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kMaxLayers = 10000;  // bounds what a damaged config.json can make us allocate

// Source of yarn: arXiv 2309.00071 as in transformers' modeling_rope_utils.
void read_yarn(const ConfigJson& scaling, Rope& rope) {
  for (const char* key : {"mscale", "mscale_all_dim"})
    if (scaling.has(key)) scaling.unsupported(key, "of yarn is not supported");
  if (!scaling.flag("truncate", true)) scaling.unsupported("truncate", "false is not supported for yarn");
  rope.beta_fast = scaling.positive("beta_fast", 32);
  rope.beta_slow = scaling.positive("beta_slow", 1);
  if (rope.beta_fast < rope.beta_slow) scaling.fail("beta_fast", "must not be smaller than beta_slow");
  if (rope.theta <= 1) scaling.fail("rope_theta", "must be larger than 1 for yarn");
  rope.attention_factor = scaling.positive("attention_factor", rope.factor > 1 ? 0.1 * std::log(rope.factor) + 1 : 1);
}

// transformers 4: rope_theta and rope_scaling {type | rope_type, ...}; transformers 5: rope_parameters.
Rope read_rope(const ConfigJson& config, std::int64_t max_positions, std::int64_t head_dim, double partial_rotary) {
  Rope rope;
  rope.theta = config.positive("rope_theta", 10000);
  rope.original_max_position_embeddings = max_positions;
  const char* const key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const bool scaled = config.has(key);
  const ConfigJson scaling = scaled ? config.object(key) : config;
  const double share = scaling.positive("partial_rotary_factor", config.positive("partial_rotary_factor", partial_rotary));
  if (share != 1 && partial_rotary == 1)
    config.unsupported("partial_rotary_factor", "other than 1 is not supported in this family");
  rope.dim = static_cast<std::int64_t>(share * static_cast<double>(head_dim));
  if (rope.dim < 2 || rope.dim > head_dim || rope.dim % 2 != 0)
    config.fail("partial_rotary_factor", "rotates " + std::to_string(rope.dim) + " of " + std::to_string(head_dim) +
                                             " dimensions, not an even part of them");
  if (!scaled) return rope;
  rope.theta = scaling.positive("rope_theta", rope.theta);
  const std::string type = scaling.text("rope_type", scaling.text("type", "default"));
  if (type == "default") return rope;
  if (type == "dynamic") {
    rope.max_positions = max_positions;
    return rope;
  }
  if (type == "factors") {
    rope.scaling = RopeScaling::factors;
    const nlohmann::json factors = scaling.has("factors") ? scaling.raw("factors") : nlohmann::json();
    if (!factors.is_array() || static_cast<std::int64_t>(factors.size()) != rope.dim / 2)
      scaling.fail("factors", "must list " + std::to_string(rope.dim / 2) + " divisors");
    for (const auto& factor : factors) {
      if (!factor.is_number() || !(factor.get<double>() > 0)) scaling.fail("factors", "must be positive numbers");
      rope.factors.push_back(factor.get<double>());
    }
    return rope;
  }
  const std::map<std::string, RopeScaling> types = {
      {"linear", RopeScaling::linear}, {"llama3", RopeScaling::llama3}, {"yarn", RopeScaling::yarn}};
  const auto found = types.find(type);
  if (found == types.end())
    scaling.unsupported("rope_type", "is '" + type + "'; supported: default, linear, dynamic, llama3, yarn");
  rope.scaling = found->second;
  if (!scaling.has("factor")) scaling.fail("factor", "is missing");
  rope.factor = scaling.positive("factor", 1);
  rope.original_max_position_embeddings = scaling.size("original_max_position_embeddings", max_positions);
  if (rope.scaling == RopeScaling::yarn) read_yarn(scaling, rope);
  rope.low_freq_factor = scaling.positive("low_freq_factor", 1);
  rope.high_freq_factor = scaling.positive("high_freq_factor", 4);
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
  const auto& value = config.raw(key);
  if (!value.is_array()) return {token_id(value, key, config)};
  for (const auto& id : value) ids.push_back(token_id(id, key, config));
  return ids;
}

nlohmann::json load(const fs::path& path) {
  nlohmann::json object = parse_json(read_file(path, 1 << 24), path.string());
  if (!object.is_object()) throw Error(ErrorKind::io, "not a JSON object", path.string());
  return object;
}

}  // namespace

Architecture read_common(const ConfigJson& config, double partial_rotary) {
  Architecture a;
  a.hidden_size = config.size("hidden_size");
  a.intermediate_size = config.size("intermediate_size");
  a.num_layers = config.size("num_hidden_layers");
  if (a.num_layers > kMaxLayers) config.fail("num_hidden_layers", "is larger than " + std::to_string(kMaxLayers));
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
  a.rope = read_rope(config, a.max_position_embeddings, a.head_dim, partial_rotary);
  a.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  a.torch_dtype = config.text("dtype", config.text("torch_dtype", "float32"));
  const std::string activation = config.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    config.unsupported("hidden_act", "is '" + activation + "'; supported: silu");
  for (const char* key :
       {"attn_logit_softcapping", "final_logit_softcapping", "logit_scale", "logits_scaling", "embedding_multiplier",
        "residual_multiplier", "attention_multiplier", "query_pre_attn_scalar"})
    if (config.has(key) && config.raw(key) != 1) config.unsupported(key, "is a feature the decoder does not have");
  const auto bos = token_ids(config, "bos_token_id");
  if (!bos.empty()) a.bos_token_id = bos.front();
  a.eos_token_ids = token_ids(config, "eos_token_id");
  return a;
}

std::vector<std::int64_t> layer_windows(const ConfigJson& config, std::int64_t num_layers, std::int64_t window,
                                        std::int64_t full_layers) {
  std::vector<std::int64_t> windows;
  if (!config.has("layer_types")) {
    for (std::int64_t l = 0; l < num_layers; ++l) windows.push_back(l >= full_layers ? window : 0);
    return windows;
  }
  const auto& types = config.raw("layer_types");
  if (!types.is_array() || static_cast<std::int64_t>(types.size()) != num_layers)
    config.fail("layer_types", "must list a type for each of the " + std::to_string(num_layers) + " layers");
  for (const auto& type : types) {
    if (type != "full_attention" && type != "sliding_attention")
      config.unsupported("layer_types", "names " + type.dump() + "; supported: full_attention, sliding_attention");
    if (type == "sliding_attention" && window == 0)
      config.fail("layer_types", "asks for a window, but sliding_window is not set");
    windows.push_back(type == "sliding_attention" ? window : 0);
  }
  return windows;
}

Experts read_experts(const ConfigJson& config, const std::string& count_key, std::int64_t intermediate_size) {
  constexpr std::int64_t kMaxExperts = 4096;
  Experts experts;
  experts.count = config.size(count_key);
  if (experts.count > kMaxExperts) config.fail(count_key, "is larger than " + std::to_string(kMaxExperts));
  experts.per_token = config.size("num_experts_per_tok");
  if (experts.per_token > experts.count) config.fail("num_experts_per_tok", "is larger than " + count_key);
  experts.intermediate_size = intermediate_size;
  return experts;
}

std::vector<std::string> family_names() {
  return {
#define MIQ_FAMILY(name) #name,
#include "families.def"
#undef MIQ_FAMILY
  };
}

namespace {

Architecture read_family(const std::string& family, const ConfigJson& config) {
#define MIQ_FAMILY(name) \
  if (family == #name) return family_##name(config);
#include "families.def"
#undef MIQ_FAMILY
  std::string known;
  for (const std::string& name : family_names()) known += (known.empty() ? "" : ", ") + name;
  throw Error(ErrorKind::unsupported, "unknown model family '" + family + "'", config.where(),
              "supported: " + known + "; a variant of one of them can be described in YAML (docs/add-a-model.md)");
}

}  // namespace

nlohmann::json checkpoint_config(const fs::path& path) {
  if (const std::optional<fs::path> gguf = find_gguf(path)) return gguf_config(GgufFile::open(*gguf));
  std::error_code problem;
  if (fs::is_regular_file(path, problem))
    throw Error(ErrorKind::io, "neither a checkpoint's folder nor a .gguf file", path.string(), "give the folder that holds config.json and the weights");
  return load(path / "config.json");
}

Architecture read_architecture(const nlohmann::json& object, const std::string& where, const std::string& family) {
  const ConfigJson config(object, where);
  if (family.ends_with(".yaml") || family.ends_with(".yml")) {
    const Description description = read_description(family);
    Architecture a = read_described(description, config, [&](const ConfigJson& own) { return read_family(description.based_on, own); });
    a.family = description.based_on;
    return a;
  }
  const std::string wanted = family == "auto" ? config.text("model_type", "") : family;
  Architecture a = read_family(wanted, config);
  a.family = wanted;
  return a;
}

Architecture read_architecture(const fs::path& path, const std::string& family) {
  const std::optional<fs::path> gguf = find_gguf(path);
  Architecture a = read_architecture(checkpoint_config(path), (gguf ? *gguf : path / "config.json").string(), family);
  const fs::path generation = path / "generation_config.json";
  if (!gguf && fs::exists(generation)) {
    const auto eos = token_ids(ConfigJson(load(generation), generation.string()), "eos_token_id");
    if (!eos.empty()) a.eos_token_ids = eos;
  }
  return a;
}

}  // namespace miq::model
