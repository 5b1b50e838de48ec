#include "miq/dataset/tokenizer.h"

#include <sstream>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/text.h"
#include "tokenizers.h"

namespace miq::dataset {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kMaxFileBytes = 1 << 28;

nlohmann::json read_optional_object(const fs::path& path) {
  if (!fs::exists(path)) return nlohmann::json::object();
  nlohmann::json object = parse_json(read_file(path, kMaxFileBytes), path.string());
  if (!object.is_object()) throw Error(ErrorKind::io, "not a JSON object", path.string());
  return object;
}

// GPT-2's older layout, told as a tokenizer.json.
nlohmann::json describe_vocab_and_merges(const fs::path& folder, const nlohmann::json& config) {
  nlohmann::json merges = nlohmann::json::array();
  std::istringstream lines(read_file(folder / "merges.txt", kMaxFileBytes));
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line.rfind("#version", 0) == 0) continue;
    merges.push_back(line);
  }
  const nlohmann::json vocab = parse_json(read_file(folder / "vocab.json", kMaxFileBytes), (folder / "vocab.json").string());
  const bool prefix = config.value("add_prefix_space", nlohmann::json(false)) == nlohmann::json(true);
  nlohmann::json added = nlohmann::json::array();
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    const std::string token = config_token(config, key);
    if (vocab.is_object() && vocab.contains(token))
      added.push_back({{"id", vocab[token]}, {"content", token}, {"special", true}, {"normalized", false}});
  }
  const nlohmann::json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", prefix}, {"use_regex", true}};
  return {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}},
          {"pre_tokenizer", byte_level},
          {"decoder", byte_level},
          {"added_tokens", added}};
}

}  // namespace

std::string config_token(const nlohmann::json& config, const char* key) {
  const nlohmann::json value = config.value(key, nlohmann::json());
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string()) return value["content"].get<std::string>();
  return "";
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& folder) {
  const nlohmann::json config = read_optional_object(folder / "tokenizer_config.json");
  const fs::path json = folder / "tokenizer.json", model = folder / "tokenizer.model";
  try {
    if (fs::exists(json)) return make_json_tokenizer(parse_json(read_file(json, kMaxFileBytes), json.string()), config, json.string());
    if (fs::exists(model)) return make_sentencepiece_tokenizer(model, config);
    if (fs::exists(folder / "vocab.json") && fs::exists(folder / "merges.txt"))
      return make_json_tokenizer(describe_vocab_and_merges(folder, config), config, (folder / "vocab.json").string());
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::io, std::string("malformed tokenizer file: ") + error.what(), folder.string());
  }
  throw Error(ErrorKind::io, "no tokenizer here: neither tokenizer.json, tokenizer.model nor vocab.json with merges.txt", folder.string(),
              "copy the tokenizer files of the original checkpoint into the folder");
}

}  // namespace miq::dataset
