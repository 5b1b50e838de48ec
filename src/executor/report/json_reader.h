// JSON from a file that may be anyone's: every access says what was expected, where.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace miq::executor::report {

/// A value and its place. Absent and null are the same: unknown. A value of another type than asked for is an Error{io}.
class JsonReader {
 public:
  using Json = nlohmann::ordered_json;

  /// The root of a document that outlives the reader.
  JsonReader(const Json& value, const std::filesystem::path& file) : JsonReader(&value, file.string(), "") {}

  bool is_known() const { return value_ != nullptr && !value_->is_null(); }
  JsonReader operator[](const char* key) const;
  std::vector<JsonReader> list() const;
  std::vector<std::pair<std::string, JsonReader>> members() const;
  double number() const;           ///< NaN: unknown
  std::int64_t count() const;      ///< -1: unknown; a whole number below 2^53
  std::string text() const;        ///< "": unknown
  bool flag(bool otherwise) const;
  std::string scalar() const;      ///< text as it is; other values as JSON writes them
  std::string dump() const;        ///< indented
  /// The value, which must be there.
  JsonReader required(const char* key) const;
  [[noreturn]] void fail(const std::string& what) const;

 private:
  JsonReader(const Json* value, std::string file, std::string place) : value_(value), file_(std::move(file)), place_(std::move(place)) {}

  const Json* value_;  // null: absent
  std::string file_, place_;
};

/// Parses the file, keeping the order of keys. @throws Error{io}
nlohmann::ordered_json read_json_file(const std::filesystem::path& file);

}  // namespace miq::executor::report
