// Typed, checked reading of a config.json: every error names the file and the key.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace miq::model {

class ConfigJson {
 public:
  ConfigJson(nlohmann::json object, std::string where) : object_(std::move(object)), where_(std::move(where)) {}

  /// The same configuration where keys are spelled otherwise: ours -> the file's.
  ConfigJson with_keys(const std::map<std::string, std::string>& spelling) const;
  /// With `values` over what the file says.
  ConfigJson with_values(const nlohmann::json& values) const;

  bool has(const std::string& key) const { return find(key) != nullptr && !find(key)->is_null(); }
  bool states(const std::string& key) const { return find(key) != nullptr; }  ///< null counts
  /// A size: 1 .. 2^31 - 1. @throws Error{io} missing (without a fallback), another type, out of range.
  std::int64_t size(const std::string& key) const;
  std::int64_t size(const std::string& key, std::int64_t fallback) const { return has(key) ? size(key) : fallback; }
  double positive(const std::string& key, double fallback) const;
  bool flag(const std::string& key, bool fallback) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  std::string first_text(const std::string& key) const;  ///< the first of a list of texts; "" without one
  ConfigJson object(const std::string& key) const;  ///< a nested object
  /// The value of a key that has() it, as it stands there.
  const nlohmann::json& raw(const std::string& key) const { return *find(key); }
  const std::string& where() const { return where_; }

  [[noreturn]] void fail(const std::string& key, const std::string& what) const;         ///< Error{io}
  [[noreturn]] void unsupported(const std::string& key, const std::string& what) const;  ///< Error{unsupported}

 private:
  const std::string& spelled(const std::string& key) const;
  const nlohmann::json* find(const std::string& key) const;
  nlohmann::json object_;
  std::string where_;
  std::map<std::string, std::string> spelling_;
};

}  // namespace miq::model
