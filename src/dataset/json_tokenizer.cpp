// tokenizer.json: added tokens → normalizer → pre-tokenizer → BPE → frame, and the decoder back.
#include <mutex>

#include "added_tokens.h"
#include "miq/core/error.h"
#include "tokenizer_parts.h"
#include "tokenizers.h"
#include "utf8.h"

namespace miq::dataset {
namespace {

class PipelineTokenizer : public Tokenizer {
 public:
  explicit PipelineTokenizer(BpePipeline pipeline) : p_(std::move(pipeline)) {}

  std::vector<std::int64_t> encode(std::string_view text, bool special) const override {
    std::vector<std::int64_t> ids;
    if (special) ids = p_.frame.before;
    const std::string clean = is_valid_utf8(text) ? std::string() : valid_utf8(text);
    bool at_start = true;
    for (const auto& piece : p_.added.split(clean.empty() ? text : clean, /*normalized=*/false)) {
      if (piece.token != nullptr)
        ids.push_back(piece.token->id);
      else
        encode_plain(p_.normalize(std::string(piece.text)), at_start, ids);
      at_start = false;
    }
    if (special) ids.insert(ids.end(), p_.frame.after.begin(), p_.frame.after.end());
    return ids;
  }

  std::string decode(const std::vector<std::int64_t>& ids, bool skip_special) const override {
    std::vector<std::string> tokens;
    for (const std::int64_t id : ids) {
      const AddedToken* const added = p_.added.by_id(id);
      if (added != nullptr) {
        if (!(skip_special && added->special)) tokens.push_back(added->content);
      } else if (id >= 0 && id < static_cast<std::int64_t>(p_.bpe.pieces.size()) && !p_.bpe.pieces[static_cast<size_t>(id)].empty()) {
        tokens.push_back(p_.bpe.pieces[static_cast<size_t>(id)]);
      }
    }
    std::string text;
    for (const std::string& part : p_.decode(std::move(tokens))) text += part;
    return text;
  }

  std::int64_t vocab_size() const override {
    std::int64_t size = static_cast<std::int64_t>(p_.bpe.pieces.size());
    for (const AddedToken& token : p_.added.all()) size = std::max(size, token.id + 1);
    return size;
  }
  std::optional<std::int64_t> bos_id() const override { return p_.bos; }
  std::optional<std::int64_t> eos_id() const override { return p_.eos; }
  std::optional<std::int64_t> special_id(std::string_view token) const override {
    const AddedToken* const added = p_.added.by_content(token);
    return added != nullptr ? std::optional<std::int64_t>(added->id) : std::nullopt;
  }

 private:
  void encode_plain(const std::string& text, bool at_start, std::vector<std::int64_t>& ids) const {
    for (const auto& piece : p_.added.split(text, /*normalized=*/true)) {
      if (piece.token != nullptr) {
        ids.push_back(piece.token->id);
      } else {
        for (const std::string& word : p_.pre_tokenize({std::string(piece.text)}, at_start)) encode_word(word, ids);
      }
      at_start = false;
    }
  }

  // Text repeats its words: their ids are kept.
  void encode_word(const std::string& word, std::vector<std::int64_t>& ids) const {
    constexpr size_t kMaxWordBytes = 256, kMaxWords = 1 << 16;
    if (word.size() > kMaxWordBytes) return p_.bpe.encode(word, ids);
    const std::lock_guard lock(mutex_);
    auto found = words_.find(word);
    if (found == words_.end()) {
      if (words_.size() >= kMaxWords) words_.clear();
      std::vector<std::int64_t> encoded;
      p_.bpe.encode(word, encoded);
      found = words_.emplace(word, std::move(encoded)).first;
    }
    ids.insert(ids.end(), found->second.begin(), found->second.end());
  }

  BpePipeline p_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, std::vector<std::int64_t>> words_;
};

nlohmann::json part(const nlohmann::json& description, const char* key) {
  return description.is_object() ? description.value(key, nlohmann::json()) : nlohmann::json();
}

AddedTokens read_added(const nlohmann::json& list, const std::string& where) {
  AddedTokens added;
  for (const auto& item : list) {
    const auto& id = member(item, "id", where);
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > INT32_MAX)
      malformed("an added token's id is not a token id", where);
    added.add({text_member(item, "content", where), id.get<std::int64_t>(), flag_member(item, "special", false),
               flag_member(item, "lstrip", false), flag_member(item, "rstrip", false),
               flag_member(item, "single_word", false), flag_member(item, "normalized", true)});
  }
  return added;
}

}  // namespace

std::unique_ptr<Tokenizer> make_pipeline_tokenizer(BpePipeline pipeline) {
  return std::make_unique<PipelineTokenizer>(std::move(pipeline));
}

std::unique_ptr<Tokenizer> make_json_tokenizer(const nlohmann::json& description, const nlohmann::json& config, const std::string& where) {
  BpePipeline pipeline{make_bpe(member(description, "model", where), where),
                       make_normalizer(part(description, "normalizer"), where),
                       make_pre_tokenizer(part(description, "pre_tokenizer"), where),
                       make_decoder(part(description, "decoder"), where),
                       make_frame(part(description, "post_processor"), where),
                       read_added(part(description, "added_tokens"), where),
                       std::nullopt,
                       std::nullopt};
  const auto id_of = [&](const std::string& token) -> std::optional<std::int64_t> {
    if (const AddedToken* const added = pipeline.added.by_content(token)) return added->id;
    const auto found = pipeline.bpe.vocab.find(token);
    return found == pipeline.bpe.vocab.end() ? std::nullopt : std::optional<std::int64_t>(found->second);
  };
  pipeline.bos = id_of(config_token(config, "bos_token"));
  pipeline.eos = id_of(config_token(config, "eos_token"));
  return make_pipeline_tokenizer(std::move(pipeline));
}

}  // namespace miq::dataset
