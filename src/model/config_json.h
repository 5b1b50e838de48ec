// Typed, checked reading of a config.json: every error names the file and the key.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace miq::model {

class ConfigJson {
 public:
  ConfigJson(nlohmann::json object, std::string where) : object_(std::move(object)), where_(std::move(where)) {}

  bool has(const std::string& key) const { return object_.contains(key) && !object_[key].is_null(); }
  /// A size: 1 .. 2^31 - 1. @throws Error{io} missing (without a fallback), another type, out of range.
  std::int64_t size(const std::string& key) const;
  std::int64_t size(const std::string& key, std::int64_t fallback) const { return has(key) ? size(key) : fallback; }
  double positive(const std::string& key, double fallback) const;
  bool flag(const std::string& key, bool fallback) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  ConfigJson object(const std::string& key) const;  ///< a nested object
  const nlohmann::json& json() const { return object_; }
  const std::string& where() const { return where_; }

  [[noreturn]] void fail(const std::string& key, const std::string& what) const;         ///< Error{io}
  [[noreturn]] void unsupported(const std::string& key, const std::string& what) const;  ///< Error{unsupported}

 private:
  nlohmann::json object_;
  std::string where_;
};

}  // namespace miq::model
