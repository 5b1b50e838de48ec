// Two runs of one task over the same documents: what changed, and whether it is more than chance.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "miq/evaluator/metrics.h"

namespace miq::evaluator {

struct CompareOptions {
  BootstrapOptions bootstrap{.resamples = 10000};  ///< more than for an interval: they bound the smallest p-value
  bool equal_weights = false;                      ///< as the task's
};

/// b against a (say, the quantized model against the original).
struct Comparison {
  std::string metric;
  double value_a = kUndefined, value_b = kUndefined;
  double difference = kUndefined;                  ///< b - a
  double standard_error = kUndefined;              ///< of the difference
  double low = kUndefined, high = kUndefined;      ///< paired bootstrap interval of the difference
  double p_value = kUndefined;
  std::string test;                                ///< "McNemar", "randomisation", "paired bootstrap"
  Better better = Better::higher;
  std::int64_t documents = 0;                      ///< that count for the metric
  // Of documents that are right or wrong (0/1 metrics); else -1.
  std::int64_t lost = -1, gained = -1;             ///< right in a and wrong in b; the reverse
  // Of all paired documents; -1 and NaN where there is nothing to compare.
  std::int64_t changed = -1;                       ///< predictions that differ
  double agreement = kUndefined;                   ///< share of the same predictions
  double divergence = kUndefined;                  ///< mean KL divergence of b's choice distribution from a's, nats; over what is finite
};

/// Compares by a figure's name ("acc", "exact_match,strict-match"). The p-value is two-sided: McNemar's exact test for 0/1 metrics (unless
/// subjects of different sizes count alike); else a randomisation test for fewer than 50 documents or groups, the paired bootstrap for more.
/// @throws Error{config} when the records are not of the same documents, naming the first that differs, or lack the metric.
Comparison compare(const std::vector<Record>& a, const std::vector<Record>& b, const std::string& metric, const CompareOptions& options = {});

/// How far two runs' answers differ, whether or not the data tell which are right.
struct AnswerChange {
  std::int64_t changed = -1;       ///< predictions that differ; -1 where there are none to compare
  double agreement = kUndefined;   ///< share of the same predictions
  double divergence = kUndefined;  ///< mean KL divergence of b's choice distribution from a's, nats
};

/// @throws Error{config} when the records are not of the same documents.
AnswerChange compare_answers(const std::vector<Record>& a, const std::vector<Record>& b);

/// As JSON; what is undefined is null or left out.
nlohmann::ordered_json to_json(const Comparison& comparison);

}  // namespace miq::evaluator
