// Baichuan 1 and 2: sentencepiece as it is, with <unk>, <s> and </s> cut out of the text, as the authors'
// BaichuanTokenizer does on transformers 4.33 (behaviour only).
#include "sentencepiece_model.h"
#include "tokenizers.h"

namespace miq::dataset {
namespace {

class BaichuanTokenizer : public Tokenizer {
 public:
  BaichuanTokenizer(std::string proto, const nlohmann::json& config, const std::string& where)
      : model_(std::move(proto), where), added_(model_.special_tokens()) {
    const auto wants = [&](const char* key) { return config.value(key, nlohmann::json()) == nlohmann::json(true); };
    if (wants("add_bos_token")) bos_ = model_.bos_id();
    if (wants("add_eos_token")) eos_ = model_.eos_id();
  }

  std::vector<std::int64_t> encode(std::string_view text, bool special) const override {
    std::vector<std::int64_t> ids;
    if (special && bos_) ids.push_back(*bos_);
    for (const auto& piece : added_.split(text, /*normalized=*/false)) {
      if (piece.token != nullptr)
        ids.push_back(piece.token->id);
      else
        model_.encode(piece.text, ids);
    }
    if (special && eos_) ids.push_back(*eos_);
    return ids;
  }

  // A space stands before a special token that follows text.
  std::string decode(const std::vector<std::int64_t>& ids, bool skip_special) const override {
    std::string text;
    std::vector<std::string> run;
    for (const std::int64_t id : ids) {
      const AddedToken* const token = added_.by_id(id);
      if (token == nullptr) {
        if (model_.has(id)) run.push_back(model_.piece(id));
      } else if (!skip_special) {
        if (!run.empty()) text += ' ';
        text += model_.decode(run) + token->content;
        run.clear();
      }
    }
    return text + model_.decode(run);
  }

  std::int64_t vocab_size() const override { return model_.size(); }
  std::optional<std::int64_t> bos_id() const override { return model_.bos_id(); }
  std::optional<std::int64_t> eos_id() const override { return model_.eos_id(); }
  std::optional<std::int64_t> special_id(std::string_view token) const override { return model_.special_id(token); }

 private:
  SentencePieceModel model_;
  AddedTokens added_;
  std::optional<std::int64_t> bos_, eos_;  // those that encode() adds
};

}  // namespace

std::unique_ptr<Tokenizer> make_baichuan_tokenizer(std::string proto, const nlohmann::json& config,
                                                   const std::string& where) {
  return std::make_unique<BaichuanTokenizer>(std::move(proto), config, where);
}

}  // namespace miq::dataset
