#include <charconv>
#include <cmath>
#include <set>

#include "miq/core/config.h"
#include "miq/core/error.h"
#include "miq/core/memory.h"
#include "miq/core/text.h"

namespace miq {
namespace {

std::string kind_of(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Null: return "nothing";
    case YAML::NodeType::Scalar: return "'" + node.Scalar().substr(0, 60) + "'";
    case YAML::NodeType::Sequence: return "a list";
    case YAML::NodeType::Map: return "a mapping";
    default: return "nothing";
  }
}

std::string number_text(double value) {
  if (std::isinf(value)) return value > 0 ? "any" : "-any";
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

}  // namespace

ConfigReader::ConfigReader(const ConfigSource& source, const YAML::Node& node, std::string path)
    : source_(&source), node_(node), path_(std::move(path)) {
  if (!node_.IsMap()) throw Error(ErrorKind::config, "expected keys with values, found " + kind_of(node_), where());
  std::set<std::string> seen;
  for (const auto& entry : node_) {
    if (!entry.first.IsScalar()) throw Error(ErrorKind::config, "a key is not plain text", source_->where(path_, entry.first));
    if (!seen.insert(entry.first.Scalar()).second)
      throw Error(ErrorKind::config, "the key '" + entry.first.Scalar() + "' stands twice", source_->where(path_of(entry.first.Scalar().c_str()), entry.first),
                  "keep one of them");
  }
}

std::string ConfigReader::path_of(const char* key) const { return path_.empty() ? key : path_ + "." + key; }

std::string ConfigReader::where(const char* key) const {
  const YAML::Node& map = node_;
  return source_->where(path_of(key), map[key] ? map[key] : map);
}

void ConfigReader::fail(const char* key, const std::string& what, const std::string& fix) const {
  throw Error(ErrorKind::config, std::string(key) + " " + what, where(key), fix);
}

bool ConfigReader::has(const char* key) const {
  const YAML::Node& map = node_;
  return map[key] && !map[key].IsNull();
}

YAML::Node ConfigReader::find(const char* key) {
  known_.emplace_back(key);
  const YAML::Node& map = node_;
  return has(key) ? map[key] : YAML::Node(YAML::NodeType::Undefined);
}

YAML::Node ConfigReader::take(const char* key) { return find(key); }

std::string ConfigReader::scalar(const char* key, const YAML::Node& node, const char* expected) const {
  if (!node.IsScalar()) fail(key, std::string("must be ") + expected + ", not " + kind_of(node));
  return node.Scalar();
}

void ConfigReader::integer(const char* key, std::int64_t& value, std::int64_t low, std::int64_t high, const char*) {
  const YAML::Node node = find(key);
  if (!node.IsDefined()) return;
  const std::string text = scalar(key, node, "a whole number");
  std::int64_t number = 0;
  const auto [stop, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc() || stop != text.data() + text.size()) fail(key, "must be a whole number, not '" + text + "'");
  if (number < low || number > high)
    fail(key, "must lie in " + std::to_string(low) + " .. " + std::to_string(high) + ", not " + text);
  value = number;
}

void ConfigReader::real(const char* key, double& value, double low, double high, const char*) {
  const YAML::Node node = find(key);
  if (!node.IsDefined()) return;
  std::string text = scalar(key, node, "a number");
  if (!text.empty() && text[0] == '.') text.insert(0, 1, '0');
  double number = 0;
  const auto [stop, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc() || stop != text.data() + text.size() || !std::isfinite(number))
    fail(key, "must be a number, not '" + text + "'");
  if (number < low || number > high) fail(key, "must lie in " + number_text(low) + " .. " + number_text(high) + ", not " + text);
  value = number;
}

void ConfigReader::flag(const char* key, bool& value, const char*) {
  const YAML::Node node = find(key);
  if (!node.IsDefined()) return;
  const std::string text = scalar(key, node, "true or false");
  if (!YAML::convert<bool>::decode(node, value)) fail(key, "must be true or false, not '" + text + "'");
}

void ConfigReader::text(const char* key, std::string& value, const char*) {
  const YAML::Node node = find(key);
  if (node.IsDefined()) value = scalar(key, node, "text");
}

void ConfigReader::bytes(const char* key, std::int64_t& value, const char*) {
  const YAML::Node node = find(key);
  if (!node.IsDefined()) return;
  const std::string text = scalar(key, node, "a size such as 4GiB");
  const auto parsed = text == "auto" ? std::optional<std::int64_t>(0) : parse_bytes(text);
  if (!parsed || (*parsed == 0 && text != "auto")) fail(key, "must be a size such as 4GiB or 500MB, or auto, not '" + text + "'");
  value = *parsed;
}

void ConfigReader::choice(const char* key, int& value, const Names& names, const char*) {
  const YAML::Node node = find(key);
  if (!node.IsDefined()) return;
  const std::string text = scalar(key, node, "one of its names");
  std::vector<std::string> all;
  std::string list;
  for (const auto& [name, index] : names) {
    if (name == text) {
      value = index;
      return;
    }
    all.push_back(name);
    list += (list.empty() ? "" : ", ") + name;
  }
  const std::string nearest = nearest_name(text, all);
  fail(key, "cannot be '" + text + "'", (nearest.empty() ? "" : "did you mean " + nearest + "? ") + ("known: " + list));
}

void ConfigReader::begin(const char* key, const char*) {
  YAML::Node node = find(key);
  if (!node.IsDefined()) node = YAML::Node(YAML::NodeType::Map);
  ConfigReader inner(*source_, node, path_of(key));
  outer_.push_back({node_, path_, std::move(known_)});
  node_.reset(inner.node_);
  path_ = inner.path_;
  known_.clear();
}

void ConfigReader::end() {
  finish();
  Level& level = outer_.back();
  node_.reset(level.node);
  path_ = std::move(level.path);
  known_ = std::move(level.known);
  outer_.pop_back();
}

std::optional<ConfigReader> ConfigReader::child(const char* key) {
  const YAML::Node node = find(key);
  if (!node.IsDefined()) return std::nullopt;
  return ConfigReader(*source_, node, path_of(key));
}

std::vector<ConfigReader> ConfigReader::list(const char* key) {
  const YAML::Node node = find(key);
  std::vector<ConfigReader> readers;
  if (!node.IsDefined()) return readers;
  if (!node.IsSequence()) fail(key, "must be a list, not " + kind_of(node));
  for (size_t i = 0; i < node.size(); ++i) readers.emplace_back(*source_, node[i], path_of(key) + "." + std::to_string(i));
  return readers;
}

std::vector<std::string> ConfigReader::texts(const char* key) {
  const YAML::Node node = find(key);
  if (!node.IsDefined()) return {};
  if (node.IsScalar()) return {node.Scalar()};
  if (!node.IsSequence()) fail(key, "must be a name or a list of names, not " + kind_of(node));
  std::vector<std::string> values;
  for (const auto& item : node) {
    if (!item.IsScalar()) fail(key, "must be a name or a list of names");
    values.push_back(item.Scalar());
  }
  return values;
}

void ConfigReader::finish() const {
  for (const auto& entry : node_) {
    const std::string key = entry.first.Scalar();
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    const std::string nearest = nearest_name(key, known_);
    std::string list;
    for (const std::string& name : known_) list += (list.empty() ? "" : ", ") + name;
    throw Error(ErrorKind::config, "unknown key '" + key + "'", source_->where(path_of(key.c_str()), entry.first),
                nearest.empty() ? "known here: " + list : "did you mean " + nearest + "?");
  }
}

}  // namespace miq
