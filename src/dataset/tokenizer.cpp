#include "miq/dataset/tokenizer.h"

#include <sstream>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/gguf.h"
#include "miq/core/text.h"
#include "sentencepiece_proto.h"
#include "tokenizers.h"

namespace miq::dataset {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kMaxFileBytes = 1 << 28;

std::string text_or_empty(const nlohmann::json& object, const char* key) {
  const nlohmann::json value = object.value(key, nlohmann::json());
  return value.is_string() ? value.get<std::string>() : std::string();
}

// A sentencepiece model's family: the class its tokenizer_config.json (or config.json) names, else the model
// beside it, else facts of the file.
struct Family {
  const char *classes, *model_type;
  bool (*looks_so)(const std::vector<SentencePiece>& pieces);
};

size_t count(const std::vector<SentencePiece>& pieces, PieceType type) {
  size_t found = 0;
  for (const SentencePiece& piece : pieces) found += piece.type == type;
  return found;
}

const Family kBaichuan = {
    "BaichuanTokenizer BaiChuanTokenizer", "baichuan", [](const std::vector<SentencePiece>& pieces) {
      return (pieces.size() == 64000 || pieces.size() == 125696) && count(pieces, PieceType::user_defined) > 300;
    }};
const Family kChatGlm = {"ChatGLMTokenizer ChatGLM4Tokenizer", "chatglm",
                         [](const std::vector<SentencePiece>& pieces) { return pieces.size() == 64789; }};

struct ModelFile {
  fs::path folder;
  nlohmann::json config, model_config;
};

bool is_of(const Family& family, const ModelFile& file, const std::string& proto, const std::string& where) {
  for (const nlohmann::json* const config : {&file.config, &file.model_config}) {
    const std::string named = text_or_empty(*config, "tokenizer_class");
    if (!named.empty()) return (" " + std::string(family.classes) + " ").find(" " + named + " ") != std::string::npos;
  }
  const std::string model_type = text_or_empty(file.model_config, "model_type");
  if (!model_type.empty()) return model_type == family.model_type;
  return family.looks_so(read_model_proto(proto, where));
}

// ChatGLM2 and 3 have one tokenizer.model; ChatGLM3's code adds the role tokens. The code itself lies in a
// folder of the hub; else the model's name, which both its configuration files carry; else it is ChatGLM3.
bool has_role_tokens(const ModelFile& file) {
  const fs::path code = file.folder / "tokenization_chatglm.py";
  if (fs::exists(code)) return read_file(code, kMaxFileBytes).find("<|user|>") != std::string::npos;
  for (const nlohmann::json* const config : {&file.config, &file.model_config})
    for (const char* key : {"name_or_path", "_name_or_path"})
      if (text_or_empty(*config, key).find("chatglm2") != std::string::npos) return false;
  return true;
}

std::unique_ptr<Tokenizer> make_model_file_tokenizer(const fs::path& path, const nlohmann::json& config) {
  const ModelFile file{path.parent_path(), config, read_optional_object(path.parent_path() / "config.json")};
  const std::string where = path.string();
  std::string content = read_file(path, kMaxFileBytes);
  if (is_tiktoken(content)) return make_tiktoken_tokenizer(content, where);
  if (is_of(kBaichuan, file, content, where)) return make_baichuan_tokenizer(std::move(content), config, where);
  if (is_of(kChatGlm, file, content, where))
    return make_chatglm_tokenizer(std::move(content), where, has_role_tokens(file));
  return make_llama_tokenizer(std::move(content), config, where);
}

}  // namespace

nlohmann::json read_optional_object(const fs::path& path) {
  if (!fs::exists(path)) return nlohmann::json::object();
  nlohmann::json object = parse_json(read_file(path, kMaxFileBytes), path.string());
  if (!object.is_object()) throw Error(ErrorKind::io, "not a JSON object", path.string());
  return object;
}

nlohmann::json describe_vocab_and_merges(const fs::path& folder, const nlohmann::json& config) {
  nlohmann::json merges = nlohmann::json::array();
  std::istringstream lines(read_file(folder / "merges.txt", kMaxFileBytes));
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line.rfind("#version", 0) == 0) continue;
    merges.push_back(line);
  }
  const nlohmann::json vocab =
      parse_json(read_file(folder / "vocab.json", kMaxFileBytes), (folder / "vocab.json").string());
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

std::string config_token(const nlohmann::json& config, const char* key) {
  const nlohmann::json value = config.value(key, nlohmann::json());
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string())
    return value["content"].get<std::string>();
  return "";
}

std::map<std::string, std::string> gguf_tokenizer_files(const fs::path& path) {
  const auto gguf = find_gguf(path);
  if (!gguf) return {};
  for (const char* name : {"tokenizer.json", "tokenizer.model", "qwen.tiktoken", "vocab.json"})
    if (fs::exists(path / name)) return {};
  const nlohmann::json metadata = GgufFile::open(*gguf).metadata();
  const nlohmann::json model = metadata.value("tokenizer.ggml.model", nlohmann::json("none"));
  if (model == "none" || model == "no_vocab") return {};
  try {
    return describe_gguf_tokenizer(metadata, gguf->string());
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::io, std::string("malformed tokenizer: ") + error.what(), gguf->string());
  }
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& folder) {
  const nlohmann::json config = read_optional_object(folder / "tokenizer_config.json");
  const fs::path json = folder / "tokenizer.json";
  try {
    if (fs::exists(json))
      return make_json_tokenizer(parse_json(read_file(json, kMaxFileBytes), json.string()), config, json.string());
    for (const char* name : {"tokenizer.model", "qwen.tiktoken"})
      if (fs::exists(folder / name)) return make_model_file_tokenizer(folder / name, config);
    if (fs::exists(folder / "vocab.json") && fs::exists(folder / "merges.txt"))
      return make_json_tokenizer(describe_vocab_and_merges(folder, config), config, (folder / "vocab.json").string());
    if (const auto gguf = find_gguf(folder))
      return make_gguf_tokenizer(GgufFile::open(*gguf).metadata(), gguf->string());
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::io, std::string("malformed tokenizer file: ") + error.what(), folder.string());
  }
  throw Error(ErrorKind::io,
              "no tokenizer here: neither tokenizer.json, tokenizer.model, qwen.tiktoken, vocab.json with merges.txt "
              "nor one GGUF file",
              folder.string(), "copy the tokenizer files of the original checkpoint into the folder");
}

}  // namespace miq::dataset
