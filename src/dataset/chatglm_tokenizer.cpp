// ChatGLM 2 and 3: sentencepiece as it is; the special tokens lie behind its pieces, stand in code alone
// and are never read from a text (the authors' ChatGLMTokenizer on transformers 4.33; behaviour only).
#include "sentencepiece_model.h"
#include "tokenizers.h"

namespace miq::dataset {
namespace {

class ChatGlmTokenizer : public Tokenizer {
 public:
  ChatGlmTokenizer(std::string proto, const std::string& where, bool roles)
      : model_(std::move(proto), where), shows_specials_(roles) {
    specials_ = {"[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"};
    if (roles) specials_.insert(specials_.end(), {"<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"});
  }

  std::vector<std::int64_t> encode(std::string_view text, bool special) const override {
    std::vector<std::int64_t> ids;
    if (special) ids = {*special_id("[gMASK]"), *special_id("sop")};
    model_.encode(text, ids);
    return ids;
  }

  // The authors' code has no list of special tokens to skip: ChatGLM2 shows none, ChatGLM3 its own always.
  std::string decode(const std::vector<std::int64_t>& ids, bool) const override {
    std::vector<std::string> run;
    for (const std::int64_t id : ids) {
      if (id == model_.unknown_id() || id == model_.bos_id() || id == model_.eos_id()) continue;
      if (model_.has(id))
        run.push_back(model_.piece(id));
      else if (shows_specials_ && id >= 0 && id < vocab_size())
        run.push_back(specials_[static_cast<size_t>(id - model_.size())]);
    }
    return model_.decode(run);
  }

  std::int64_t vocab_size() const override { return model_.size() + static_cast<std::int64_t>(specials_.size()); }
  std::optional<std::int64_t> bos_id() const override { return std::nullopt; }
  std::optional<std::int64_t> eos_id() const override { return model_.eos_id(); }
  std::optional<std::int64_t> special_id(std::string_view token) const override {
    for (size_t i = 0; i < specials_.size(); ++i)
      if (specials_[i] == token) return model_.size() + static_cast<std::int64_t>(i);
    return model_.special_id(token);
  }

 private:
  SentencePieceModel model_;
  std::vector<std::string> specials_;  // by id behind the pieces
  bool shows_specials_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_chatglm_tokenizer(std::string proto, const std::string& where, bool roles) {
  return std::make_unique<ChatGlmTokenizer>(std::move(proto), where, roles);
}

}  // namespace miq::dataset
