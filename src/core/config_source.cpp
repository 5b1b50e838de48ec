#include <cerrno>

#include "miq/core/config.h"
#include "miq/core/error.h"
#include "miq/core/file.h"

namespace miq {
namespace {

constexpr std::int64_t kMaxYamlBytes = 1 << 20;

std::vector<std::string> split_path(const std::string& path, const std::string& origin) {
  std::vector<std::string> keys(1);
  for (const char c : path) {
    if (c == '.' || c == '[') keys.emplace_back();
    else if (c != ']') keys.back() += c;
  }
  for (const std::string& key : keys)
    if (key.empty()) throw Error(ErrorKind::config, "a key is empty", origin, "write key.path");
  return keys;
}

YAML::Node parse(const std::string& text, const std::string& name) {
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& error) {
    const auto& mark = error.mark;
    const std::string place = mark.is_null() ? "" : ":" + std::to_string(mark.line + 1) + ":" + std::to_string(mark.column + 1);
    throw Error(ErrorKind::config, "not valid YAML: " + error.msg, name + place);
  }
}

// keys[first..] joined by dots, to the one before `last`.
std::string join_path(const std::vector<std::string>& keys, size_t first, size_t last) {
  std::string path = keys[first];
  for (size_t i = first + 1; i < last; ++i) path += "." + keys[i];
  return path;
}

// How many of keys[first..] are one key of the mapping: a file may write `recipe.grid.bits: [4, 3]` where keys are paths themselves (sweep, expect).
size_t keys_in_one(const YAML::Node& map, const std::vector<std::string>& keys, size_t first) {
  for (size_t last = keys.size(); last > first + 1; --last)
    if (map.IsMap() && map[join_path(keys, first, last)]) return last - first;
  return 1;
}

// Takes keys away that lie below `path` though they stand beside it.
void remove_below(YAML::Node map, const std::string& path) {
  std::vector<std::string> below;
  for (const auto& entry : map)
    if (entry.first.IsScalar() && entry.first.Scalar().starts_with(path + ".")) below.push_back(entry.first.Scalar());
  for (const std::string& key : below) map.remove(key);
}

}  // namespace

ConfigSource ConfigSource::from_text(const std::string& text, const std::string& name) {
  if (text.find('\0') != std::string::npos) throw Error(ErrorKind::config, "not valid YAML: a zero byte", name);
  ConfigSource source;
  source.name_ = name;
  source.root_ = parse(text, name);
  if (source.root_.IsNull()) source.root_ = YAML::Node(YAML::NodeType::Map);
  if (!source.root_.IsMap()) throw Error(ErrorKind::config, "the file is not a mapping of keys to values", name, "see configs/README.md");
  return source;
}

ConfigSource ConfigSource::from_file(const std::filesystem::path& file) {
  return from_text(read_file(file, kMaxYamlBytes), file.string());
}

void ConfigSource::set(const std::string& assignment) {
  const std::string origin = "--set " + assignment;
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos) throw Error(ErrorKind::config, "no '=' in it", origin, "write --set key.path=value");
  put(assignment.substr(0, equals), parse(assignment.substr(equals + 1), origin), origin);
}

void ConfigSource::put(const std::string& path_text, const YAML::Node& value, const std::string& origin) {
  std::vector<std::string> keys = split_path(path_text, origin);
  YAML::Node node = root_;
  std::string path;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (const size_t count = keys_in_one(node, keys, i); count > 1) {
      keys[i] = join_path(keys, i, i + count);
      keys.erase(keys.begin() + static_cast<std::ptrdiff_t>(i) + 1, keys.begin() + static_cast<std::ptrdiff_t>(i + count));
    }
    path += (path.empty() ? "" : ".") + keys[i];
    YAML::Node next;
    if (node.IsSequence()) {
      const bool digits = keys[i].size() < 7 && keys[i].find_first_not_of("0123456789") == std::string::npos;
      const size_t index = digits ? std::stoul(keys[i]) : node.size();
      if (index >= node.size())
        throw Error(ErrorKind::config, "the list has " + std::to_string(node.size()) + " elements, '" + keys[i] + "' is none of them", origin);
      if (i + 1 == keys.size()) node[index] = value;
      else next.reset(node[index]);
    } else {
      if (!node.IsMap() && !node.IsNull()) throw Error(ErrorKind::config, "'" + path + "' lies in a value that has no keys", origin);
      if (node.IsMap()) remove_below(node, join_path(keys, i, keys.size()));
      if (i + 1 == keys.size()) node[keys[i]] = value;
      else {
        if (!node[keys[i]] || node[keys[i]].IsNull()) node[keys[i]] = YAML::Node(YAML::NodeType::Map);
        next.reset(node[keys[i]]);
      }
    }
    if (i + 1 < keys.size()) node.reset(next);
  }
  overrides_[path] = origin;
}

ConfigSource ConfigSource::clone() const {
  ConfigSource copy = *this;
  copy.root_.reset(YAML::Clone(root_));
  return copy;
}

std::string ConfigSource::where(const std::string& path, const YAML::Node& node) const {
  std::string prefix = path;
  for (;;) {
    if (const auto found = overrides_.find(prefix); found != overrides_.end()) return found->second;
    const size_t dot = prefix.rfind('.');
    if (dot == std::string::npos) break;
    prefix.resize(dot);
  }
  std::string place = name_;
  if (node.IsDefined() && !node.Mark().is_null())
    place += ":" + std::to_string(node.Mark().line + 1) + ":" + std::to_string(node.Mark().column + 1);
  return path.empty() ? place : place + " " + path;
}

}  // namespace miq
