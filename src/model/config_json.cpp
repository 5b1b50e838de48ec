#include "config_json.h"

#include <cmath>

#include "miq/core/error.h"

namespace miq::model {

std::int64_t ConfigJson::size(const std::string& key) const {
  if (!has(key)) fail(key, "is missing");
  const auto& value = object_[key];
  if (!value.is_number_integer()) fail(key, "must be a whole number, not " + value.dump());
  const auto number = value.get<std::int64_t>();
  if (number < 1 || number > INT32_MAX) fail(key, "must lie in 1 .. 2147483647, not " + value.dump());
  return number;
}

double ConfigJson::positive(const std::string& key, double fallback) const {
  if (!has(key)) return fallback;
  const auto& value = object_[key];
  if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>()))
    fail(key, "must be a positive number, not " + value.dump());
  return value.get<double>();
}

bool ConfigJson::flag(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!object_[key].is_boolean()) fail(key, "must be true or false, not " + object_[key].dump());
  return object_[key].get<bool>();
}

std::string ConfigJson::text(const std::string& key, const std::string& fallback) const {
  if (!has(key)) return fallback;
  if (!object_[key].is_string()) fail(key, "must be text, not " + object_[key].dump());
  return object_[key].get<std::string>();
}

ConfigJson ConfigJson::object(const std::string& key) const {
  if (!has(key) || !object_[key].is_object()) fail(key, "must be an object");
  return ConfigJson(object_[key], where_ + " " + key);
}

void ConfigJson::fail(const std::string& key, const std::string& what) const {
  throw Error(ErrorKind::io, "'" + key + "' " + what, where_,
              "compare with the config.json of the model's original release");
}

void ConfigJson::unsupported(const std::string& key, const std::string& what) const {
  throw Error(ErrorKind::unsupported, "'" + key + "' " + what, where_);
}

}  // namespace miq::model
