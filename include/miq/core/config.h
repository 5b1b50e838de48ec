// Configuration: strict YAML into plain structs. A struct states its keys once, in
//   void visit_fields(FieldVisitor& v, Grid& grid) { v.integer("bits", grid.bits, 2, 8, "bits per code"); ... }
// and reading, checking, help, the resolved dump and JSON all follow from that list.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace miq {

/// Sees each key of a struct once, with its member, its bounds and its meaning.
class FieldVisitor {
 public:
  using Names = std::vector<std::pair<std::string, int>>;  ///< accepted spellings and values; the first of a value is shown

  virtual ~FieldVisitor() = default;
  /// Whether values are written out: a key without meaning beside the others is then left away.
  virtual bool writes() const { return false; }
  virtual void integer(const char* key, std::int64_t& value, std::int64_t low, std::int64_t high, const char* help) = 0;
  virtual void real(const char* key, double& value, double low, double high, const char* help) = 0;
  virtual void flag(const char* key, bool& value, const char* help) = 0;
  virtual void text(const char* key, std::string& value, const char* help) = 0;
  /// A byte count such as 5GiB; 0 is written and read as "auto".
  virtual void bytes(const char* key, std::int64_t& value, const char* help) = 0;
  virtual void choice(const char* key, int& value, const Names& names, const char* help) = 0;
  virtual void begin(const char* key, const char* help) = 0;
  virtual void end() = 0;

  void integer(const char* key, int& value, std::int64_t low, std::int64_t high, const char* help) {
    std::int64_t wide = value;
    integer(key, wide, low, high, help);
    value = static_cast<int>(wide);
  }
  template <class Enum>
  void choice(const char* key, Enum& value, const std::vector<std::pair<std::string, Enum>>& names, const char* help) {
    Names plain;
    for (const auto& [name, e] : names) plain.emplace_back(name, static_cast<int>(e));
    int index = static_cast<int>(value);
    choice(key, index, plain, help);
    value = static_cast<Enum>(index);
  }
  /// A nested struct.
  template <class T>
  void object(const char* key, T& value, const char* help) {
    begin(key, help);
    visit_fields(*this, value);
    end();
  }
};

/// A YAML file with `--set` overrides applied, which knows where each value came from.
class ConfigSource {
 public:
  /// @throws Error{io} unreadable, Error{config} not YAML (file:line:column), not a mapping, too large.
  static ConfigSource from_file(const std::filesystem::path& file);
  static ConfigSource from_text(const std::string& text, const std::string& name);
  static ConfigSource empty() { return from_text("{}", "(defaults)"); }

  /// Applies `key.path=value` (value: YAML; list elements by index; a key written with dots, as in a sweep, is found by its path). @throws Error{config}
  void set(const std::string& assignment);
  /// Sets the value at `path`, which `origin` gave: messages name that. @throws Error{config}
  void put(const std::string& path, const YAML::Node& value, const std::string& origin);
  /// A source of its own, whose changes are not this one's.
  ConfigSource clone() const;
  /// Replaces the tree, for example by a translation of it.
  void replace(const YAML::Node& root) { root_.reset(root); }
  const YAML::Node& root() const { return root_; }
  const std::string& name() const { return name_; }
  /// "a.yaml:3:7 recipe.grid.bits", or the --set that gave the value.
  std::string where(const std::string& path, const YAML::Node& node) const;

 private:
  std::string name_;
  YAML::Node root_;
  std::map<std::string, std::string> overrides_;  // path -> origin
};

/// Reads one mapping; every key must be asked for before finish().
class ConfigReader : public FieldVisitor {
 public:
  explicit ConfigReader(const ConfigSource& source) : ConfigReader(source, source.root(), "") {}
  ConfigReader(const ConfigSource& source, const YAML::Node& node, std::string path);

  using FieldVisitor::choice;
  using FieldVisitor::integer;
  void integer(const char* key, std::int64_t& value, std::int64_t low, std::int64_t high, const char* help) override;
  void real(const char* key, double& value, double low, double high, const char* help) override;
  void flag(const char* key, bool& value, const char* help) override;
  void text(const char* key, std::string& value, const char* help) override;
  void bytes(const char* key, std::int64_t& value, const char* help) override;
  void choice(const char* key, int& value, const Names& names, const char* help) override;
  void begin(const char* key, const char* help) override;
  void end() override;

  bool has(const char* key) const;
  /// The mapping under `key`, or nullopt when absent or null. @throws Error{config} for another type.
  std::optional<ConfigReader> child(const char* key);
  /// A reader of `node`, which stands for the value of `key`.
  ConfigReader nested(const char* key, const YAML::Node& node) const { return ConfigReader(*source_, node, path_of(key)); }
  /// The elements of the list under `key` as readers (each must be a mapping).
  std::vector<ConfigReader> list(const char* key);
  /// A scalar or a list of scalars as text.
  std::vector<std::string> texts(const char* key);
  /// The raw node, which then counts as asked for.
  YAML::Node take(const char* key);
  /// @throws Error{config} for the first key nobody asked for, with the nearest known one.
  void finish() const;

  std::string where() const { return source_->where(path_, node_); }
  std::string where(const char* key) const;
  [[noreturn]] void fail(const char* key, const std::string& what, const std::string& fix = "") const;

 private:
  struct Level {
    YAML::Node node;
    std::string path;
    std::vector<std::string> known;
  };
  YAML::Node find(const char* key);
  std::string scalar(const char* key, const YAML::Node& node, const char* expected) const;
  std::string path_of(const char* key) const;

  const ConfigSource* source_;
  YAML::Node node_;
  std::string path_;
  std::vector<std::string> known_;
  std::vector<Level> outer_;  // of begin()
};

/// Writes YAML with each key's meaning behind it, and the same as JSON.
class ConfigDumper : public FieldVisitor {
 public:
  bool writes() const override { return true; }
  using FieldVisitor::choice;
  using FieldVisitor::integer;
  void integer(const char* key, std::int64_t& value, std::int64_t low, std::int64_t high, const char* help) override;
  void real(const char* key, double& value, double low, double high, const char* help) override;
  void flag(const char* key, bool& value, const char* help) override;
  void text(const char* key, std::string& value, const char* help) override;
  void bytes(const char* key, std::int64_t& value, const char* help) override;
  void choice(const char* key, int& value, const Names& names, const char* help) override;
  void begin(const char* key, const char* help) override;
  void end() override;
  /// A list whose elements follow, each between begin_item() and end().
  void begin_list(const char* key, const char* help);
  void begin_item();

  const std::string& yaml() const { return yaml_; }
  const nlohmann::ordered_json& json() const { return json_; }

 private:
  void line(const char* key, const std::string& value, const char* help);
  nlohmann::ordered_json& here();
  std::string yaml_;
  nlohmann::ordered_json json_ = nlohmann::ordered_json::object();
  std::vector<std::string> path_;   // keys and list indexes down to here
  bool item_start_ = false;
};

}  // namespace miq
