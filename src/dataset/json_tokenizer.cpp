// tokenizer.json: added tokens → normalizer → pre-tokenizer → BPE → frame, and the decoder back.
#include <mutex>

#include "added_tokens.h"
#include "miq/core/error.h"
#include "tokenizer_parts.h"
#include "tokenizers.h"
#include "utf8.h"

namespace miq::dataset {
namespace {

class JsonTokenizer : public Tokenizer {
 public:
  JsonTokenizer(const nlohmann::json& description, const nlohmann::json& config, const std::string& where)
      : bpe_(make_bpe(member(description, "model", where), where)),
        normalize_(make_normalizer(part(description, "normalizer"), where)),
        pre_tokenize_(make_pre_tokenizer(part(description, "pre_tokenizer"), where)),
        decode_(make_decoder(part(description, "decoder"), where)),
        frame_(make_frame(part(description, "post_processor"), where)) {
    read_added(part(description, "added_tokens"), where);
    bos_ = id_of(config_token(config, "bos_token"));
    eos_ = id_of(config_token(config, "eos_token"));
  }

  std::vector<std::int64_t> encode(std::string_view text, bool special) const override {
    std::vector<std::int64_t> ids;
    if (special) ids = frame_.before;
    const std::string clean = is_valid_utf8(text) ? std::string() : valid_utf8(text);
    bool at_start = true;
    for (const auto& piece : added_.split(clean.empty() ? text : clean, /*normalized=*/false)) {
      if (piece.token != nullptr)
        ids.push_back(piece.token->id);
      else
        encode_plain(normalize_(std::string(piece.text)), at_start, ids);
      at_start = false;
    }
    if (special) ids.insert(ids.end(), frame_.after.begin(), frame_.after.end());
    return ids;
  }

  std::string decode(const std::vector<std::int64_t>& ids, bool skip_special) const override {
    std::vector<std::string> tokens;
    for (const std::int64_t id : ids) {
      const AddedToken* const added = added_.by_id(id);
      if (added != nullptr) {
        if (!(skip_special && added->special)) tokens.push_back(added->content);
      } else if (id >= 0 && id < static_cast<std::int64_t>(bpe_.pieces.size()) && !bpe_.pieces[static_cast<size_t>(id)].empty()) {
        tokens.push_back(bpe_.pieces[static_cast<size_t>(id)]);
      }
    }
    std::string text;
    for (const std::string& part : decode_(std::move(tokens))) text += part;
    return text;
  }

  std::int64_t vocab_size() const override {
    std::int64_t size = static_cast<std::int64_t>(bpe_.pieces.size());
    for (const AddedToken& token : added_.all()) size = std::max(size, token.id + 1);
    return size;
  }
  std::optional<std::int64_t> bos_id() const override { return bos_; }
  std::optional<std::int64_t> eos_id() const override { return eos_; }

 private:
  static nlohmann::json part(const nlohmann::json& description, const char* key) {
    return description.is_object() ? description.value(key, nlohmann::json()) : nlohmann::json();
  }

  void read_added(const nlohmann::json& list, const std::string& where) {
    for (const auto& item : list) {
      const auto& id = member(item, "id", where);
      if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > INT32_MAX)
        throw Error(ErrorKind::io, "malformed tokenizer file: an added token's id is not a token id", where);
      added_.add({text_member(item, "content", where), id.get<std::int64_t>(), flag_member(item, "special", false),
                  flag_member(item, "lstrip", false), flag_member(item, "rstrip", false),
                  flag_member(item, "single_word", false), flag_member(item, "normalized", true)});
    }
  }

  std::optional<std::int64_t> id_of(const std::string& token) const {
    for (const AddedToken& added : added_.all())
      if (added.content == token) return added.id;
    const auto found = bpe_.vocab.find(token);
    return found == bpe_.vocab.end() ? std::nullopt : std::optional<std::int64_t>(found->second);
  }

  void encode_plain(const std::string& text, bool at_start, std::vector<std::int64_t>& ids) const {
    for (const auto& piece : added_.split(text, /*normalized=*/true)) {
      if (piece.token != nullptr) {
        ids.push_back(piece.token->id);
      } else {
        for (const std::string& word : pre_tokenize_({std::string(piece.text)}, at_start)) encode_word(word, ids);
      }
      at_start = false;
    }
  }

  // Text repeats its words: their ids are kept.
  void encode_word(const std::string& word, std::vector<std::int64_t>& ids) const {
    constexpr size_t kMaxWordBytes = 256, kMaxWords = 1 << 16;
    if (word.size() > kMaxWordBytes) return bpe_.encode(word, ids);
    const std::lock_guard lock(mutex_);
    auto found = words_.find(word);
    if (found == words_.end()) {
      if (words_.size() >= kMaxWords) words_.clear();
      std::vector<std::int64_t> encoded;
      bpe_.encode(word, encoded);
      found = words_.emplace(word, std::move(encoded)).first;
    }
    ids.insert(ids.end(), found->second.begin(), found->second.end());
  }

  BpeModel bpe_;
  Normalizer normalize_;
  PreTokenizer pre_tokenize_;
  Decoder decode_;
  SpecialFrame frame_;
  AddedTokens added_;
  std::optional<std::int64_t> bos_, eos_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, std::vector<std::int64_t>> words_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_json_tokenizer(const nlohmann::json& description, const nlohmann::json& config, const std::string& where) {
  return std::make_unique<JsonTokenizer>(description, config, where);
}

}  // namespace miq::dataset
