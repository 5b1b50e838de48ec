// The rows behind metric_names.def: how a document is scored and how a total comes of records.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "miq/evaluator/metrics.h"

namespace miq::evaluator {

/// What a scoring function sees.
struct Scoring {
  const dataset::Task& task;
  const dataset::TaskDocument& document;
  const Answer& answer;
};
using ScoreFunction = void (*)(const Scoring&, Record&);

/// "TASK.yaml; data: FILE:LINE, document N".
std::string place_of(const dataset::Task& task, const dataset::TaskDocument& document);

/// Writes a value, or replaces it: several metrics come of one function.
void set_value(NamedValues& values, const std::string& name, double value);

/// The row's field, or null.
const nlohmann::json* field(const dataset::TaskDocument& document, const char* name);

using RecordGroup = std::span<const Record* const>;

/// How a total comes of records: which count, what each unit adds, what is done with the sums.
struct Total {
  std::size_t width;
  bool by_group;     ///< a unit is a group, not a document
  bool is_mean;      ///< the sums are (values, number) and units are documents: the textbook's standard error holds
  bool (*counts)(const Record&, const std::string& metric);
  void (*add)(RecordGroup unit, const std::string& metric, double* addends);  ///< to zeros; a unit that does not count adds nothing
  Finish finish;
};

struct MetricRow {
  const char* name;
  ScoreFunction score;
  Total (*total)();
  Better better;
  double (*chance)(const Record&);  ///< null: unknown
};

/// All rows.
const std::vector<MetricRow>& metric_table();

/// The row of a figure's name, up to the comma. @throws Error{config} with the nearest name.
const MetricRow& metric_row(const std::string& metric);

/// The records that count for a metric, as units in strata: one stratum, or with `by_subject` one for each subject in order of appearance.
struct MetricUnits {
  std::vector<Units> strata;
  std::vector<const Record*> counted;
  std::int64_t left_out = 0;
};
MetricUnits units_of(const MetricRow& row, const std::string& metric, const std::vector<Record>& records, bool by_subject);

/// MI-optimize's reading of a chat model's answer: which of the letters A - D it names, -1 for none.
std::int64_t parse_choice(const std::string& text, const std::vector<std::string>& options);

/// Whether a FollowBench answer passes; none where only a judge could say.
std::optional<bool> followbench_passes(const nlohmann::json& row, const std::string& generation);

}  // namespace miq::evaluator
