// Sentencepiece models as Hugging Face's LlamaTokenizer uses them (transformers 4.33,
// models/llama/tokenization_llama.py; behaviour only).
#include <sentencepiece_processor.h>

#include "added_tokens.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "tokenizers.h"
#include "utf8.h"

namespace miq::dataset {
namespace {

constexpr const char* kMark = "\xE2\x96\x81";  // U+2581, a space in pieces

// In a protocol buffer a repeated field's message is merged into the first: appending
// normalizer_spec { add_dummy_prefix: false } overrides what the file says.
constexpr std::string_view kNoDummyPrefix("\x1a\x02\x18\x00", 4);

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(const std::filesystem::path& path, const nlohmann::json& config) {
    std::string proto = read_file(path, 1 << 28);
    // transformers: absent means legacy; but files without it are older than the fix, and the
    // behaviour of today's library is what users compare with.
    legacy_ = config.value("legacy", nlohmann::json(false)) == nlohmann::json(true);
    if (!legacy_) proto += kNoDummyPrefix;
    const auto status = sp_.LoadFromSerializedProto(proto);
    if (!status.ok()) throw Error(ErrorKind::io, "not a sentencepiece model: " + status.ToString(), path.string());
    add_bos_ = config.value("add_bos_token", nlohmann::json(true)) != nlohmann::json(false) && sp_.bos_id() >= 0;
    add_eos_ = config.value("add_eos_token", nlohmann::json(false)) == nlohmann::json(true) && sp_.eos_id() >= 0;
    for (const int id : {sp_.unk_id(), sp_.bos_id(), sp_.eos_id()})
      if (id >= 0) added_.add({sp_.IdToPiece(id), id});
    read_added(config, path.string());
    std::vector<int> unknown_ids;
    unknown_text_ = sp_.unk_id() >= 0 ? sp_.IdToPiece(sp_.unk_id()) : "<unk>";
    sp_.Encode(unknown_text_, &unknown_ids).IgnoreError();
    unknown_length_ = unknown_ids.size();
  }

  std::vector<std::int64_t> encode(std::string_view text, bool special) const override {
    std::vector<std::int64_t> ids;
    if (special && add_bos_) ids.push_back(sp_.bos_id());
    // Not legacy: one space in front of the whole text, none behind special tokens.
    std::string whole = valid_utf8(text);
    if (!legacy_ && !whole.empty()) whole = kMark + replace_marks(whole);
    const auto pieces = added_.split(whole, /*normalized=*/false);
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (pieces[i].token != nullptr) {
        ids.push_back(pieces[i].token->id);
      } else if (!(!legacy_ && i == 0 && pieces.size() > 1 && pieces[i].text == kMark)) {
        encode_plain(std::string(pieces[i].text), ids);  // (a lone space before a special token goes)
      }
    }
    if (special && add_eos_) ids.push_back(sp_.eos_id());
    return ids;
  }

  std::string decode(const std::vector<std::int64_t>& ids, bool skip_special) const override {
    std::string text;
    std::vector<std::string> run;
    bool first = true;
    const auto flush = [&] {
      std::string part;
      sp_.Decode(run, &part).IgnoreError();
      text += part;
      run.clear();
    };
    for (const std::int64_t id : ids) {
      const AddedToken* const token = added_.by_id(id);
      if (token != nullptr) {
        if (skip_special && token->special) continue;
        flush();
        text += token->content;
      } else if (id >= 0 && id < sp_.GetPieceSize()) {
        run.push_back(sp_.IdToPiece(static_cast<int>(id)));
        // The space in front of the whole text, put there by encode(); a legacy model drops it itself.
        // (A piece of many spaces that has no shorter sister stays as it is written, as the reference has it.)
        if (first && !legacy_ && run.back().rfind(kMark, 0) == 0) run.back().erase(0, 3);
      } else {
        continue;
      }
      first = false;
    }
    flush();
    return text;
  }

  std::int64_t vocab_size() const override {
    std::int64_t size = sp_.GetPieceSize();
    for (const AddedToken& token : added_.all()) size = std::max(size, token.id + 1);
    return size;
  }
  std::optional<std::int64_t> bos_id() const override { return sp_.bos_id() >= 0 ? std::optional<std::int64_t>(sp_.bos_id()) : std::nullopt; }
  std::optional<std::int64_t> eos_id() const override { return sp_.eos_id() >= 0 ? std::optional<std::int64_t>(sp_.eos_id()) : std::nullopt; }

 private:
  void read_added(const nlohmann::json& config, const std::string& where) {
    if (!config.contains("added_tokens_decoder") || !config["added_tokens_decoder"].is_object()) return;
    for (const auto& [key, item] : config["added_tokens_decoder"].items()) {
      if (!item.is_object() || !item.contains("content") || !item["content"].is_string() || key.empty() || key.size() > 9 ||
          key.find_first_not_of("0123456789") != std::string::npos)
        throw Error(ErrorKind::io, "malformed added_tokens_decoder entry '" + key + "'", where);
      const std::int64_t id = std::stol(key);
      if (added_.by_id(id) != nullptr) continue;
      const auto flag = [&item = item](const char* name) { return item.value(name, nlohmann::json(false)) == nlohmann::json(true); };
      added_.add({item["content"].get<std::string>(), id, flag("special"), flag("lstrip"), flag("rstrip"), flag("single_word")});
    }
  }

  static std::string replace_marks(const std::string& text) {
    std::string out;
    for (size_t at = 0; at < text.size();) {
      if (text.compare(at, 3, kMark) == 0) {
        out += ' ';
        at += 3;
      } else {
        out += text[at++];
      }
    }
    return out;
  }

  void encode_plain(const std::string& text, std::vector<std::int64_t>& ids) const {
    std::vector<int> encoded;
    const bool leads_with_space = text.rfind(kMark, 0) == 0 || text.rfind(' ', 0) == 0;
    if (legacy_ || !leads_with_space) {
      sp_.Encode(text, &encoded).IgnoreError();
      ids.insert(ids.end(), encoded.begin(), encoded.end());
      return;
    }
    // The normalizer may drop leading spaces: a word in front keeps them, and its pieces are cut off.
    sp_.Encode(unknown_text_ + text, &encoded).IgnoreError();
    if (encoded.size() >= unknown_length_) encoded.erase(encoded.begin(), encoded.begin() + static_cast<std::ptrdiff_t>(unknown_length_));
    ids.insert(ids.end(), encoded.begin(), encoded.end());
  }

  sentencepiece::SentencePieceProcessor sp_;
  AddedTokens added_;
  std::string unknown_text_;
  size_t unknown_length_ = 0;
  bool legacy_ = false, add_bos_ = true, add_eos_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::filesystem::path& model, const nlohmann::json& config) {
  return std::make_unique<SentencePieceTokenizer>(model, config);
}

}  // namespace miq::dataset
