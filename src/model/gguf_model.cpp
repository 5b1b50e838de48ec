#include "gguf_model.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "gguf_names.h"
#include "miq/core/error.h"
#include "miq/core/gguf_writer.h"

namespace miq::model {
namespace {

using Json = nlohmann::json;

[[noreturn]] void malformed(const GgufFile& file, const std::string& key, const std::string& what) {
  throw Error(ErrorKind::io, "the metadata '" + key + "' " + what, file.path().string(),
              "the file is damaged, or was made for a program that needs less");
}

// Metadata keys of the file's architecture, checked.
class Keys {
 public:
  explicit Keys(const GgufFile& file) : file_(file) {
    architecture_ = text("general.architecture");
    prefix_ = architecture_ + ".";
  }
  const std::string& architecture() const { return architecture_; }
  std::optional<std::int64_t> whole(const std::string& key) const {
    const Json* value = find(prefix_ + key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number_integer() || value->get<std::int64_t>() < 0 || value->get<std::int64_t>() > INT32_MAX)
      malformed(file_, prefix_ + key, "is not a count, but " + value->dump().substr(0, 60));
    return value->get<std::int64_t>();
  }
  std::int64_t size(const std::string& key) const {
    const auto value = whole(key);
    if (!value) malformed(file_, prefix_ + key, "is missing");
    return *value;
  }
  std::optional<double> real(const std::string& key) const {
    const Json* value = find(prefix_ + key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number()) malformed(file_, prefix_ + key, "is not a number");
    return value->get<double>();
  }
  std::string text(const std::string& key) const {
    const Json* value = find(key);
    if (value == nullptr) malformed(file_, key, "is missing");
    if (!value->is_string()) malformed(file_, key, "is not text");
    return value->get<std::string>();
  }
  std::string own_text(const std::string& key, const std::string& fallback) const {
    return find(prefix_ + key) == nullptr ? fallback : text(prefix_ + key);
  }
  const Json* find(const std::string& key) const {
    const auto found = file_.metadata().find(key);
    return found == file_.metadata().end() ? nullptr : &*found;
  }

 private:
  const GgufFile& file_;
  std::string architecture_, prefix_;
};

const GgufFamily& family_of(const GgufFile& file, const Keys& keys) {
  const bool experts = keys.whole("expert_count").value_or(0) > 0;
  std::string known;
  for (const GgufFamily& family : kGgufFamilies) {
    if (keys.architecture() == family.architecture && experts == family.experts) return family;
    if (known.find(family.architecture) == std::string::npos) known += std::string(known.empty() ? "" : ", ") + family.architecture;
  }
  throw Error(ErrorKind::unsupported, "a GGUF file of the architecture '" + keys.architecture() + "'" + (experts ? " with experts" : ""),
              file.path().string(), "read from GGUF are " + known + "; give the original Hugging Face folder");
}

// llama3's scaling, when it has these divisors (all published models have its other numbers alike), else null.
// Source: transformers modeling_rope_utils, _compute_llama3_parameters.
Json llama3_scaling(const at::Tensor& factors, double theta) {
  constexpr double kContext = 8192, kLow = 1, kHigh = 4;
  const double factor = factors.max().item<double>();
  const auto count = factors.size(0);
  for (std::int64_t k = 0; k < count; ++k) {
    const double wavelength = 2 * M_PI * std::pow(theta, static_cast<double>(k) / static_cast<double>(count));
    const double smooth = std::clamp((kContext / wavelength - kLow) / (kHigh - kLow), 0.0, 1.0);
    if (std::abs(factors[k].item<double>() * ((1 - smooth) / factor + smooth) - 1) > 1e-5) return nullptr;
  }
  return {{"rope_type", "llama3"},      {"factor", factor},          {"original_max_position_embeddings", static_cast<std::int64_t>(kContext)},
          {"low_freq_factor", kLow}, {"high_freq_factor", kHigh}};
}

// Scaling of the rotation: llama.cpp keeps llama3's as one divisor for each frequency in a tensor.
Json rope_scaling(const GgufFile& file, const Keys& keys, double theta) {
  Json rope = nullptr;
  const std::string type = keys.own_text("rope.scaling.type", "none");
  if (type == "linear" || type == "yarn") {
    rope["rope_type"] = type;
    rope["factor"] = keys.real("rope.scaling.factor").value_or(1);
    if (const auto original = keys.whole("rope.scaling.original_context_length")) rope["original_max_position_embeddings"] = *original;
    if (const auto fast = keys.real("rope.scaling.yarn_beta_fast")) rope["beta_fast"] = *fast;
    if (const auto slow = keys.real("rope.scaling.yarn_beta_slow")) rope["beta_slow"] = *slow;
    const double factor = rope["factor"].get<double>();  // llama.cpp's attention factor multiplies the usual one
    if (const auto attention = keys.real("rope.scaling.attn_factor")) rope["attention_factor"] = *attention * (factor > 1 ? 0.1 * std::log(factor) + 1 : 1);
  } else if (type != "none") {
    throw Error(ErrorKind::unsupported, "rotary scaling of the type '" + type + "'", file.path().string());
  }
  constexpr const char* kFactors = "rope_freqs.weight";
  if (file.tensors().count(kFactors) == 0) return rope;
  const at::Tensor factors = file.tensor(kFactors).to(at::kDouble).flatten();
  if (Json llama3 = llama3_scaling(factors, theta); !llama3.is_null()) return llama3;
  rope = {{"rope_type", "factors"}, {"factors", Json::array()}};
  for (std::int64_t k = 0; k < factors.size(0); ++k) rope["factors"].push_back(factors[k].item<double>());
  return rope;
}

// What most of the matrices are stored as.
const char* stored_dtype(const GgufFile& file) {
  std::map<std::string, std::int64_t> bytes;
  for (const auto& [name, tensor] : file.tensors()) bytes[ggml_type_name(tensor.type)] += tensor.bytes;
  std::string most;
  for (const auto& [type, count] : bytes)
    if (most.empty() || count > bytes[most]) most = type;
  return most == "F32" ? "float32" : most == "BF16" ? "bfloat16" : "float16";
}

class GgufSource : public TensorSource {
 public:
  explicit GgufSource(const GgufFile& file) : file_(file) {
    const Architecture a = read_architecture(gguf_config(file_), file_.path().string());
    const bool permuted = family_of(file_, Keys(file_)).permuted;
    place("token_embd", a.embedding, {});
    place("output_norm", a.final_norm, {});
    place("output", a.head, {});
    for (std::int64_t l = 0; l < a.num_layers && l < static_cast<std::int64_t>(file_.tensors().size()); ++l) {
      const std::string from = "blk." + std::to_string(l) + ".", to = a.block_name(l);
      for (const auto& [part, name] : kGgufBlockParts) {
        const std::int64_t heads = name == &BlockNames::q ? a.num_heads : name == &BlockNames::k ? a.num_kv_heads : 0;
        if (name != &BlockNames::router || a.is_sparse(l)) place(from + part, to + a.names.*name, {.heads = permuted ? heads : 0});
      }
      for (std::int64_t e = 0; a.is_sparse(l) && e < a.experts.count; ++e)
        for (const auto& [part, name] : kGgufExpertParts)
          place(from + part, to + a.names.expert + std::to_string(e) + "." + a.names.*name, {.expert = e});
    }
  }

  std::vector<TensorSpec> specs() const override {
    std::vector<TensorSpec> all;
    for (const auto& [name, place] : places_) all.push_back(place.spec);
    return all;
  }
  bool has(const std::string& name) const override { return places_.count(name) != 0; }
  at::Tensor tensor(const std::string& name) const override {
    const auto found = places_.find(name);
    if (found == places_.end()) throw Error(ErrorKind::io, "the file has no tensor for '" + name + "'", file_.path().string());
    const Place& place = found->second;
    if (place.options.expert >= 0) return file_.rows(place.from, place.options.expert, 1).squeeze(0);
    const at::Tensor t = file_.tensor(place.from);
    if (place.options.heads == 0) return t;
    return from_interleaved_rows(t, checked_heads(place, t.size(0)));
  }
  std::optional<PackedRows> packed(const std::string& name) const override {
    const auto found = places_.find(name);
    if (found == places_.end() || found->second.spec.shape.size() != 2) return std::nullopt;
    const Place& place = found->second;
    const std::int32_t type = file_.tensors().at(place.from).type;
    if (ggml_is_plain(type)) return std::nullopt;
    const at::Tensor blocks = file_.blocks(place.from, std::max<std::int64_t>(place.options.expert, 0), place.spec.shape[0]);
    if (place.options.heads == 0) return PackedRows{type, blocks};
    return PackedRows{type, from_interleaved_rows(blocks, checked_heads(place, blocks.size(0)))};
  }
  void advise(const std::string& name, bool needed) const override {
    const auto found = places_.find(name);
    if (found != places_.end()) file_.advise(found->second.from, needed);
  }
  bool gives_views() const override {
    return std::all_of(file_.tensors().begin(), file_.tensors().end(), [](const auto& entry) { return ggml_is_plain(entry.second.type); });
  }
  std::int64_t bytes() const override {
    std::int64_t sum = 0;
    for (const auto& [name, tensor] : file_.tensors()) sum += tensor.bytes;
    return sum;
  }

 private:
  struct Options {
    std::int64_t heads = 0;    ///< whose rows are permuted
    std::int64_t expert = -1;  ///< of a tensor that holds all of them
  };
  struct Place {
    std::string from;
    Options options;
    TensorSpec spec;
  };
  std::int64_t checked_heads(const Place& place, std::int64_t rows) const {
    const std::int64_t heads = place.options.heads;
    if (rows % (2 * heads) != 0)
      throw Error(ErrorKind::io, "tensor '" + place.from + "' has " + std::to_string(rows) + " rows for " + std::to_string(heads) + " heads", file_.path().string());
    return heads;
  }
  void place(const std::string& from, const std::string& to, const Options& options) {
    for (const char* part : {".weight", ".bias"}) {
      const auto found = file_.tensors().find(from + part);
      if (found == file_.tensors().end()) continue;
      TensorSpec spec{to + part, ggml_value_dtype(found->second.type), found->second.shape};
      if (options.expert >= 0) {
        if (spec.shape.size() != 3 || options.expert >= spec.shape[0]) continue;
        spec.shape.erase(spec.shape.begin());
      }
      places_[to + part] = {from + part, options, std::move(spec)};
    }
  }

  GgufFile file_;
  std::map<std::string, Place> places_;
};

}  // namespace

Json gguf_config(const GgufFile& file) {
  const Keys keys(file);
  const GgufFamily& family = family_of(file, keys);
  const auto has = [&](const char* name) { return file.tensors().count(name) != 0; };
  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end() || embedding->second.shape.size() != 2)
    throw Error(ErrorKind::io, "the file has no tensor 'token_embd.weight' of two axes", file.path().string());
  const std::int64_t heads = keys.size("attention.head_count");
  Json config = {{"model_type", family.family},
                 {"hidden_size", keys.size("embedding_length")},
                 {"num_hidden_layers", keys.size("block_count")},
                 {"num_attention_heads", heads},
                 {"num_key_value_heads", keys.whole("attention.head_count_kv").value_or(heads)},
                 {"intermediate_size", keys.size("feed_forward_length")},
                 {"rms_norm_eps", keys.real("attention.layer_norm_rms_epsilon").value_or(1e-5)},
                 {"max_position_embeddings", keys.whole("context_length").value_or(2048)},
                 {"vocab_size", embedding->second.shape[0]},
                 {"hidden_act", "silu"},
                 {"tie_word_embeddings", !has("output.weight")},
                 {"attention_bias", has("blk.0.attn_q.bias") && has("blk.0.attn_output.bias")},
                 {"architectures", {family.class_name}},
                 {"torch_dtype", stored_dtype(file)}};
  config["rope_theta"] = keys.real("rope.freq_base").value_or(10000);
  if (Json scaling = rope_scaling(file, keys, config["rope_theta"]); !scaling.is_null()) config["rope_scaling"] = std::move(scaling);
  if (const auto head_dim = keys.whole("attention.key_length")) config["head_dim"] = *head_dim;
  if (family.experts) {
    config["num_local_experts"] = config["num_experts"] = keys.size("expert_count");  // Mixtral's key, Qwen's key
    config["num_experts_per_tok"] = keys.size("expert_used_count");
    config["moe_intermediate_size"] = keys.whole("expert_feed_forward_length").value_or(keys.size("feed_forward_length"));
    config["norm_topk_prob"] = true;
  }
  for (const char* key : {"bos_token_id", "eos_token_id"})
    if (const Json* id = keys.find(std::string("tokenizer.ggml.") + key)) config[key] = *id;
  return config;
}

std::shared_ptr<TensorSource> open_gguf(const GgufFile& file) { return std::make_shared<GgufSource>(file); }

}  // namespace miq::model
