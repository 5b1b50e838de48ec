// From what a model answered to scores: one record for each document, and from records the figures of a task with their uncertainty.
// Definitions: lm-evaluation-harness 0.4.13 and MI-optimize (docs/statistics.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "miq/dataset/task.h"
#include "miq/evaluator/statistics.h"

namespace miq::evaluator {

/// What the model said of one document.
struct Answer {
  std::vector<double> loglikelihoods;  ///< of each choice (letter_logits: logits); one sum for a text
  std::vector<std::string> texts;      ///< the generated text, stop strings cut off
  std::int64_t tokens = 0;             ///< scored tokens of a text, for `perplexity`
};

/// Names with their values, in order.
using NamedValues = std::vector<std::pair<std::string, double>>;

/// One document's outcome: a line of a records file. Totals and comparisons are made of records alone.
struct Record {
  std::string subject, category;             ///< empty for a task without subjects
  std::int64_t document = 0;                 ///< place in the split (of its subject)
  std::string digest;                        ///< of the document (not of its shots): records are paired only where it is the same
  std::string group;                         ///< of grouped metrics
  std::string part;                          ///< a division of the documents that the data make: CrowS-Pairs' bias type, FollowBench's level
  std::optional<std::int64_t> prediction;    ///< choice; -1 where a text names none; none for generated texts and perplexity
  std::optional<std::string> text;           ///< what was generated
  std::vector<std::pair<std::string, std::string>> extracted;  ///< what each extraction found in it
  std::vector<std::int64_t> gold;            ///< right choices; empty where the data do not tell
  std::vector<std::string> references;
  std::vector<double> loglikelihoods;
  NamedValues metrics;                       ///< of the document; empty where gold is unknown
  NamedValues counts;                        ///< what totals need beside that (words, bytes, ...)
  std::vector<dataset::TaskRequest> requests;  ///< what the model was asked, where that is kept
};

/// What makes a document this one, whatever is shown before it: 16 hexadecimal digits, Record::digest.
std::string document_digest(const dataset::TaskDocument& document);

/// The value of a name, or none.
std::optional<double> find_value(const NamedValues& values, const std::string& name);

/// {"subject", "doc", "prediction", "gold", "loglikelihoods", "metrics", ...}; keys without content are left out.
nlohmann::ordered_json to_json(const Record& record);

/// Back. @throws Error{io} naming `where` and the key.
Record record_from_json(const nlohmann::json& value, const std::string& where);

/// A line each, written whole or not at all. @throws Error{io}.
void write_records(const std::filesystem::path& path, const std::vector<Record>& records);
std::vector<Record> read_records(const std::filesystem::path& path);
std::vector<Record> records_from_text(const std::string& lines, const std::string& where);

/// Scores one document by every metric of the task.
/// @throws Error{numeric} for a log-likelihood that is not a number, Error{config} for a metric that cannot be had of such documents (both
/// naming the document), Error{internal} for an answer of another shape than the document.
Record score_document(const dataset::Task& task, const dataset::TaskSubject& subject, const dataset::TaskDocument& document, const Answer& answer);

/// Which way a metric is better; zero: the nearer to 0.
enum class Better { higher, lower, zero };

/// A task's figure.
struct MetricValue {
  std::string name;
  double value = kUndefined;
  double standard_error = kUndefined;          ///< of means: sample deviation / sqrt(n); of others: the bootstrap's
  double low = kUndefined, high = kUndefined;  ///< bootstrap percentile interval
  double chance = kUndefined;                  ///< what a guess scores on these documents, where that is known
  Better better = Better::higher;
  std::int64_t documents = 0;                  ///< that count
  std::int64_t left_out = 0;                   ///< gold unknown, or no rule to judge by
};

/// {"value", "stderr", "ci95": [low, high], "documents", ...}; what is undefined is null.
nlohmann::ordered_json to_json(const MetricValue& value);

enum class Weights {
  task,   ///< as the task says
  size,   ///< every document counts alike (micro average)
  equal,  ///< every subject counts alike (macro average)
};

struct SummaryOptions {
  BootstrapOptions bootstrap;
  Weights weights = Weights::task;
};

/// The names of the figures that summarise() gives for the task, in its order.
std::vector<std::string> figure_names(const dataset::Task& task);

/// Each metric of the task over all records. A metric with several extractions is one figure for each ("exact_match,strict-match").
std::vector<MetricValue> summarise(const dataset::Task& task, const std::vector<Record>& records, const SummaryOptions& options = {});

enum class Division { subject, category, part };

struct DivisionSummary {
  std::string name;
  std::int64_t documents = 0;
  std::vector<MetricValue> micro;  ///< every document counts alike
  std::vector<MetricValue> macro;  ///< categories: the mean over their subjects; empty for the others
};

/// The same for each subject, category or part, in the order of their first records; nothing for records without.
std::vector<DivisionSummary> summarise_by(const dataset::Task& task, const std::vector<Record>& records, Division division, const SummaryOptions& options = {});

/// Names of all metrics, in the order of metric_names.def.
std::vector<std::string> metric_names();

/// Of a metric's figure ("exact_match,strict-match" is an exact_match). @throws Error{config} for an unknown name, with the nearest.
Better better_of(const std::string& metric);

}  // namespace miq::evaluator
