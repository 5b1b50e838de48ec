#include <cmath>

#include "miq/core/config.h"
#include "miq/core/memory.h"

namespace miq {
namespace {

// A scalar that YAML reads back as the same text.
std::string yaml_scalar(const std::string& text) {
  const bool plain = !text.empty() && text.find_first_of(":#{}[],&*!|>'\"%@`\\\n\t ") == std::string::npos && text[0] != '-' && text[0] != '?';
  if (plain) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("''") : std::string(1, c);
  return out + "'";
}

// The shortest decimal that reads back as the same number.
std::string number(double value) { return nlohmann::json(value).dump(); }

std::string bytes_text(std::int64_t value) {
  if (value == 0) return "auto";
  for (const auto& [unit, size] : {std::pair<const char*, std::int64_t>{"GiB", std::int64_t{1} << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}})
    if (value % size == 0) return std::to_string(value / size) + unit;
  return std::to_string(value);
}

}  // namespace

nlohmann::ordered_json& ConfigDumper::here() {
  nlohmann::ordered_json* at = &json_;
  for (const std::string& key : path_) at = key == "-" ? &at->back() : &(*at)[key];
  return *at;
}

void ConfigDumper::line(const char* key, const std::string& value, const char* help) {
  std::string text(2 * path_.size(), ' ');
  if (item_start_) text.replace(text.size() - 2, 2, "- ");
  item_start_ = false;
  text += std::string(key) + ":" + (value.empty() ? "" : " " + value);
  if (help != nullptr && *help != '\0') text += std::string(text.size() < 44 ? 44 - text.size() : 2, ' ') + "# " + help;
  yaml_ += text + "\n";
}

void ConfigDumper::integer(const char* key, std::int64_t& value, std::int64_t, std::int64_t, const char* help) {
  line(key, std::to_string(value), help);
  here()[key] = value;
}
void ConfigDumper::real(const char* key, double& value, double, double, const char* help) {
  line(key, number(value), help);
  here()[key] = value;
}
void ConfigDumper::flag(const char* key, bool& value, const char* help) {
  line(key, value ? "true" : "false", help);
  here()[key] = value;
}
void ConfigDumper::text(const char* key, std::string& value, const char* help) {
  line(key, value.empty() ? "null" : yaml_scalar(value), help);
  here()[key] = value.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(value);
}
void ConfigDumper::bytes(const char* key, std::int64_t& value, const char* help) {
  line(key, bytes_text(value), help);
  here()[key] = bytes_text(value);
}
void ConfigDumper::choice(const char* key, int& value, const Names& names, const char* help) {
  std::string shown, all;
  for (const auto& [name, index] : names) {
    if (index == value && shown.empty()) shown = name;
    all += (all.empty() ? "" : " | ") + name;
  }
  line(key, shown, (std::string(help) + " (" + all + ")").c_str());
  here()[key] = shown;
}
void ConfigDumper::begin(const char* key, const char* help) {
  line(key, "", help);
  here()[key] = nlohmann::ordered_json::object();
  path_.emplace_back(key);
}
void ConfigDumper::begin_list(const char* key, const char* help) {
  line(key, "", help);
  here()[key] = nlohmann::ordered_json::array();
  path_.emplace_back(key);
}
void ConfigDumper::begin_item() {
  here().push_back(nlohmann::ordered_json::object());
  path_.emplace_back("-");
  item_start_ = true;
}
void ConfigDumper::end() { path_.pop_back(); }

}  // namespace miq
