#include "config_json.h"

#include <cmath>

#include "miq/core/error.h"

namespace miq::model {

ConfigJson ConfigJson::with_keys(const std::map<std::string, std::string>& spelling) const {
  ConfigJson copy = *this;
  for (const auto& [ours, theirs] : spelling) copy.spelling_[ours] = spelled(theirs);
  return copy;
}

ConfigJson ConfigJson::with_values(const nlohmann::json& values, const std::map<std::string, std::string>& origins) const {
  ConfigJson copy = *this;
  for (const auto& [key, value] : values.items()) copy.object_[spelled(key)] = value;
  for (const auto& [key, origin] : origins) copy.origins_[spelled(key)] = origin;
  return copy;
}

const std::string& ConfigJson::spelled(const std::string& key) const {
  const auto found = spelling_.find(key);
  return found == spelling_.end() ? key : found->second;
}

const std::string& ConfigJson::origin(const std::string& key) const {
  const auto found = origins_.find(spelled(key));
  return found == origins_.end() ? where_ : found->second;
}

const nlohmann::json* ConfigJson::find(const std::string& key) const {
  asked_->insert(spelled(key));
  const auto found = object_.find(spelled(key));
  return found == object_.end() ? nullptr : &*found;
}

std::int64_t ConfigJson::size(const std::string& key) const {
  if (!has(key)) fail(key, "is missing");
  const auto& value = raw(key);
  if (!value.is_number_integer()) fail(key, "must be a whole number, not " + value.dump());
  const auto number = value.get<std::int64_t>();
  if (number < 1 || number > INT32_MAX) fail(key, "must lie in 1 .. 2147483647, not " + value.dump());
  return number;
}

double ConfigJson::positive(const std::string& key, double fallback) const {
  if (!has(key)) return fallback;
  const auto& value = raw(key);
  if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>()))
    fail(key, "must be a positive number, not " + value.dump());
  return value.get<double>();
}

bool ConfigJson::flag(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  if (!raw(key).is_boolean()) fail(key, "must be true or false, not " + raw(key).dump());
  return raw(key).get<bool>();
}

std::string ConfigJson::text(const std::string& key, const std::string& fallback) const {
  if (!has(key)) return fallback;
  if (!raw(key).is_string()) fail(key, "must be text, not " + raw(key).dump());
  return raw(key).get<std::string>();
}

std::string ConfigJson::first_text(const std::string& key) const {
  if (!has(key) || !raw(key).is_array() || raw(key).empty() || !raw(key)[0].is_string()) return "";
  return raw(key)[0].get<std::string>();
}

ConfigJson ConfigJson::object(const std::string& key) const {
  if (!has(key) || !raw(key).is_object()) fail(key, "must be an object");
  return ConfigJson(raw(key), origin(key) + " " + key);
}

void ConfigJson::fail(const std::string& key, const std::string& what) const {
  const bool described = origins_.count(spelled(key)) != 0;
  throw Error(described ? ErrorKind::config : ErrorKind::io, "'" + (described ? key : spelled(key)) + "' " + what, origin(key),
              described ? "" : "compare with the config.json of the model's original release");
}

void ConfigJson::unsupported(const std::string& key, const std::string& what) const {
  throw Error(ErrorKind::unsupported, "'" + spelled(key) + "' " + what, origin(key));
}

}  // namespace miq::model
