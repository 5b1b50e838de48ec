#include "miq/evaluator/metrics.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "metric_table.h"
#include "miq/core/digest.h"
#include "miq/core/error.h"
#include "miq/dataset/tokenizer.h"

namespace miq::evaluator {
namespace {

using dataset::Shape;

std::vector<std::string> option_texts(const dataset::TaskDocument& document) {
  std::vector<std::string> texts;
  for (const std::string& choice : document.choices) {
    const nlohmann::json* const option = field(document, choice.c_str());
    texts.push_back(option != nullptr && option->is_string() ? option->get<std::string>() : choice);
  }
  return texts;
}

void check_answer(const dataset::Task& task, const dataset::TaskDocument& document, const Answer& answer) {
  const std::string where = place_of(task, document);
  for (const double value : answer.loglikelihoods)
    if (std::isnan(value)) throw Error(ErrorKind::numeric, "a log-likelihood is not a number", where, "the model's weights or activations overflow: look at its perplexity");
  const bool chooses = task.shape == Shape::choice || task.shape == Shape::context_choice || task.shape == Shape::letter_logits;
  const bool in_words = answer.loglikelihoods.empty() && !answer.texts.empty();  // a chat model's answer to a question with letters
  const bool fits = chooses ? in_words || (!answer.loglikelihoods.empty() && answer.loglikelihoods.size() == document.choices.size())
                            : task.shape == Shape::generate ? !answer.texts.empty() : answer.loglikelihoods.size() == 1;
  if (!fits)
    throw Error(ErrorKind::internal, "an answer of " + std::to_string(answer.loglikelihoods.size()) + " log-likelihoods and " + std::to_string(answer.texts.size()) +
                                         " texts for a document of " + std::to_string(document.choices.size()) + " choices", where);
}

// The figures of a metric that the records hold: itself, or one for each extraction.
std::vector<std::string> figures_of(const dataset::Task& task, const std::string& metric) {
  if (metric != "exact_match" || task.extract.empty()) return {metric};
  std::vector<std::string> names;
  for (const dataset::Extraction& extraction : task.extract) names.push_back(metric + "," + extraction.name);
  return names;
}

// The textbook's error of a mean; of a mean of strata's means, the root of the summed squares over their number.
double error_of_mean(const std::vector<Units>& strata) {
  double squares = 0, defined = 0;
  for (const Units& units : strata) {
    if (units.count() == 0) continue;
    std::vector<double> values;
    for (size_t i = 0; i < units.count(); ++i) values.push_back(units.addends[2 * i]);
    const double error = standard_error(values);
    squares += error * error;
    ++defined;
  }
  return std::sqrt(squares) / defined;
}

double chance_of(const MetricRow& row, const std::vector<const Record*>& records, bool equal) {
  if (row.chance == nullptr || records.empty()) return kUndefined;
  std::map<std::string, std::vector<double>> by_subject;
  for (const Record* record : records) by_subject[equal ? record->subject : std::string()].push_back(row.chance(*record));
  std::vector<double> means;
  for (const auto& entry : by_subject) means.push_back(mean(entry.second));
  return mean(means);
}

MetricValue figure(const MetricRow& row, const std::string& name, const std::vector<Record>& records, bool equal, const BootstrapOptions& options) {
  const Total total = row.total();
  const MetricUnits units = units_of(row, name, records, equal);
  const Estimate estimate = bootstrap(units.strata, total.finish, options);
  MetricValue value;
  value.name = name;
  value.value = estimate.value;
  value.standard_error = total.is_mean ? error_of_mean(units.strata) : estimate.standard_error;
  value.low = estimate.low;
  value.high = estimate.high;
  value.chance = chance_of(row, units.counted, equal);
  value.better = row.better;
  value.documents = static_cast<std::int64_t>(units.counted.size());
  value.left_out = units.left_out;
  return value;
}

}  // namespace

std::string place_of(const dataset::Task& task, const dataset::TaskDocument& document) {
  return task.file + "; data: " + document.where + ", document " + std::to_string(document.index);
}

std::string document_digest(const dataset::TaskDocument& document) {
  nlohmann::json key = {{"choices", document.choices}, {"gold", document.gold}, {"references", document.references}, {"fields", document.fields}};
  if (document.fields.is_null())
    for (const dataset::TaskRequest& request : document.requests) key["requests"].push_back({request.context, request.continuation});
  return sha256(key.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)).substr(0, 16);
}

Record score_document(const dataset::Task& task, const dataset::TaskSubject& subject, const dataset::TaskDocument& document, const Answer& answer) {
  check_answer(task, document, answer);
  Record record;
  record.subject = subject.name;
  record.category = subject.category;
  record.document = document.index;
  record.digest = document_digest(document);
  record.group = document.group;
  record.gold = document.gold;
  record.references = document.references;
  record.loglikelihoods = answer.loglikelihoods;
  if (!answer.texts.empty()) record.text = answer.texts[0];
  if (!document.choices.empty()) {
    if (record.loglikelihoods.empty()) {
      record.prediction = parse_choice(*record.text, option_texts(document));
      set_value(record.counts, "choices", static_cast<double>(document.choices.size()));
    } else {
      record.prediction = std::max_element(record.loglikelihoods.begin(), record.loglikelihoods.end()) - record.loglikelihoods.begin();
    }
  }
  const Scoring scoring{task, document, answer};
  std::vector<ScoreFunction> done;
  for (const std::string& name : task.metrics) {
    const ScoreFunction score = metric_row(name).score;
    if (std::find(done.begin(), done.end(), score) != done.end()) continue;
    score(scoring, record);
    done.push_back(score);
  }
  // Of a function's values only those that the task asks for.
  const auto is_asked = [&](const std::string& name) {
    return std::find(task.metrics.begin(), task.metrics.end(), name.substr(0, name.find(','))) != task.metrics.end() || name == "hsr";
  };
  record.metrics.erase(std::remove_if(record.metrics.begin(), record.metrics.end(), [&](const auto& entry) { return !is_asked(entry.first); }),
                       record.metrics.end());
  return record;
}

std::vector<std::string> figure_names(const dataset::Task& task) {
  std::vector<std::string> names;
  for (const std::string& metric : task.metrics)
    for (const std::string& name : figures_of(task, metric)) names.push_back(name);
  return names;
}

std::vector<MetricValue> summarise(const dataset::Task& task, const std::vector<Record>& records, const SummaryOptions& options) {
  const bool equal = options.weights == Weights::equal || (options.weights == Weights::task && task.equal_weights);
  std::vector<MetricValue> values;
  for (const std::string& metric : task.metrics)
    for (const std::string& name : figures_of(task, metric)) values.push_back(figure(metric_row(metric), name, records, equal, options.bootstrap));
  return values;
}

std::vector<DivisionSummary> summarise_by(const dataset::Task& task, const std::vector<Record>& records, Division division, const SummaryOptions& options) {
  std::vector<std::pair<std::string, std::vector<Record>>> divisions;
  std::map<std::string, size_t> places;
  for (const Record& record : records) {
    const std::string& name = division == Division::subject ? record.subject : division == Division::category ? record.category : record.part;
    if (name.empty()) continue;
    const size_t place = places.emplace(name, divisions.size()).first->second;
    if (place == divisions.size()) divisions.emplace_back(name, std::vector<Record>());
    divisions[place].second.push_back(record);
  }
  std::vector<DivisionSummary> result;
  SummaryOptions micro = options, macro = options;
  micro.weights = Weights::size;
  macro.weights = Weights::equal;
  for (const auto& entry : divisions) {
    DivisionSummary summary;
    summary.name = entry.first;
    summary.documents = static_cast<std::int64_t>(entry.second.size());
    summary.micro = summarise(task, entry.second, micro);
    if (division == Division::category) summary.macro = summarise(task, entry.second, macro);
    result.push_back(std::move(summary));
  }
  return result;
}

}  // namespace miq::evaluator
