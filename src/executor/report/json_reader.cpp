#include "json_reader.h"

#include <cmath>
#include <limits>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/text.h"

namespace miq::executor::report {

void JsonReader::fail(const std::string& what) const {
  throw Error(ErrorKind::io, (place_.empty() ? "the file" : place_) + " " + what, file_, "the file is damaged or not of this version of miq: make it anew");
}

JsonReader JsonReader::operator[](const char* key) const {
  const std::string place = place_.empty() ? key : place_ + "." + key;
  if (!is_known()) return {nullptr, file_, place};
  if (!value_->is_object()) fail("is not a mapping");
  const auto found = value_->find(key);
  return {found == value_->end() ? nullptr : &*found, file_, place};
}

JsonReader JsonReader::required(const char* key) const {
  JsonReader value = (*this)[key];
  if (!value.is_known()) value.fail("is missing");
  return value;
}

std::vector<JsonReader> JsonReader::list() const {
  std::vector<JsonReader> all;
  if (!is_known()) return all;
  if (!value_->is_array()) fail("is not a list");
  for (size_t i = 0; i < value_->size(); ++i) all.push_back({&(*value_)[i], file_, place_ + "[" + std::to_string(i) + "]"});
  return all;
}

std::vector<std::pair<std::string, JsonReader>> JsonReader::members() const {
  std::vector<std::pair<std::string, JsonReader>> all;
  if (!is_known()) return all;
  if (!value_->is_object()) fail("is not a mapping");
  for (const auto& [key, value] : value_->items()) all.emplace_back(key, JsonReader(&value, file_, place_ + "." + printable(key)));
  return all;
}

double JsonReader::number() const {
  if (!is_known()) return std::numeric_limits<double>::quiet_NaN();
  if (!value_->is_number()) fail("is not a number");
  return value_->get<double>();
}

std::int64_t JsonReader::count() const {
  const double value = number();
  if (std::isnan(value)) return -1;
  if (value != std::floor(value) || std::abs(value) > 9007199254740992.0) fail("is not a whole number");
  return static_cast<std::int64_t>(value);
}

std::string JsonReader::text() const {
  if (!is_known()) return "";
  if (!value_->is_string()) fail("is not a text");
  return printable(value_->get<std::string>());
}

bool JsonReader::flag(bool otherwise) const {
  if (!is_known()) return otherwise;
  if (!value_->is_boolean()) fail("is not true or false");
  return value_->get<bool>();
}

std::string JsonReader::scalar() const {
  if (value_ == nullptr) return "";
  return value_->is_string() ? text() : value_->dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string JsonReader::dump() const { return value_ == nullptr ? "" : value_->dump(2, ' ', false, Json::error_handler_t::replace); }

nlohmann::ordered_json read_json_file(const std::filesystem::path& file) {
  const std::string text = read_file(file, std::int64_t{1} << 30);
  parse_json(text, file.string());  // refuses what is not JSON or too deep; what it gives has its keys sorted
  return nlohmann::ordered_json::parse(text);
}

}  // namespace miq::executor::report
