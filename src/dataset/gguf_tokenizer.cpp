// Tokenizers of GGUF files, from their tokenizer.ggml.* keys; what the names of pre-tokenizers mean as in
// llama.cpp's llama-vocab.cpp (behaviour only).
#include "gguf_pre_tokenizers.h"
#include "miq/core/error.h"
#include "sentencepiece_proto.h"
#include "tokenizers.h"
#include "utf8.h"

namespace miq::dataset {
namespace {

using Json = nlohmann::json;

const GgufPreTokenizer& pre_tokenizer(const std::string& name, const std::string& where) {
  std::string known;
  for (const GgufPreTokenizer& row : gguf_pre_tokenizers()) {
    if ((" " + std::string(row.names) + " ").find(" " + name + " ") != std::string::npos) return row;
    known += (known.empty() ? "" : " ") + std::string(row.names);
  }
  throw Error(ErrorKind::unsupported, "unknown pre-tokenizer '" + name + "' (tokenizer.ggml.pre)", where,
              "known: " + known);
}

// The keys under tokenizer.ggml, checked.
class Keys {
 public:
  Keys(const Json& metadata, const std::string& where) : metadata_(metadata), where_(where) {
    if (!metadata.is_object()) malformed("the metadata is not an object", where);
    const Json* const tokens = find("tokens");
    if (tokens == nullptr || !tokens->is_array() || tokens->empty())
      malformed("tokenizer.ggml.tokens is not a list of texts", where);
    size_ = tokens->size();
    if (size_ > size_t{1} << 24) malformed("more than 2^24 tokens", where);
  }

  const Json* find(const std::string& key) const {
    const auto found = metadata_.find("tokenizer.ggml." + key);
    return found == metadata_.end() ? nullptr : &*found;
  }
  std::string text(const std::string& key, const std::string& fallback) const {
    const Json* const value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_string()) malformed("tokenizer.ggml." + key + " is not text", where_);
    return value->get<std::string>();
  }
  bool flag(const std::string& key, bool fallback) const {
    const Json* const value = find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) malformed("tokenizer.ggml." + key + " is not true or false", where_);
    return value->get<bool>();
  }
  // -1 where there is none.
  std::int64_t id(const std::string& key, std::int64_t fallback) const {
    const Json* const value = find(key);
    if (value == nullptr) return fallback < static_cast<std::int64_t>(size_) ? fallback : -1;
    if (!value->is_number_unsigned() && !(value->is_number_integer() && value->get<std::int64_t>() >= 0))
      malformed("tokenizer.ggml." + key + " is not a token id", where_);
    if (value->get<std::uint64_t>() >= size_) {
      if (value->get<std::uint64_t>() == UINT32_MAX) return -1;  // as some writers say "none"
      malformed("tokenizer.ggml." + key + " is " + std::to_string(value->get<std::uint64_t>()) + ", but there are " +
                    std::to_string(size_) + " tokens",
                where_);
    }
    return value->get<std::int64_t>();
  }

  // Text, score and type of every token.
  std::vector<SentencePiece> pieces() const {
    const Json &tokens = *find("tokens"), *const scores = list("scores"), *const types = list("token_type");
    std::vector<SentencePiece> pieces(size_);
    for (size_t i = 0; i < size_; ++i) {
      if (!tokens[i].is_string()) malformed("token " + std::to_string(i) + " is not text", where_);
      pieces[i].text = tokens[i].get<std::string>();
      if (scores != nullptr) {
        if (!(*scores)[i].is_number())
          malformed("the score of token " + std::to_string(i) + " is not a number", where_);
        pieces[i].score = (*scores)[i].get<float>();
      }
      if (types != nullptr) {
        const Json& type = (*types)[i];
        if (!type.is_number_integer() || type.get<std::int64_t>() < 1 || type.get<std::int64_t>() > 6)
          malformed("the type of token " + std::to_string(i) + " is none of 1 to 6", where_);
        pieces[i].type = static_cast<PieceType>(type.get<std::int32_t>());
      }
    }
    return pieces;
  }

  const std::string& where() const { return where_; }

 private:
  const Json* list(const std::string& key) const {
    const Json* const value = find(key);
    if (value != nullptr && (!value->is_array() || value->size() != size_))
      malformed(
          "tokenizer.ggml." + key + " is not a list with an entry for each of " + std::to_string(size_) + " tokens",
          where_);
    return value;
  }

  const Json& metadata_;
  const std::string& where_;
  size_t size_ = 0;
};

// A tokenizer as its files would say it: tokenizer_config.json, and one of the others.
struct Files {
  Json config = Json::object();
  std::string sentencepiece;  // tokenizer.model
  Json byte_level;            // tokenizer.json
};

Files sentencepiece_files(const Keys& keys) {
  const std::vector<SentencePiece> pieces = keys.pieces();
  ModelProtoOptions options;
  for (size_t i = 0; i < pieces.size() && options.unknown < 0; ++i)
    if (pieces[i].type == PieceType::unknown) options.unknown = static_cast<std::int64_t>(i);
  if (options.unknown < 0) malformed("no token is the unknown one (token_type 2)", keys.where());
  options.bos = keys.id("bos_token_id", 1);
  options.eos = keys.id("eos_token_id", 2);
  options.dummy_prefix = keys.flag("add_space_prefix", true);
  options.remove_extra_whitespaces = keys.flag("remove_extra_whitespaces", false);
  // Control tokens are cut out of a text.
  Json added = Json::object();
  for (size_t i = 0; i < pieces.size(); ++i)
    if (pieces[i].type == PieceType::control && i < 1000000000)
      added[std::to_string(i)] = {{"content", pieces[i].text}, {"special", true}};
  Files files;
  files.config = {{"tokenizer_class", "LlamaTokenizer"},
                  {"legacy", false},
                  {"add_bos_token", keys.flag("add_bos_token", true)},
                  {"add_eos_token", keys.flag("add_eos_token", false)},
                  {"add_prefix_space", options.dummy_prefix},
                  {"clean_up_tokenization_spaces", false},
                  {"added_tokens_decoder", added}};
  const std::pair<const char*, std::int64_t> specials[] = {
      {"unk_token", options.unknown}, {"bos_token", options.bos}, {"eos_token", options.eos}};
  for (const auto& [name, id] : specials)
    if (id >= 0) files.config[name] = pieces[static_cast<size_t>(id)].text;
  files.sentencepiece = write_model_proto(pieces, options);
  return files;
}

Json describe_pre_tokenizer(const GgufPreTokenizer& row) {
  Json steps = Json::array();
  for (const char* pattern : row.patterns)
    steps.push_back({{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

Files byte_level_files(const Keys& keys) {
  const GgufPreTokenizer& row = pre_tokenizer(keys.text("pre", "default"), keys.where());
  const std::vector<SentencePiece> pieces = keys.pieces();
  Json vocab = Json::object(), added = Json::array(), frame = Json::array(), specials = Json::object();
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (!is_valid_utf8(pieces[i].text)) malformed("token " + std::to_string(i) + " is not UTF-8", keys.where());
    const bool control = pieces[i].type == PieceType::control || pieces[i].type == PieceType::unknown;
    if (control || pieces[i].type == PieceType::user_defined)
      added.push_back({{"id", i}, {"content", pieces[i].text}, {"single_word", false}, {"lstrip", false}, {"rstrip", false},
                       {"normalized", false}, {"special", control}});
    if (!vocab.emplace(pieces[i].text, i).second && pieces[i].type == PieceType::normal)
      malformed("tokens " + vocab[pieces[i].text].dump() + " and " + std::to_string(i) + " are the same", keys.where());
  }
  const std::int64_t bos = keys.id("bos_token_id", -1), eos = keys.id("eos_token_id", -1);
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto special = [&](std::int64_t id, const char* name) {
    if (id < 0) return;
    const std::string& text = pieces[static_cast<size_t>(id)].text;
    config[name] = text;
    specials[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
  };
  special(bos, "bos_token");
  special(eos, "eos_token");
  if (bos >= 0 && keys.flag("add_bos_token", row.adds_bos))
    frame.push_back({{"SpecialToken", {{"id", config["bos_token"]}, {"type_id", 0}}}});
  frame.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (eos >= 0 && keys.flag("add_eos_token", false))
    frame.push_back({{"SpecialToken", {{"id", config["eos_token"]}, {"type_id", 0}}}});
  Json pair = frame;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
  const Json* const merges = keys.find("merges");
  if (merges == nullptr) malformed("tokenizer.ggml.merges is missing", keys.where());
  Json post = {{"type", "TemplateProcessing"}, {"single", frame}, {"pair", pair}, {"special_tokens", specials}};
  const Json decoder = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
  return {config, "",
          {{"version", "1.0"},
           {"truncation", nullptr},
           {"padding", nullptr},
           {"added_tokens", added},
           {"normalizer", row.nfc ? Json{{"type", "NFC"}} : Json()},
           {"pre_tokenizer", describe_pre_tokenizer(row)},
           {"post_processor", post},
           {"decoder", decoder},
           {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", *merges}, {"ignore_merges", row.ignore_merges}}}}};
}

Files files_of(const Keys& keys) {
  const std::string model = keys.text("model", "");
  if (model == "llama") return sentencepiece_files(keys);
  if (model == "gpt2") return byte_level_files(keys);
  throw Error(ErrorKind::unsupported, "unknown tokenizer model '" + model + "' (tokenizer.ggml.model)", keys.where(),
              "known: llama, gpt2");
}

// Texts of damaged files need not be UTF-8.
std::string to_file(const Json& value) { return value.dump(1, ' ', false, Json::error_handler_t::replace) + "\n"; }

}  // namespace

std::unique_ptr<Tokenizer> make_gguf_tokenizer(const Json& metadata, const std::string& where) {
  Files files = files_of(Keys(metadata, where));
  if (!files.sentencepiece.empty()) return make_llama_tokenizer(std::move(files.sentencepiece), files.config, where);
  return make_json_tokenizer(files.byte_level, files.config, where);
}

std::map<std::string, std::string> describe_gguf_tokenizer(const Json& metadata, const std::string& where) {
  Files files = files_of(Keys(metadata, where));
  if (const auto chat = metadata.find("tokenizer.chat_template"); chat != metadata.end()) files.config["chat_template"] = *chat;
  std::map<std::string, std::string> written = {{"tokenizer_config.json", to_file(files.config)}};
  if (!files.sentencepiece.empty())
    written["tokenizer.model"] = std::move(files.sentencepiece);
  else
    written["tokenizer.json"] = to_file(files.byte_level);
  return written;
}

}  // namespace miq::dataset
