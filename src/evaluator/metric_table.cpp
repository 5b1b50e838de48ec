#include "metric_table.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "metric_scores.h"
#include "miq/core/error.h"
#include "text_metrics.h"

namespace miq::evaluator {
namespace {

double value_or(const NamedValues& values, const std::string& name, double otherwise) { return find_value(values, name).value_or(otherwise); }

// --- which records count ---
bool has_metric(const Record& record, const std::string& metric) { return find_value(record.metrics, metric).has_value(); }
bool has_gold(const Record& record, const std::string&) { return !record.gold.empty() && record.prediction; }
bool is_ambiguous(const Record& record, const std::string&) { return !record.gold.empty() && find_value(record.counts, "ambiguous") == 1.0; }
bool is_disambiguated(const Record& record, const std::string&) { return !record.gold.empty() && find_value(record.counts, "ambiguous") == 0.0; }
bool has_words(const Record& record, const std::string&) { return value_or(record.counts, "words", 0) > 0; }
bool has_bytes(const Record& record, const std::string&) { return value_or(record.counts, "bytes", 0) > 0; }
bool has_tokens(const Record& record, const std::string&) { return value_or(record.counts, "tokens", 0) > 0; }
bool has_bleu(const Record& record, const std::string&) { return find_value(record.counts, "bleu_0").has_value(); }

// --- what a unit adds ---
void add_value(RecordGroup unit, const std::string& metric, double* addends) {
  for (const Record* record : unit) {
    addends[0] += *find_value(record->metrics, metric);
    addends[1] += 1;
  }
}
void add_right(RecordGroup unit, const std::string&, double* addends) {
  addends[0] += *find_value(unit[0]->counts, "right");
  addends[1] += 1;
}
// True and false positives, false and true negatives of choice 1.
void add_confusion(RecordGroup unit, const std::string&, double* addends) {
  for (const Record* record : unit) {
    const bool said = *record->prediction == 1, is = record->gold[0] == 1;
    addends[is ? (said ? 0 : 2) : (said ? 1 : 3)] += 1;
  }
}
// MC-TACO's scorer of the older harness: precision and recall of nothing are 1; a question without either does not count (it adds nothing).
void add_question_f1(RecordGroup unit, const std::string& metric, double* addends) {
  double confusion[4] = {};
  add_confusion(unit, metric, confusion);
  const double right = confusion[0], said = right + confusion[1], is = right + confusion[2];
  const double precision = said > 0 ? right / said : 1, recall = is > 0 ? right / is : 1;
  if (precision + recall == 0) return;
  addends[0] = 2 * precision * recall / (precision + recall);
  addends[1] = 1;
}
void add_all_right(RecordGroup unit, const std::string& metric, double* addends) {
  double confusion[4] = {};
  add_confusion(unit, metric, confusion);
  addends[0] = confusion[1] + confusion[2] == 0;
  addends[1] = 1;
}
// Biased and known answers, right ones, documents.
void add_bias(RecordGroup unit, const std::string&, double* addends) {
  const char* const names[] = {"biased", "known", "right"};
  for (size_t i = 0; i < 3; ++i) addends[i] = *find_value(unit[0]->counts, names[i]);
  addends[3] = 1;
}
template <int which>
void add_likelihood(RecordGroup unit, const std::string&, double* addends) {
  static const char* const names[] = {"words", "bytes", "tokens"};
  addends[0] = unit[0]->loglikelihoods[0];
  addends[1] = *find_value(unit[0]->counts, names[which]);
}
void add_bleu(RecordGroup unit, const std::string&, double* addends) {
  for (size_t i = 0; i < 10; ++i) addends[i] = *find_value(unit[0]->counts, "bleu_" + std::to_string(i));
}
// How many levels from the first on pass in a row; a group without its first level does not count.
void add_levels(RecordGroup unit, const std::string&, double* addends) {
  std::map<std::int64_t, bool> passes;
  for (const Record* record : unit)
    passes[static_cast<std::int64_t>(value_or(record->counts, "level", 0))] = *find_value(record->metrics, "hsr") == 1;
  if (passes.count(1) == 0) return;
  for (std::int64_t level = 1; passes.count(level) != 0 && passes[level]; ++level) addends[0] += 1;
  addends[1] = 1;
}
bool has_level(const Record& record, const std::string&) { return has_metric(record, "hsr"); }

// --- what is done with the sums ---
double ratio(const double* s) { return s[1] == 0 ? kUndefined : s[0] / s[1]; }
double finish_f1(const double* s) { return s[0] == 0 ? 0 : 2 * s[0] / (2 * s[0] + s[1] + s[2]); }
double finish_mcc(const double* s) {
  const double product = (s[0] + s[1]) * (s[0] + s[2]) * (s[3] + s[1]) * (s[3] + s[2]);
  return product == 0 ? 0 : (s[0] * s[3] - s[1] * s[2]) / std::sqrt(product);
}
double finish_bias(const double* s) {
  if (s[3] == 0) return kUndefined;
  return s[0] == 0 ? 0 : 2 * s[0] / s[1] - 1;
}
double finish_ambiguous_bias(const double* s) { return (1 - s[2] / s[3]) * finish_bias(s); }
double finish_perplexity(const double* s) { return std::exp(-ratio(s)); }
double finish_bits(const double* s) { return -ratio(s) / std::log(2.0); }

Total total_mean() { return {2, false, true, has_metric, add_value, ratio}; }
Total total_clustered_mean() { return {2, true, false, has_metric, add_value, ratio}; }
Total total_f1() { return {4, false, false, has_gold, add_confusion, finish_f1}; }
Total total_mcc() { return {4, false, false, has_gold, add_confusion, finish_mcc}; }
Total total_grouped_f1() { return {2, true, false, has_gold, add_question_f1, ratio}; }
Total total_grouped_exact_match() { return {2, true, false, has_gold, add_all_right, ratio}; }
Total total_ambiguous_mean() { return {2, false, true, is_ambiguous, add_right, ratio}; }
Total total_disambiguated_mean() { return {2, false, true, is_disambiguated, add_right, ratio}; }
Total total_ambiguous_bias() { return {4, false, false, is_ambiguous, add_bias, finish_ambiguous_bias}; }
Total total_disambiguated_bias() { return {4, false, false, is_disambiguated, add_bias, finish_bias}; }
Total total_consistent_levels() { return {2, true, false, has_level, add_levels, ratio}; }
Total total_word_perplexity() { return {2, false, false, has_words, add_likelihood<0>, finish_perplexity}; }
Total total_byte_perplexity() { return {2, false, false, has_bytes, add_likelihood<1>, finish_perplexity}; }
Total total_bits_per_byte() { return {2, false, false, has_bytes, add_likelihood<1>, finish_bits}; }
Total total_token_perplexity() { return {2, false, false, has_tokens, add_likelihood<2>, finish_perplexity}; }
Total total_bleu() { return {10, false, false, has_bleu, add_bleu, bleu_score}; }

// --- what a guess scores on a document ---
double choices_of(const Record& record) { return value_or(record.counts, "choices", static_cast<double>(record.loglikelihoods.size())); }
double chance_uniform(const Record& record) {
  const double choices = choices_of(record);
  double right = 0;
  for (const std::int64_t gold : record.gold) right += static_cast<double>(gold) < choices;
  return choices > 0 ? right / choices : kUndefined;
}
double chance_second_rank(const Record& record) { return choices_of(record) > 0 ? std::min(1.0, 2 / choices_of(record)) : kUndefined; }
double chance_reciprocal_rank(const Record& record) {
  double sum = 0;
  for (double rank = 1; rank <= choices_of(record); ++rank) sum += 1 / rank;
  return choices_of(record) > 0 ? sum / choices_of(record) : kUndefined;
}
double chance_true_share(const Record& record) { return value_or(record.counts, "true_choices", kUndefined) / choices_of(record); }
double chance_half(const Record&) { return 0.5; }
double chance_zero(const Record&) { return 0; }
double (*const chance_unknown)(const Record&) = nullptr;

// The key under which records belong together.
std::string group_key(const Record& record) {
  return record.subject + '\n' + (record.group.empty() ? '\n' + std::to_string(record.document) : record.group);
}

}  // namespace

void set_value(NamedValues& values, const std::string& name, double value) {
  for (auto& entry : values) {
    if (entry.first != name) continue;
    entry.second = value;
    return;
  }
  values.emplace_back(name, value);
}

std::optional<double> find_value(const NamedValues& values, const std::string& name) {
  for (const auto& entry : values)
    if (entry.first == name) return entry.second;
  return std::nullopt;
}

const nlohmann::json* field(const dataset::TaskDocument& document, const char* name) {
  return document.fields.is_object() && document.fields.contains(name) ? &document.fields[name] : nullptr;
}

const std::vector<MetricRow>& metric_table() {
  static const std::vector<MetricRow> table = {
#define MIQ_METRIC(name, score, total, better, chance) {name, score_##score, total_##total, Better::better, chance_##chance},
#include "miq/dataset/metric_names.def"
#undef MIQ_METRIC
  };
  return table;
}

std::vector<std::string> metric_names() {
  std::vector<std::string> names;
  for (const MetricRow& row : metric_table()) names.emplace_back(row.name);
  return names;
}

const MetricRow& metric_row(const std::string& metric) {
  const std::string name = metric.substr(0, metric.find(','));
  for (const MetricRow& row : metric_table())
    if (name == row.name) return row;
  const std::string nearest = nearest_name(name, metric_names());
  throw Error(ErrorKind::config, "there is no metric " + name, "", nearest.empty() ? "" : "did you mean " + nearest + "?");
}

Better better_of(const std::string& metric) { return metric_row(metric).better; }

MetricUnits units_of(const MetricRow& row, const std::string& metric, const std::vector<Record>& records, bool by_subject) {
  const Total total = row.total();
  MetricUnits result;
  std::map<std::string, size_t> stratum_of, unit_of;
  std::vector<std::vector<std::vector<const Record*>>> units;  // [stratum][unit]
  for (const Record& record : records) {
    if (!total.counts(record, metric)) continue;
    result.counted.push_back(&record);
    const size_t stratum = stratum_of.emplace(by_subject ? record.subject : std::string(), stratum_of.size()).first->second;
    if (stratum == units.size()) units.emplace_back();
    size_t unit = units[stratum].size();
    if (total.by_group) unit = unit_of.emplace(group_key(record), unit).first->second;
    if (unit == units[stratum].size()) units[stratum].emplace_back();
    units[stratum][unit].push_back(&record);
  }
  for (const auto& stratum : units) {
    Units addends;
    addends.width = total.width;
    for (const auto& unit : stratum) {
      std::vector<double> values(total.width);
      total.add(unit, metric, values.data());
      addends.addends.insert(addends.addends.end(), values.begin(), values.end());
    }
    result.strata.push_back(std::move(addends));
  }
  // Left out is what no metric could score, not what the other half of the task (BBQ's conditions) is for.
  for (const Record& record : records)
    result.left_out += record.metrics.empty() && !total.counts(record, metric) && !(find_value(record.counts, "ambiguous") && !record.gold.empty());
  return result;
}

}  // namespace miq::evaluator
