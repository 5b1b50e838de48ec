// Typed, checked reading of a config.json: every error names the file and the key.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

namespace miq::model {

class ConfigJson {
 public:
  ConfigJson(nlohmann::json object, std::string where) : object_(std::move(object)), where_(std::move(where)) {}

  /// The same configuration where keys are spelled otherwise: ours -> the file's.
  ConfigJson with_keys(const std::map<std::string, std::string>& spelling) const;
  /// With `values` over what the file says; `origins`: where each of them stands, for errors.
  ConfigJson with_values(const nlohmann::json& values, const std::map<std::string, std::string>& origins = {}) const;

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
  /// The keys that were asked for so far, as the file spells them; of this object and its copies.
  const std::set<std::string>& asked() const { return *asked_; }
  /// How the file spells a key.
  const std::string& spelled(const std::string& key) const;

  [[noreturn]] void fail(const std::string& key, const std::string& what) const;         ///< Error{io}
  [[noreturn]] void unsupported(const std::string& key, const std::string& what) const;  ///< Error{unsupported}

 private:
  const nlohmann::json* find(const std::string& key) const;
  const std::string& origin(const std::string& key) const;
  nlohmann::json object_;
  std::string where_;
  std::map<std::string, std::string> spelling_, origins_;
  std::shared_ptr<std::set<std::string>> asked_ = std::make_shared<std::set<std::string>>();
};

}  // namespace miq::model
