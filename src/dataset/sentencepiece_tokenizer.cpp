// Sentencepiece models as Hugging Face's LlamaTokenizer uses them (transformers 4.33,
// models/llama/tokenization_llama.py; behaviour only).
#include "added_tokens.h"
#include "miq/core/error.h"
#include "sentencepiece_model.h"
#include "tokenizers.h"
#include "utf8.h"

namespace miq::dataset {
namespace {

bool is_true(const nlohmann::json& config, const char* key, bool fallback) {
  const nlohmann::json value = config.value(key, nlohmann::json());
  return value.is_boolean() ? value.get<bool>() : fallback;
}

class LlamaTokenizer : public Tokenizer {
 public:
  // transformers: absent `legacy` means true; but files without it are older than the fix, and the
  // behaviour of today's library is what users compare with.
  LlamaTokenizer(std::string proto, const nlohmann::json& config, const std::string& where)
      : legacy_(is_true(config, "legacy", false)),
        model_(std::move(proto), where, /*no_dummy_prefix=*/!legacy_),
        added_(model_.special_tokens()) {
    prefix_ = !legacy_ && is_true(config, "add_prefix_space", true);
    add_bos_ = is_true(config, "add_bos_token", true) && model_.bos_id();
    add_eos_ = is_true(config, "add_eos_token", false) && model_.eos_id();
    read_added(config, where);
    unknown_text_ = model_.unknown_id() ? model_.piece(*model_.unknown_id()) : "<unk>";
    std::vector<std::int64_t> unknown_ids;
    model_.encode(unknown_text_, unknown_ids);
    unknown_length_ = unknown_ids.size();
  }

  std::vector<std::int64_t> encode(std::string_view text, bool special) const override {
    std::vector<std::int64_t> ids;
    if (special && add_bos_) ids.push_back(*model_.bos_id());
    // Not legacy: one space in front of the whole text, none behind special tokens.
    std::string whole = valid_utf8(text);
    if (prefix_ && !whole.empty()) whole = std::string(kSpaceMark) + replace_marks(whole);
    const auto pieces = added_.split(whole, /*normalized=*/false);
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (pieces[i].token != nullptr) {
        ids.push_back(pieces[i].token->id);
      } else if (!(prefix_ && i == 0 && pieces.size() > 1 && pieces[i].text == kSpaceMark)) {
        encode_plain(std::string(pieces[i].text), ids);  // (a lone space before a special token goes)
      }
    }
    if (special && add_eos_) ids.push_back(*model_.eos_id());
    return ids;
  }

  std::string decode(const std::vector<std::int64_t>& ids, bool skip_special) const override {
    std::string text;
    std::vector<std::string> run;
    bool first = true;
    const auto flush = [&] {
      text += model_.decode(run);
      run.clear();
    };
    for (const std::int64_t id : ids) {
      const AddedToken* const token = added_.by_id(id);
      if (token != nullptr) {
        if (skip_special && token->special) continue;
        flush();
        text += token->content;
      } else if (model_.has(id)) {
        run.push_back(model_.piece(id));
        // The space in front of the whole text, put there by encode(); a legacy model drops it itself.
        // (A piece of many spaces that has no shorter sister stays as it is written, as the reference has it.)
        if (first && prefix_ && run.back().rfind(kSpaceMark, 0) == 0) run.back().erase(0, kSpaceMark.size());
      } else {
        continue;
      }
      first = false;
    }
    flush();
    return text;
  }

  std::int64_t vocab_size() const override {
    std::int64_t size = model_.size();
    for (const AddedToken& token : added_.all()) size = std::max(size, token.id + 1);
    return size;
  }
  std::optional<std::int64_t> bos_id() const override { return model_.bos_id(); }
  std::optional<std::int64_t> eos_id() const override { return model_.eos_id(); }
  std::optional<std::int64_t> special_id(std::string_view token) const override {
    const AddedToken* const added = added_.by_content(token);
    return added != nullptr ? added->id : model_.special_id(token);
  }

 private:
  void read_added(const nlohmann::json& config, const std::string& where) {
    if (!config.contains("added_tokens_decoder") || !config["added_tokens_decoder"].is_object()) return;
    for (const auto& [key, item] : config["added_tokens_decoder"].items()) {
      if (!item.is_object() || !item.contains("content") || !item["content"].is_string() || key.empty() ||
          key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos)
        throw Error(ErrorKind::io, "malformed added_tokens_decoder entry '" + key + "'", where);
      const std::int64_t id = std::stol(key);
      if (added_.by_id(id) != nullptr) continue;
      const auto flag = [&item = item](const char* name) { return is_true(item, name, false); };
      added_.add({item["content"].get<std::string>(), id, flag("special"), flag("lstrip"), flag("rstrip"),
                  flag("single_word")});
    }
  }

  static std::string replace_marks(const std::string& text) {
    std::string out;
    for (size_t at = 0; at < text.size();) {
      if (text.compare(at, kSpaceMark.size(), kSpaceMark) == 0) {
        out += ' ';
        at += kSpaceMark.size();
      } else {
        out += text[at++];
      }
    }
    return out;
  }

  void encode_plain(const std::string& text, std::vector<std::int64_t>& ids) const {
    const bool leads_with_space = text.rfind(kSpaceMark, 0) == 0 || text.rfind(' ', 0) == 0;
    if (legacy_ || !leads_with_space) return model_.encode(text, ids);
    // The normalizer may drop leading spaces: a word in front keeps them, and its pieces are cut off.
    std::vector<std::int64_t> encoded;
    model_.encode(unknown_text_ + text, encoded);
    const auto cut = static_cast<std::ptrdiff_t>(encoded.size() >= unknown_length_ ? unknown_length_ : 0);
    ids.insert(ids.end(), encoded.begin() + cut, encoded.end());
  }

  bool legacy_, prefix_ = true, add_bos_ = true, add_eos_ = false;
  SentencePieceModel model_;
  AddedTokens added_;
  std::string unknown_text_;
  size_t unknown_length_ = 0;
};

}  // namespace

std::unique_ptr<Tokenizer> make_llama_tokenizer(std::string proto, const nlohmann::json& config,
                                                const std::string& where) {
  return std::make_unique<LlamaTokenizer>(std::move(proto), config, where);
}

}  // namespace miq::dataset
