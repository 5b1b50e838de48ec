// Records and figures as JSON.
#include <cmath>
#include <limits>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/text.h"
#include "miq/evaluator/metrics.h"

namespace miq::evaluator {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// A count as 3, not 3.0.
OrderedJson short_number(double value) {
  const bool whole = std::isfinite(value) && std::abs(value) < 1e15 && value == std::floor(value);
  return whole ? OrderedJson(static_cast<std::int64_t>(value)) : number_or_null(value);
}

OrderedJson object_of(const NamedValues& values) {
  OrderedJson object = OrderedJson::object();
  for (const auto& entry : values) object[entry.first] = short_number(entry.second);
  return object;
}

template <class Value>
OrderedJson one_or_list(const std::vector<Value>& values) {
  return values.size() == 1 ? OrderedJson(values[0]) : OrderedJson(values);
}

// Reading: each part of a record with the name of its key in the message.
struct Reader {
  const Json& value;
  const std::string& where;

  [[noreturn]] void refuse(const char* key, const std::string& wanted) const {
    throw Error(ErrorKind::io, std::string("the record's \"") + key + "\" is not " + wanted, where, "records files are written by `miq eval`; do not edit them");
  }
  const Json* find(const char* key) const {
    const auto found = value.find(key);
    return found == value.end() || found->is_null() ? nullptr : &*found;
  }
  std::string text(const char* key) const {
    const Json* const found = find(key);
    if (found == nullptr) return "";
    if (!found->is_string()) refuse(key, "a text");
    return found->get<std::string>();
  }
  NamedValues values(const char* key) const {
    const Json* const found = find(key);
    NamedValues result;
    if (found == nullptr) return result;
    if (!found->is_object()) refuse(key, "an object");
    for (const auto& [name, entry] : found->items()) {
      if (!entry.is_number() && !entry.is_null()) refuse(key, "an object of numbers");
      result.emplace_back(name, entry.is_null() ? kUndefined : entry.get<double>());
    }
    return result;
  }
};

}  // namespace

OrderedJson to_json(const Record& record) {
  OrderedJson value;
  if (!record.subject.empty()) value["subject"] = record.subject;
  if (!record.category.empty()) value["category"] = record.category;
  value["doc"] = record.document;
  if (record.prediction) value["prediction"] = *record.prediction;
  else if (record.text) value["prediction"] = *record.text;
  else value["prediction"] = nullptr;
  if (!record.gold.empty()) value["gold"] = one_or_list(record.gold);
  else if (!record.references.empty()) value["gold"] = one_or_list(record.references);
  else value["gold"] = nullptr;
  if (!record.loglikelihoods.empty()) {
    OrderedJson numbers = OrderedJson::array();
    for (const double loglikelihood : record.loglikelihoods) numbers.push_back(number_or_null(loglikelihood));
    value["loglikelihoods"] = std::move(numbers);
  }
  value["metrics"] = object_of(record.metrics);
  if (record.prediction && record.text) value["text"] = *record.text;
  for (const auto& entry : record.extracted) value["extracted"][entry.first] = entry.second;
  if (!record.counts.empty()) value["counts"] = object_of(record.counts);
  if (!record.group.empty()) value["group"] = record.group;
  if (!record.part.empty()) value["part"] = record.part;
  value["digest"] = record.digest;
  for (const dataset::TaskRequest& request : record.requests) value["requests"].push_back({{"context", request.context}, {"continuation", request.continuation}});
  return value;
}

Record record_from_json(const Json& value, const std::string& where) {
  if (!value.is_object()) throw Error(ErrorKind::io, "a record is not an object", where);
  const Reader reader{value, where};
  Record record;
  record.subject = reader.text("subject");
  record.category = reader.text("category");
  record.group = reader.text("group");
  record.part = reader.text("part");
  record.digest = reader.text("digest");
  const Json* const document = reader.find("doc");
  if (document == nullptr || !document->is_number_integer()) reader.refuse("doc", "a number");
  record.document = document->get<std::int64_t>();
  if (const Json* const prediction = reader.find("prediction")) {
    if (prediction->is_number_integer()) record.prediction = prediction->get<std::int64_t>();
    else if (prediction->is_string()) record.text = prediction->get<std::string>();
    else reader.refuse("prediction", "a number or a text");
  }
  if (record.prediction && reader.find("text") != nullptr) record.text = reader.text("text");
  if (const Json* const gold = reader.find("gold")) {
    for (const Json& one : gold->is_array() ? *gold : Json::array({*gold})) {
      if (one.is_number_integer()) record.gold.push_back(one.get<std::int64_t>());
      else if (one.is_string()) record.references.push_back(one.get<std::string>());
      else reader.refuse("gold", "a number, a text, or a list of them");
    }
  }
  if (const Json* const loglikelihoods = reader.find("loglikelihoods")) {
    if (!loglikelihoods->is_array()) reader.refuse("loglikelihoods", "a list");
    for (const Json& one : *loglikelihoods) {
      if (!one.is_number() && !one.is_null()) reader.refuse("loglikelihoods", "a list of numbers");
      record.loglikelihoods.push_back(one.is_null() ? -std::numeric_limits<double>::infinity() : one.get<double>());
    }
  }
  if (const Json* const extracted = reader.find("extracted")) {
    if (!extracted->is_object()) reader.refuse("extracted", "an object");
    for (const auto& [name, found] : extracted->items()) {
      if (!found.is_string()) reader.refuse("extracted", "an object of texts");
      record.extracted.emplace_back(name, found.get<std::string>());
    }
  }
  record.metrics = reader.values("metrics");
  record.counts = reader.values("counts");
  return record;
}

void write_records(const std::filesystem::path& path, const std::vector<Record>& records) {
  std::string lines;
  for (const Record& record : records) lines += to_json(record).dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
  write_file_atomically(path, lines);
}

std::vector<Record> read_records(const std::filesystem::path& path) { return records_from_text(read_file(path), path.string()); }

std::vector<Record> records_from_text(const std::string& content, const std::string& name) {
  std::vector<Record> records;
  std::int64_t line_number = 0;
  for (size_t at = 0; at < content.size();) {
    const size_t end = std::min(content.find('\n', at), content.size());
    const std::string line = content.substr(at, end - at), where = name + ":" + std::to_string(++line_number);
    at = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    records.push_back(record_from_json(parse_json(line, where), where));
  }
  return records;
}

OrderedJson to_json(const MetricValue& value) {
  static const char* const directions[] = {"higher", "lower", "zero"};
  OrderedJson json;
  json["value"] = number_or_null(value.value);
  json["stderr"] = number_or_null(value.standard_error);
  json["ci95"] = {number_or_null(value.low), number_or_null(value.high)};
  json["documents"] = value.documents;
  if (value.left_out > 0) json["left_out"] = value.left_out;
  if (std::isfinite(value.chance)) json["chance"] = value.chance;
  json["better"] = directions[static_cast<int>(value.better)];
  return json;
}

}  // namespace miq::evaluator
