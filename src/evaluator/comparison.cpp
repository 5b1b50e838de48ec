#include "miq/evaluator/comparison.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "metric_table.h"
#include "miq/core/error.h"

namespace miq::evaluator {
namespace {

using Key = std::pair<std::string, std::int64_t>;
Key key_of(const Record& record) { return {record.subject, record.document}; }

std::string name_of(const Record& record) {
  return "document " + std::to_string(record.document) + (record.subject.empty() ? "" : " of " + record.subject);
}

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorKind::config, "the two runs are not over the same documents: " + what, "", "run both with the same task, split, subjects and limit");
}

// b's records in the order of a's.
std::vector<Record> paired(const std::vector<Record>& a, const std::vector<Record>& b) {
  std::map<Key, const Record*> places;
  for (const Record& record : b)
    if (!places.emplace(key_of(record), &record).second) refuse(name_of(record) + " comes twice in the second");
  std::vector<Record> result;
  std::map<Key, bool> seen;
  for (const Record& record : a) {
    if (!seen.emplace(key_of(record), true).second) refuse(name_of(record) + " comes twice in the first");
    const auto found = places.find(key_of(record));
    if (found == places.end()) refuse(name_of(record) + " is only in the first");
    if (found->second->digest != record.digest) refuse(name_of(record) + " has other content in the second");
    result.push_back(*found->second);
  }
  for (const Record& record : b)
    if (seen.count(key_of(record)) == 0) refuse(name_of(record) + " is only in the second");
  return result;
}

bool alike(const std::vector<Units>& strata) {
  return std::all_of(strata.begin(), strata.end(), [&](const Units& units) { return units.count() == strata[0].count(); });
}

AnswerChange change_of(const std::vector<Record>& a, const std::vector<Record>& b) {
  AnswerChange result;
  std::int64_t comparable = 0, same = 0, distributions = 0;
  double divergence = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool choices = a[i].prediction && b[i].prediction, texts = !choices && a[i].text && b[i].text;
    comparable += choices || texts;
    same += choices ? a[i].prediction == b[i].prediction : texts && a[i].text == b[i].text;
    if (!choices || a[i].loglikelihoods.size() < 2 || a[i].loglikelihoods.size() != b[i].loglikelihoods.size()) continue;
    const double of_document = choice_divergence(a[i].loglikelihoods, b[i].loglikelihoods);
    if (!std::isfinite(of_document)) continue;
    divergence += of_document;
    ++distributions;
  }
  if (comparable > 0) {
    result.changed = comparable - same;
    result.agreement = static_cast<double>(same) / static_cast<double>(comparable);
  }
  if (distributions > 0) result.divergence = divergence / static_cast<double>(distributions);
  return result;
}

// The documents' values where units are documents and the score is their mean.
std::vector<double> values_of(const std::vector<Units>& strata) {
  std::vector<double> values;
  for (const Units& units : strata)
    for (size_t i = 0; i < units.count(); ++i) values.push_back(units.addends[2 * i]);
  return values;
}

// Standard error of a mean of differences within strata that count alike.
double error_of_difference(const std::vector<Units>& a, const std::vector<Units>& b) {
  double squares = 0;
  for (size_t s = 0; s < a.size(); ++s) {
    std::vector<double> differences;
    for (size_t i = 0; i < a[s].count(); ++i) differences.push_back(b[s].addends[2 * i] - a[s].addends[2 * i]);
    const double error = standard_error(differences);
    squares += error * error;
  }
  return std::sqrt(squares) / static_cast<double>(a.size());
}

// Right and wrong: which documents changed sides, and McNemar's test where all documents weigh the same.
void compare_rights(const std::vector<Units>& a, const std::vector<Units>& b, Comparison& result) {
  const std::vector<double> before = values_of(a), after = values_of(b);
  const auto is_binary = [](double value) { return value == 0 || value == 1; };
  if (!std::all_of(before.begin(), before.end(), is_binary) || !std::all_of(after.begin(), after.end(), is_binary)) return;
  result.lost = result.gained = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    result.lost += before[i] > after[i];
    result.gained += before[i] < after[i];
  }
  if (!alike(a)) return;
  result.p_value = mcnemar(result.lost, result.gained);
  result.test = "McNemar";
}

size_t count_of(const std::vector<Units>& strata) {
  size_t count = 0;
  for (const Units& units : strata) count += units.count();
  return count;
}

}  // namespace

Comparison compare(const std::vector<Record>& a, const std::vector<Record>& b, const std::string& metric, const CompareOptions& options) {
  const MetricRow& row = metric_row(metric);
  const Total total = row.total();
  const std::vector<Record> other = paired(a, b);
  const MetricUnits before = units_of(row, metric, a, options.equal_weights), after = units_of(row, metric, other, options.equal_weights);
  if (before.counted.empty() || after.counted.empty()) throw Error(ErrorKind::config, "no document of the records has the metric " + metric);
  for (size_t i = 0; i < a.size(); ++i)
    if (total.counts(a[i], metric) != total.counts(other[i], metric)) refuse(name_of(a[i]) + " has " + metric + " in one only");

  Comparison result;
  result.metric = metric;
  result.better = row.better;
  result.documents = static_cast<std::int64_t>(before.counted.size());
  result.value_a = score_of(before.strata, total.finish);
  result.value_b = score_of(after.strata, total.finish);
  const DifferenceEstimate estimate = paired_bootstrap(before.strata, after.strata, total.finish, options.bootstrap);
  result.difference = estimate.value;
  result.standard_error = estimate.standard_error;
  result.low = estimate.low;
  result.high = estimate.high;
  result.p_value = estimate.p_value;
  result.test = "paired bootstrap";
  if (count_of(before.strata) < 50) {  // few units have few resamples
    result.p_value = randomisation_test(before.strata, after.strata, total.finish, options.bootstrap);
    result.test = "randomisation";
  }
  if (total.is_mean) {
    result.standard_error = error_of_difference(before.strata, after.strata);
    compare_rights(before.strata, after.strata, result);
  }
  const AnswerChange change = change_of(a, other);
  result.changed = change.changed;
  result.agreement = change.agreement;
  result.divergence = change.divergence;
  return result;
}

AnswerChange compare_answers(const std::vector<Record>& a, const std::vector<Record>& b) { return change_of(a, paired(a, b)); }

nlohmann::ordered_json to_json(const Comparison& comparison) {
  const auto number = [](double value) { return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr); };
  nlohmann::ordered_json json;
  json["metric"] = comparison.metric;
  json["a"] = number(comparison.value_a);
  json["b"] = number(comparison.value_b);
  json["difference"] = number(comparison.difference);
  json["stderr"] = number(comparison.standard_error);
  json["ci95"] = {number(comparison.low), number(comparison.high)};
  json["p_value"] = number(comparison.p_value);
  json["test"] = comparison.test;
  json["documents"] = comparison.documents;
  if (comparison.lost >= 0) json["lost"] = comparison.lost;
  if (comparison.gained >= 0) json["gained"] = comparison.gained;
  if (comparison.changed >= 0) json["changed"] = comparison.changed;
  if (std::isfinite(comparison.agreement)) json["agreement"] = comparison.agreement;
  if (std::isfinite(comparison.divergence)) json["divergence"] = comparison.divergence;
  return json;
}

}  // namespace miq::evaluator
