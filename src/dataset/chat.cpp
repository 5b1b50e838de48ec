#include "miq/dataset/chat.h"

#include <nlohmann/json.hpp>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/gguf.h"
#include "miq/core/text.h"
#include "tokenizers.h"

namespace miq::dataset {
namespace fs = std::filesystem;
namespace {

enum class System { turn, first_user, last_user, none };  // a turn of its own, or in front of a user's message

// `%` is the content, {token} a special token, {#195} one by its id, {n} the number of the round.
struct Row {
  const char *name, *start = "", *system = "", *user = "", *answer = "", *generation = "";
  System place = System::turn;
  bool trim = false;                      // white space around a content goes
  bool by_id = false;                     // special tokens come as ids, the text between them is encoded alone
  const char* stops = "";                 // tokens that end an answer, separated by spaces
  std::vector<const char*> markers = {};  // all stand in the family's chat templates, and `unless` does not
  const char* unless = "";
  const char *tokens = "", *model_type = "";  // without a template: the tokenizer's special tokens, or config.json
};

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
#define MIQ_CHAT(...) Row{__VA_ARGS__},
#include "chat_templates.def"
#undef MIQ_CHAT
  };
  return table;
}

std::string known_kinds() {
  std::string names;
  for (const Row& row : rows()) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

const Row& find_row(const std::string& name) {
  for (const Row& row : rows())
    if (name == row.name) return row;
  throw Error(ErrorKind::config, "unknown chat template '" + name + "'", "", "known: " + known_kinds());
}

std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> list;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    list.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return list;
}

std::string trimmed(const std::string& text) {
  const char* const kSpace = " \t\n\r\f\v";
  const size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

struct Part {
  std::string text;
  bool special = false;
};

// Appends a pattern of the table; neighbouring texts are one.
void append(std::vector<Part>& parts, const std::string& pattern, const std::string& content, size_t round) {
  const auto add_text = [&](const std::string& text) {
    if (text.empty()) return;
    if (!parts.empty() && !parts.back().special)
      parts.back().text += text;
    else
      parts.push_back({text, false});
  };
  for (size_t at = 0; at < pattern.size();) {
    if (pattern[at] == '{') {
      const size_t end = pattern.find('}', at);
      const std::string name = pattern.substr(at + 1, end - at - 1);
      if (name == "n")
        add_text(std::to_string(round));
      else
        parts.push_back({name, true});
      at = end + 1;
    } else if (pattern[at] == '%') {
      add_text(content);
      ++at;
    } else {
      const size_t end = std::min(pattern.find_first_of("{%", at), pattern.size());
      add_text(pattern.substr(at, end - at));
      at = end;
    }
  }
}

void check_order(const std::vector<ChatMessage>& messages) {
  if (messages.empty()) throw Error(ErrorKind::config, "the conversation has no messages");
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string wanted = i % 2 == 0 ? "user" : "assistant";
    if (messages[i].role != wanted)
      throw Error(ErrorKind::config,
                  "message " + std::to_string(i + 1) + " behind the system message is of '" + messages[i].role +
                      "', not of the " + wanted,
                  "", "one system message at most, in front; then user and assistant by turns");
  }
}

std::vector<Part> parts_of(const Row& row, const ChatKind& kind, std::vector<ChatMessage> messages,
                           bool add_generation_prompt) {
  std::string system = kind.default_system;
  bool has_system = !system.empty();
  if (!messages.empty() && messages[0].role == "system") {
    system = messages[0].content;
    has_system = true;
    messages.erase(messages.begin());
  }
  check_order(messages);
  if (has_system && row.place == System::none)
    throw Error(ErrorKind::unsupported, std::string("the chat template ") + row.name + " has no system message", "",
                "put it into the first message");
  std::vector<Part> parts;
  append(parts, row.start, "", 0);
  const size_t last_user = messages.size() - (messages.size() % 2 == 0 ? 2 : 1);
  const size_t holder = row.place == System::first_user  ? 0
                        : row.place == System::last_user ? last_user
                                                         : messages.size();
  if (has_system && row.place == System::turn) append(parts, row.system, row.trim ? trimmed(system) : system, 0);
  for (size_t i = 0; i < messages.size(); ++i) {
    std::string content = messages[i].content;
    if (has_system && i == holder) {
      std::vector<Part> merged;
      append(merged, row.system, system, 0);
      content = merged[0].text + content;
    }
    append(parts, i % 2 == 0 ? row.user : row.answer, row.trim ? trimmed(content) : content, i / 2 + 1);
  }
  if (add_generation_prompt && messages.size() % 2 == 1) append(parts, row.generation, "", 0);
  return parts;
}

std::int64_t id_of(const Tokenizer& tokenizer, const std::string& name, const Row& row) {
  if (name[0] == '#') {
    const std::int64_t id = std::stol(name.substr(1));
    if (id < tokenizer.vocab_size()) return id;
  } else if (const auto id = tokenizer.special_id(name)) {
    return *id;
  }
  throw Error(ErrorKind::unsupported,
              "the tokenizer has no token " + name + ", which the chat template " + row.name + " needs", "",
              "known chat templates: " + known_kinds());
}

nlohmann::json read_config(const fs::path& path) {
  if (!fs::exists(path)) return nlohmann::json::object();
  nlohmann::json config = parse_json(read_file(path), path.string());
  if (!config.is_object()) throw Error(ErrorKind::io, "not a JSON object", path.string());
  return config;
}

// A template's text: of one, or of the one named "default".
std::string template_text(const nlohmann::json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return "";
  for (const auto& entry : value)
    if (entry.is_object() && entry.value("name", nlohmann::json()) == "default")
      return template_text(entry.value("template", nlohmann::json()));
  return "";
}

// The literal system message that a ChatML template falls back to.
std::string default_system(const std::string& text) {
  static const std::string kOpen = "<|im_start|>system", kClose = "<|im_end|>";
  for (size_t at = 0; (at = text.find(kOpen, at)) != std::string::npos;) {
    at += kOpen.size();
    const size_t line_end = text.compare(at, 2, "\\n") == 0 ? 2 : text.compare(at, 1, "\n") == 0 ? 1 : 0;
    const size_t end = text.find(kClose, at);
    if (line_end == 0 || end == std::string::npos) continue;
    const std::string message = text.substr(at + line_end, end - at - line_end);
    if (!message.empty() && message.find_first_of("'\"{}\\") == std::string::npos) return message;
  }
  return "";
}

bool has_markers(const Row& row, const std::string& text) {
  for (const char* marker : row.markers)
    if (text.find(marker) == std::string::npos) return false;
  return *row.unless == '\0' || text.find(row.unless) == std::string::npos;
}

bool has_tokens(const Row& row, const Tokenizer& tokenizer) {
  const std::vector<std::string> tokens = words(row.tokens);
  return !tokens.empty() && std::all_of(tokens.begin(), tokens.end(), [&](const std::string& token) {
    return tokenizer.special_id(token).has_value();
  });
}

}  // namespace

std::string chat_template_text(const fs::path& folder) {
  const std::string text =
      template_text(read_config(folder / "tokenizer_config.json").value("chat_template", nlohmann::json()));
  if (!text.empty()) return text;
  if (fs::exists(folder / "chat_template.jinja")) return read_file(folder / "chat_template.jinja");
  if (fs::exists(folder / "chat_template.json"))
    return template_text(read_config(folder / "chat_template.json").value("chat_template", nlohmann::json()));
  const auto gguf = find_gguf(folder);
  return gguf ? template_text(GgufFile::open(*gguf).metadata().value("tokenizer.chat_template", nlohmann::json())) : "";
}

std::vector<std::string> chat_kinds() {
  std::vector<std::string> names;
  for (const Row& row : rows()) names.emplace_back(row.name);
  return names;
}

ChatKind detect_chat_kind(const fs::path& folder) {
  const std::string text = chat_template_text(folder);
  if (!text.empty()) {
    for (const Row& row : rows())
      if (has_markers(row, text)) return {row.name, std::string(row.name) == "chatml" ? default_system(text) : ""};
    throw Error(ErrorKind::unsupported, "the checkpoint's chat template is of no known kind", folder.string(),
                "known: " + known_kinds());
  }
  const nlohmann::json model_type = read_config(folder / "config.json").value("model_type", nlohmann::json());
  for (const Row& row : rows())
    if (*row.model_type != '\0' && model_type == row.model_type) return {row.name, ""};
  const auto tokenizer = load_tokenizer(folder);
  for (const Row& row : rows())
    if (has_tokens(row, *tokenizer)) return {row.name, ""};
  throw Error(ErrorKind::unsupported, "the checkpoint has no chat template, and its tokens are of no known kind",
              folder.string(), "name the kind if it is a chat model; known: " + known_kinds());
}

std::string render_chat(const ChatKind& kind, const std::vector<ChatMessage>& messages, bool add_generation_prompt) {
  std::string text;
  for (const Part& part : parts_of(find_row(kind.name), kind, messages, add_generation_prompt)) text += part.text;
  return text;
}

std::vector<std::int64_t> encode_chat(const Tokenizer& tokenizer, const ChatKind& kind,
                                      const std::vector<ChatMessage>& messages, bool add_generation_prompt) {
  const Row& row = find_row(kind.name);
  std::vector<std::int64_t> ids;
  std::string text;
  for (const Part& part : parts_of(row, kind, messages, add_generation_prompt)) {
    if (part.special) {
      const std::int64_t id = id_of(tokenizer, part.text, row);
      if (row.by_id) ids.push_back(id);
    } else if (row.by_id) {
      const std::vector<std::int64_t> encoded = tokenizer.encode(part.text, /*special=*/false);
      ids.insert(ids.end(), encoded.begin(), encoded.end());
    }
    text += part.text;
  }
  return row.by_id ? ids : tokenizer.encode(text, /*special=*/false);
}

std::vector<std::int64_t> chat_stop_ids(const Tokenizer& tokenizer, const ChatKind& kind) {
  const Row& row = find_row(kind.name);
  std::vector<std::int64_t> ids;
  if (const auto eos = tokenizer.eos_id()) ids.push_back(*eos);
  for (const std::string& name : words(row.stops)) {
    if (name[0] != '#' && !tokenizer.special_id(name)) continue;
    const std::int64_t id = id_of(tokenizer, name, row);
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

}  // namespace miq::dataset
