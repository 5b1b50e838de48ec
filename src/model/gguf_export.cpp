#include "miq/model/gguf_export.h"

#include <ATen/ATen.h>

#include <cmath>

#include "gguf_names.h"
#include "miq/core/error.h"
#include "miq/core/text.h"
#include "miq/model/rope.h"

namespace miq::model {
namespace {

const GgufFamily& family_of(const Architecture& a) {
  std::string known;
  for (const GgufFamily& family : kGgufFamilies) {
    if (a.family == family.family) return family;
    known += std::string(known.empty() ? "" : ", ") + family.family;
  }
  throw Error(ErrorKind::unsupported, "models of the family '" + a.family + "' are not written as GGUF", "export.format",
              "families with a GGUF export: " + known + "; export another format");
}

// Features of described variants that llama.cpp's graphs lack.
void check_features(const Architecture& a, const GgufFamily& family) {
  const auto fail = [](const std::string& what) {
    throw Error(ErrorKind::unsupported, what + ", which llama.cpp's model has not", "export.format", "export another format");
  };
  if (a.positions != Positions::rope || a.rope.interleaved) fail("positions other than rotation by halves");
  if (a.fused_qkv() || a.fused_gate_up()) fail("fused linears");
  if (!a.names.attention_out_norm.empty() || !a.names.mlp_out_norm.empty()) fail("a norm behind attention or MLP");
  if (a.normalised_head) fail("a normalised head");
  if (a.qk_norm != (std::string(family.architecture).rfind("qwen3", 0) == 0)) fail(a.qk_norm ? "norms of q and k" : "no norms of q and k");
  if ((a.experts.count > 0) != family.experts) fail(a.experts.count > 0 ? "experts" : "no experts");
  for (std::int64_t l = 0; family.experts && l < a.num_layers; ++l)
    if (!a.is_sparse(l)) fail("a layer without experts beside layers with them");
  if (family.experts && !a.experts.normalise) fail("experts whose weights do not sum to 1");
}

// "135M", "8x7B": gguf-py's utility.py, size_label.
std::string rounded_count(double parameters) {
  const std::pair<double, const char*> units[] = {{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "K"}};
  for (const auto& [unit, letter] : units)
    if (parameters > unit || unit == 1e3) {
      const double scaled = parameters / unit;
      const std::string whole = format_fixed(scaled, 0);
      return format_fixed(scaled, whole == "0" ? 2 : whole.size() < 2 ? 1 : 0) + letter;
    }
  return "";
}

std::string size_label(const Architecture& a, std::int64_t parameters) {
  if (a.experts.count == 0) return rounded_count(static_cast<double>(parameters));
  const double experts = 3.0 * static_cast<double>(a.hidden_size * a.experts.intermediate_size * a.experts.count * a.num_layers);
  return std::to_string(a.experts.count) + "x" +
         rounded_count(static_cast<double>(parameters) - experts + experts / static_cast<double>(a.experts.count));
}

void add_rope_scaling(const Architecture& a, const std::string& prefix, GgufMetadata& metadata) {
  const Rope& rope = a.rope;
  if (rope.scaling != RopeScaling::linear && rope.scaling != RopeScaling::yarn) return;
  const bool yarn = rope.scaling == RopeScaling::yarn;
  metadata.emplace_back(prefix + "rope.scaling.type", std::string(yarn ? "yarn" : "linear"));
  metadata.emplace_back(prefix + "rope.scaling.factor", static_cast<float>(rope.factor));
  if (!yarn) return;
  metadata.emplace_back(prefix + "rope.scaling.original_context_length", static_cast<std::uint32_t>(rope.original_max_position_embeddings));
  const double usual = rope.factor > 1 ? 0.1 * std::log(rope.factor) + 1 : 1;  // what llama.cpp multiplies the factor by
  if (std::abs(rope.attention_factor / usual - 1) > 1e-6)
    metadata.emplace_back(prefix + "rope.scaling.attn_factor", static_cast<float>(rope.attention_factor / usual));
  if (rope.beta_fast != 32) metadata.emplace_back(prefix + "rope.scaling.yarn_beta_fast", static_cast<float>(rope.beta_fast));
  if (rope.beta_slow != 1) metadata.emplace_back(prefix + "rope.scaling.yarn_beta_slow", static_cast<float>(rope.beta_slow));
}

}  // namespace

GgufModel::GgufModel(const Architecture& a, const std::string& name, std::int64_t parameters) : architecture_(a) {
  const GgufFamily& family = family_of(a);
  check_features(a, family);
  const std::string prefix = std::string(family.architecture) + ".";
  const auto text = [&](const std::string& key, const std::string& value) { metadata_.emplace_back(key, value); };
  const auto count = [&](const char* key, std::int64_t value) { metadata_.emplace_back(prefix + key, static_cast<std::uint32_t>(value)); };
  const auto real = [&](const char* key, double value) { metadata_.emplace_back(prefix + key, static_cast<float>(value)); };
  text("general.architecture", family.architecture);
  text("general.type", "model");
  text("general.name", name);
  text("general.size_label", size_label(a, parameters));
  count("block_count", a.num_layers);
  count("context_length", a.max_position_embeddings);
  count("embedding_length", a.hidden_size);
  count("feed_forward_length", a.intermediate_size);
  count("attention.head_count", a.num_heads);
  count("attention.head_count_kv", a.num_kv_heads);
  real("rope.freq_base", a.rope.theta);
  real("attention.layer_norm_rms_epsilon", a.rms_norm_eps);
  if (family.experts) {
    count("expert_count", a.experts.count);
    count("expert_used_count", a.experts.per_token);
    if (a.family == "qwen3_moe") count("expert_feed_forward_length", a.experts.intermediate_size);
  }
  count("attention.key_length", a.head_dim);
  count("attention.value_length", a.head_dim);
  count("vocab_size", a.vocab_size);
  count("rope.dimension_count", a.rotary_dim());
  add_rope_scaling(a, prefix, metadata_);
  if (a.rope.scaling == RopeScaling::llama3 || a.rope.scaling == RopeScaling::factors) {
    Rope plain = a.rope;
    plain.scaling = RopeScaling::none;
    const at::Tensor factors = inverse_frequencies(plain, a.rotary_dim()) / inverse_frequencies(a.rope, a.rotary_dim());
    extra_["rope_freqs.weight"] = factors.to(at::kFloat);
  }
  for (const std::int64_t window : a.sliding_window)
    if (window > 0 && window < a.max_position_embeddings) {
      warnings_.push_back("the sliding window of " + std::to_string(window) + " tokens is not written: llama.cpp attends to the whole context");
      break;
    }

  if (a.rope.scaling == RopeScaling::yarn && (a.rope.beta_fast != 32 || a.rope.beta_slow != 1))
    warnings_.push_back("llama.cpp takes yarn's betas from its command line: --yarn-beta-fast " + format_fixed(a.rope.beta_fast, 2) + " --yarn-beta-slow " +
                        format_fixed(a.rope.beta_slow, 2));

  places_[a.embedding] = {.name = "token_embd"};
  places_[a.final_norm] = {.name = "output_norm"};
  if (!a.tie_word_embeddings) places_[a.head] = {.name = "output"};
  for (std::int64_t l = 0; l < a.num_layers; ++l) {
    const std::string to = "blk." + std::to_string(l) + ".", from = a.block_name(l);
    for (const auto& [part, member] : kGgufBlockParts) {
      const bool dense_mlp = member == &BlockNames::gate || member == &BlockNames::up || member == &BlockNames::down;
      if (a.is_sparse(l) ? dense_mlp : member == &BlockNames::router) continue;
      const std::int64_t heads = member == &BlockNames::q ? a.num_heads : member == &BlockNames::k ? a.num_kv_heads : 0;
      places_[from + a.names.*member] = {.name = to + part, .heads = family.permuted ? heads : 0};
    }
    for (std::int64_t e = 0; a.is_sparse(l) && e < a.experts.count; ++e)
      for (const auto& [part, member] : kGgufExpertParts)
        places_[from + a.names.expert + std::to_string(e) + "." + a.names.*member] = {.name = to + part, .expert = e, .experts = a.experts.count};
  }
}

std::optional<GgufPlace> GgufModel::place(const std::string& tensor) const {
  for (const char* part : {".weight", ".bias"}) {
    if (!tensor.ends_with(part)) continue;
    const std::string owner = tensor.substr(0, tensor.size() - std::string(part).size());
    if (const auto found = places_.find(owner); found != places_.end()) {
      GgufPlace place = found->second;
      place.name += part;
      return place;
    }
    if (owner == architecture_.head) return std::nullopt;  // tied: the embedding serves
  }
  for (const char* buffer : {"inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "attn.bias", "attn.masked_bias"})
    if (tensor.ends_with(buffer)) return std::nullopt;
  throw Error(ErrorKind::unsupported, "the tensor '" + tensor + "' has no place in a GGUF file", "export.format", "export another format");
}

}  // namespace miq::model
