#include "miq/dataset/gguf_tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "gguf_pre_tokenizers.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/gguf.h"
#include "miq/core/text.h"
#include "sentencepiece_model.h"
#include "sentencepiece_proto.h"
#include "tokenizers.h"

namespace miq::dataset {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kMaxFileBytes = 1 << 28;
constexpr float kAddedScore = -1000, kFillScore = -10000;  // as llama.cpp's converter has them

// The vocabulary by id.
struct Vocabulary {
  std::string model, pre = "default";
  std::vector<SentencePiece> tokens = {};
  std::vector<std::string> merges = {};
  std::vector<std::string> warnings = {};

  void put(std::int64_t id, const std::string& text, float score, PieceType type) {
    if (id < 0 || id >= std::int64_t{1} << 22) throw Error(ErrorKind::io, "the token '" + text + "' has the id " + std::to_string(id));
    const auto index = static_cast<size_t>(id);
    while (tokens.size() <= index) tokens.push_back({"[PAD" + std::to_string(tokens.size()) + "]", kFillScore, PieceType::unused});
    tokens[index] = {text, score, type};
  }
  // A token that is cut out of a text; what sentencepiece knows by itself keeps its kind.
  void put_added(std::int64_t id, const std::string& text, bool special) {
    const auto index = static_cast<size_t>(id);
    if (id >= 0 && index < tokens.size() && tokens[index].text == text && tokens[index].type != PieceType::normal) {
      if (tokens[index].type == PieceType::user_defined && special) tokens[index].type = PieceType::control;
      return;
    }
    put(id, text, kAddedScore, special ? PieceType::control : PieceType::user_defined);
  }
};

// Tokens that stand beside the vocabulary: tokenizer.json's added_tokens, tokenizer_config.json's added_tokens_decoder.
void add_tokens(const Json& description, const Json& config, Vocabulary& vocabulary) {
  const auto flag = [](const Json& item) { return item.value("special", Json(false)) == Json(true); };
  if (description.is_object() && description.contains("added_tokens"))
    for (const Json& item : description["added_tokens"]) vocabulary.put_added(item.at("id").get<std::int64_t>(), item.at("content").get<std::string>(), flag(item));
  if (!config.contains("added_tokens_decoder") || !config["added_tokens_decoder"].is_object()) return;
  for (const auto& [id, item] : config["added_tokens_decoder"].items()) {
    if (id.empty() || id.size() > 8 || id.find_first_not_of("0123456789") != std::string::npos)
      throw Error(ErrorKind::io, "added_tokens_decoder has '" + id + "' for an id");
    vocabulary.put_added(std::stoll(id), item.at("content").get<std::string>(), flag(item));
  }
}

// A merge as "left right".
std::string merge_text(const Json& merge) { return merge.is_string() ? merge.get<std::string>() : merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>(); }

// What cuts a text into words, step by step, in the form of gguf_pre_tokenizers(); nullopt: something else is there.
bool collect_patterns(const Json& step, std::vector<std::string>& patterns) {
  if (step.is_null()) return true;
  const std::string type = step.value("type", "");
  if (type == "Sequence") {
    const Json& list = step.at("pretokenizers");
    return std::all_of(list.begin(), list.end(), [&](const Json& part) { return collect_patterns(part, patterns); });
  }
  if (type == "ByteLevel") {
    if (step.value("add_prefix_space", true)) return false;
    if (step.value("use_regex", true)) patterns.emplace_back(kSplitGpt2);
    return true;
  }
  if (type == "Digits") {
    patterns.emplace_back(step.value("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
    return true;
  }
  const Json pattern = step.value("pattern", Json());
  if (type != "Split" || step.value("behavior", "") != "Isolated" || step.value("invert", false) || !pattern.is_object() || !pattern.contains("Regex")) return false;
  patterns.push_back(pattern["Regex"].get<std::string>());
  return true;
}

void choose_pre_tokenizer(const Json& description, Vocabulary& vocabulary) {
  std::vector<std::string> patterns;
  const bool known_steps = collect_patterns(description.value("pre_tokenizer", Json()), patterns);
  const bool ignore_merges = description["model"].value("ignore_merges", Json(false)) == Json(true);
  const GgufPreTokenizer* best = nullptr;
  for (const GgufPreTokenizer& row : gguf_pre_tokenizers()) {
    if (!known_steps || !std::equal(patterns.begin(), patterns.end(), row.patterns.begin(), row.patterns.end())) continue;
    if (best == nullptr || (row.ignore_merges == ignore_merges && best->ignore_merges != ignore_merges)) best = &row;
  }
  if (best == nullptr) {
    vocabulary.warnings.emplace_back("llama.cpp has no pre-tokenizer that cuts words as this tokenizer.json does: 'default' is written, and some texts will have other tokens");
    return;
  }
  const std::string names = best->names;
  vocabulary.pre = names.substr(0, names.find(' '));
  if (best->ignore_merges != ignore_merges)
    vocabulary.warnings.push_back("the pre-tokenizer '" + vocabulary.pre + "' takes words that are tokens " + (ignore_merges ? "through the merges" : "whole") + ", this tokenizer does not");
  const Json normalizer = description.value("normalizer", Json());
  if (normalizer.is_object() && normalizer.value("type", "") != "NFC") vocabulary.warnings.emplace_back("llama.cpp does not normalise texts as this tokenizer.json does");
}

Vocabulary byte_level(const Json& description, const Json& config) {
  Vocabulary vocabulary{.model = "gpt2"};
  for (const auto& [piece, id] : description.at("model").at("vocab").items()) vocabulary.put(id.get<std::int64_t>(), piece, 0, PieceType::normal);
  for (const Json& merge : description["model"].at("merges")) vocabulary.merges.push_back(merge_text(merge));
  add_tokens(description, config, vocabulary);
  choose_pre_tokenizer(description, vocabulary);
  return vocabulary;
}

// A sentencepiece model that was written as a tokenizer.json: a piece's score is the place of the merge that makes it.
Vocabulary byte_fallback(const Json& description, const Json& config) {
  Vocabulary vocabulary{.model = "llama"};
  std::unordered_map<std::string, float> scores;
  float rank = 0;
  for (const Json& merge : description.at("model").at("merges")) {
    std::string text = merge_text(merge);
    text.erase(text.find(' '), 1);
    scores.emplace(text, -rank);
    ++rank;
  }
  const std::string unknown = description["model"].value("unk_token", Json()).is_string() ? description["model"]["unk_token"].get<std::string>() : "<unk>";
  for (const auto& [piece, id] : description["model"].at("vocab").items()) {
    const bool byte = piece.size() == 6 && piece.rfind("<0x", 0) == 0 && piece.back() == '>';
    const auto score = scores.find(piece);
    vocabulary.put(id.get<std::int64_t>(), piece, byte ? 0 : score == scores.end() ? -rank : score->second,
                   byte ? PieceType::byte : piece == unknown ? PieceType::unknown : PieceType::normal);
  }
  add_tokens(description, config, vocabulary);
  return vocabulary;
}

Vocabulary sentencepiece(const fs::path& path, const Json& description, const Json& config) {
  const std::string proto = read_file(path, kMaxFileBytes);
  if (is_tiktoken(proto))
    throw Error(ErrorKind::unsupported, "a tokenizer of tiktoken's kind is not written as GGUF", path.string(), "put the checkpoint's tokenizer.json beside it");
  Vocabulary vocabulary{.model = "llama"};
  vocabulary.tokens = read_model_proto(proto, path.string());
  add_tokens(description, config, vocabulary);
  return vocabulary;
}

Vocabulary read_vocabulary(const fs::path& folder, const Json& config) {
  const Json description = read_optional_object(folder / "tokenizer.json");
  const bool described = description.contains("model") && description["model"].is_object();
  const bool byte_pairs = described && description["model"].value("byte_fallback", Json(false)) != Json(true);
  if (fs::exists(folder / "tokenizer.model") && !byte_pairs) return sentencepiece(folder / "tokenizer.model", description, config);
  if (described) return byte_pairs ? byte_level(description, config) : byte_fallback(description, config);
  if (fs::exists(folder / "vocab.json") && fs::exists(folder / "merges.txt")) return byte_level(describe_vocab_and_merges(folder, config), config);
  throw Error(ErrorKind::unsupported, "no tokenizer here that can be written as GGUF: tokenizer.model (sentencepiece), tokenizer.json (BPE), vocab.json with merges.txt", folder.string());
}

// The keys of a GGUF file, as typed as its JSON tells.
GgufTokenizerKeys copy_keys(const GgufFile& file) {
  GgufTokenizerKeys keys;
  for (const auto& [name, value] : file.metadata().items()) {
    if (name.rfind("tokenizer.", 0) != 0) continue;
    if (value.is_string()) keys.metadata.emplace_back(name, value.get<std::string>());
    if (value.is_boolean()) keys.metadata.emplace_back(name, value.get<bool>());
    if (value.is_number_integer()) keys.metadata.emplace_back(name, value.get<std::uint32_t>());
    if (!value.is_array() || value.empty()) continue;
    if (value[0].is_string()) keys.metadata.emplace_back(name, value.get<std::vector<std::string>>());
    if (value[0].is_number_float()) keys.metadata.emplace_back(name, value.get<std::vector<float>>());
    if (value[0].is_number_integer()) keys.metadata.emplace_back(name, value.get<std::vector<std::int32_t>>());
  }
  return keys;
}

class KeysOfFolder {
 public:
  KeysOfFolder(const fs::path& folder, std::int64_t vocab_size)
      : folder_(folder),
        config_(read_optional_object(folder / "tokenizer_config.json")),
        model_config_(read_optional_object(folder / "config.json")),
        vocabulary_(read_vocabulary(folder, config_)),
        tokenizer_(load_tokenizer(folder)) {
    const auto tokens = static_cast<std::int64_t>(vocabulary_.tokens.size());
    if (tokens > vocab_size)
      throw Error(ErrorKind::unsupported, "the tokenizer has " + std::to_string(tokens) + " tokens, the model's embedding " + std::to_string(vocab_size) + " rows", folder.string(),
                  "a GGUF file has as many tokens as rows: take the model's own tokenizer");
    if (tokens < vocab_size) vocabulary_.put(vocab_size - 1, "[PAD" + std::to_string(vocab_size - 1) + "]", kFillScore, PieceType::unused);
  }

  GgufTokenizerKeys keys() const {
    GgufTokenizerKeys keys{{}, vocabulary_.warnings};
    GgufMetadata& metadata = keys.metadata;
    const auto add = [&](const std::string& key, GgufValue value) { metadata.emplace_back("tokenizer.ggml." + key, std::move(value)); };
    std::vector<std::string> texts;
    std::vector<float> scores;
    std::vector<std::int32_t> types;
    for (const SentencePiece& token : vocabulary_.tokens) {
      texts.push_back(token.text);
      scores.push_back(token.score);
      types.push_back(static_cast<std::int32_t>(token.type));
    }
    const bool pieces = vocabulary_.model == "llama";
    add("model", vocabulary_.model);
    add("pre", vocabulary_.pre);
    add("tokens", texts);
    if (pieces) add("scores", scores);
    add("token_type", types);
    if (!pieces) add("merges", vocabulary_.merges);
    const auto bos = special(tokenizer_->bos_id(), "bos_token", "bos_token_id"), eos = special(tokenizer_->eos_id(), "eos_token", "eos_token_id");
    if (bos) add("bos_token_id", static_cast<std::uint32_t>(*bos));
    if (eos) add("eos_token_id", static_cast<std::uint32_t>(*eos));
    if (const auto id = unknown()) add("unknown_token_id", static_cast<std::uint32_t>(*id));
    if (const auto id = special(std::nullopt, "pad_token", "pad_token_id")) add("padding_token_id", static_cast<std::uint32_t>(*id));
    // What the tokenizer does is the truth about its flags, wherever they come from.
    const auto framed = tokenizer_->encode("a", true), bare = tokenizer_->encode("a", false);
    add("add_bos_token", bos && !framed.empty() && framed.front() == *bos && (bare.empty() || bare.front() != *bos));
    add("add_eos_token", eos && !framed.empty() && framed.back() == *eos && (bare.empty() || bare.back() != *eos));
    if (pieces) {
      add("add_space_prefix", !bare.empty() && texts.at(static_cast<size_t>(bare.front())).rfind(kSpaceMark, 0) == 0);
      if (tokenizer_->encode("a  a", false) == tokenizer_->encode("a a", false)) add("remove_extra_whitespaces", true);
    }
    if (std::string chat = chat_template_text(folder_); !chat.empty()) metadata.emplace_back("tokenizer.chat_template", std::move(chat));
    return keys;
  }

 private:
  std::optional<std::int64_t> id_of(const std::string& text) const {
    for (size_t i = 0; i < vocabulary_.tokens.size(); ++i)
      if (!text.empty() && vocabulary_.tokens[i].text == text) return static_cast<std::int64_t>(i);
    return std::nullopt;
  }
  // The tokenizer's own, else by the text in tokenizer_config.json, else config.json's.
  std::optional<std::int64_t> special(std::optional<std::int64_t> own, const char* token, const char* id) const {
    if (!own) own = id_of(config_token(config_, token));
    if (own) return own;
    Json value = model_config_.value(id, Json());
    if (value.is_array() && !value.empty()) value = Json(value[0]);
    if (!value.is_number_integer() || value.get<std::int64_t>() < 0 || value.get<std::int64_t>() >= static_cast<std::int64_t>(vocabulary_.tokens.size())) return std::nullopt;
    return value.get<std::int64_t>();
  }
  std::optional<std::int64_t> unknown() const {
    for (size_t i = 0; i < vocabulary_.tokens.size(); ++i)
      if (vocabulary_.tokens[i].type == PieceType::unknown) return static_cast<std::int64_t>(i);
    return id_of(config_token(config_, "unk_token"));
  }

  fs::path folder_;
  Json config_, model_config_;
  Vocabulary vocabulary_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace

GgufTokenizerKeys gguf_tokenizer_keys(const fs::path& folder, std::int64_t vocab_size) {
  try {
    const bool own_files = fs::exists(folder / "tokenizer.json") || fs::exists(folder / "tokenizer.model") || fs::exists(folder / "vocab.json");
    if (const auto gguf = find_gguf(folder); gguf && !own_files) return copy_keys(GgufFile::open(*gguf));
    return KeysOfFolder(folder, vocab_size).keys();
  } catch (const Json::exception& error) {
    throw Error(ErrorKind::io, std::string("malformed tokenizer file: ") + error.what(), folder.string());
  }
}

}  // namespace miq::dataset
