// From records to the figures that results.json tells, and the tables beside the records.
#include <cmath>
#include <map>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/text.h"
#include "miq/evaluator/comparison.h"
#include "task_evaluation.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using evaluator::Division;
using evaluator::DivisionSummary;
using evaluator::MetricValue;
using evaluator::Record;

double number(const Json& value) { return value.is_number() ? value.get<double>() : evaluator::kUndefined; }

// One metric with what it is compared with.
Json tell_metric(const MetricValue& value, const MetricValue* baseline, const std::optional<evaluator::Comparison>& comparison) {
  Json told = evaluator::to_json(value);
  told["baseline"] = baseline ? number_or_null(baseline->value) : Json();
  if (baseline) told["baseline_stderr"] = number_or_null(baseline->standard_error);
  told["p_value"] = comparison ? number_or_null(comparison->p_value) : Json();
  if (comparison) told["comparison"] = to_json(*comparison);
  return told;
}

Json tell_division(const std::vector<DivisionSummary>& parts, const std::vector<DivisionSummary>& baselines, const char* key) {
  Json list = Json::array();
  for (const DivisionSummary& part : parts) {
    Json told = {{key, part.name}, {"documents", part.documents}, {"metrics", Json::object()}};
    const auto before = std::find_if(baselines.begin(), baselines.end(), [&](const DivisionSummary& b) { return b.name == part.name; });
    const auto tell = [&](const char* kind, const std::vector<MetricValue>& values, const std::vector<MetricValue>* old) {
      for (size_t m = 0; m < values.size(); ++m) {
        told[kind][values[m].name] = to_json(values[m]);
        if (old != nullptr && m < old->size()) told[kind][values[m].name]["baseline"] = number_or_null((*old)[m].value);
      }
    };
    tell("metrics", part.micro, before == baselines.end() ? nullptr : &before->micro);
    tell("macro", part.macro, before == baselines.end() ? nullptr : &before->macro);
    list.push_back(std::move(told));
  }
  return list;
}

struct Comparer {
  const dataset::Task& task;
  const std::vector<Record>& records;
  const std::vector<Record>* baseline;  // of the model that is compared with, or none
  evaluator::SummaryOptions options;

  // Each metric, and what the first one's comparison says beside it.
  void tell_figures(Json& told) const {
    const std::vector<MetricValue> values = evaluator::summarise(task, records, options);
    const std::vector<MetricValue> before = baseline ? evaluator::summarise(task, *baseline, options) : std::vector<MetricValue>();
    evaluator::CompareOptions compare_options;
    compare_options.equal_weights = task.equal_weights;
    std::int64_t flips = -1;
    for (size_t m = 0; m < values.size(); ++m) {
      std::optional<evaluator::Comparison> comparison;
      // Where the data do not tell what is right there is nothing to test.
      if (baseline && values[m].documents > 0 && before[m].documents > 0) comparison = evaluator::compare(*baseline, records, values[m].name, compare_options);
      told["metrics"][values[m].name] = tell_metric(values[m], baseline ? &before[m] : nullptr, comparison);
      if (m == 0 && comparison && comparison->lost >= 0) flips = comparison->lost + comparison->gained;
    }
    if (!baseline) return;
    const evaluator::AnswerChange change = evaluator::compare_answers(*baseline, records);
    if (flips >= 0) told["flips"] = flips;
    if (std::isfinite(change.agreement)) told["agreement"] = change.agreement;
    if (std::isfinite(change.divergence)) told["kl_divergence"] = change.divergence;
  }

  void tell_divisions(Json& told) const {
    const std::vector<Record> none;
    const auto tell = [&](Division by, const char* list, const char* key, size_t fewest) {
      const std::vector<DivisionSummary> parts = evaluator::summarise_by(task, records, by, options);
      if (parts.size() >= fewest) told[list] = tell_division(parts, evaluator::summarise_by(task, baseline ? *baseline : none, by, options), key);
    };
    tell(Division::category, "categories", "category", 1);
    tell(Division::subject, "subjects", "subject", 2);
    tell(Division::part, "parts", "part", 1);
    if (!told.contains("subjects")) return;
    evaluator::SummaryOptions equal = options;  // every subject counts alike
    equal.weights = evaluator::Weights::equal;
    const std::vector<MetricValue> values = evaluator::summarise(task, records, equal), before = evaluator::summarise(task, baseline ? *baseline : none, equal);
    for (size_t m = 0; m < values.size(); ++m) {
      told["macro"][values[m].name] = to_json(values[m]);
      if (baseline) told["macro"][values[m].name]["baseline"] = number_or_null(before[m].value);
    }
  }
};

evaluator::SummaryOptions summary_options(const EvaluationConfig& config) {
  evaluator::SummaryOptions options;
  options.bootstrap.resamples = config.bootstrap;
  return options;
}

std::string shown(const Json& value) { return value.is_number() ? format_fixed(value.get<double>(), 4) : "-"; }

// A division as a table: name, documents, and of each metric value, error, the value before and, of categories, the mean over subjects; below
// them the task as a whole.
std::string division_table(const Json& task, const char* list, const char* key) {
  Json parts = task[list];
  if (parts.size() > 1) parts.push_back({{key, "all"}, {"documents", task["documents"]}, {"metrics", task["metrics"]}});
  if (parts.size() > 1 && task.contains("macro")) parts.back()["macro"] = task["macro"];
  std::vector<std::vector<std::string>> rows = {{key, "documents"}};
  const bool averaged = parts.front().contains("macro");
  bool compared = false;
  for (const Json& part : parts)
    for (const auto& [name, value] : part["metrics"].items()) compared = compared || (value.contains("baseline") && value["baseline"].is_number());
  for (const auto& [name, value] : parts.front()["metrics"].items()) {
    rows.front().insert(rows.front().end(), {name, "stderr"});
    if (compared) rows.front().push_back("before");
    if (averaged) rows.front().push_back("over subjects");
  }
  for (const Json& part : parts) {
    rows.push_back({part[key].get<std::string>(), std::to_string(part["documents"].get<std::int64_t>())});
    for (const auto& [name, value] : part["metrics"].items()) {
      rows.back().insert(rows.back().end(), {shown(value["value"]), shown(value["stderr"])});
      if (compared) rows.back().push_back(shown(value.value("baseline", Json())));
      if (averaged) rows.back().push_back(part.contains("macro") ? shown(part["macro"][name]["value"]) : "-");
    }
  }
  return format_table(rows) + "\n";
}

Json tell_task(const PlannedTask& planned, const TaskOutcome& outcome, const TaskOutcome* baseline, const EvaluationConfig& config, const fs::path& output) {
  const std::string stem = "tasks/" + planned.records;
  const bool writes = !output.empty(), writes_baseline = writes && baseline && config.against.empty();
  if (writes && !planned.twin) {  // before anything that could fail: they are what the work was for
    evaluator::write_records(output / (stem + ".jsonl"), outcome.records);
    if (writes_baseline) evaluator::write_records(output / (stem + ".baseline.jsonl"), baseline->records);
  }
  Json told = {{"task", planned.name}, {"version", planned.task.version}, {"shots", planned.shots}, {"split", split_of(planned)}};
  if (const std::string selection = selection_of(planned); !selection.empty()) told["selection"] = selection;
  if (!planned.task.category.empty()) told["category"] = planned.task.category;
  told["documents"] = outcome.records.size();
  told["metrics"] = Json::object();
  const Comparer comparer{planned.task, outcome.records, baseline ? &baseline->records : nullptr, summary_options(config)};
  comparer.tell_figures(told);
  comparer.tell_divisions(told);
  told["seconds"] = outcome.seconds;
  if (!writes) return told;
  told["records"] = stem + ".jsonl";
  if (writes_baseline) told["baseline_records"] = stem + ".baseline.jsonl";
  for (const auto& [list, key] : {std::pair("categories", "category"), std::pair("subjects", "subject"), std::pair("parts", "part")})
    if (told.contains(list) && !planned.twin) write_file_atomically(output / (stem + "." + list + ".txt"), division_table(told, list, key));
  return told;
}

// Of several tests: each first metric's p-value also as Holm corrects it.
void correct_p_values(const std::vector<PlannedTask>& tasks, Json& list) {
  std::vector<double> p_values;
  for (size_t t = 0; t < list.size(); ++t) p_values.push_back(tasks[t].twin ? evaluator::kUndefined : number(list[t]["metrics"].begin()->at("p_value")));
  if (std::count_if(p_values.begin(), p_values.end(), [](double p) { return std::isfinite(p); }) < 2) return;
  const std::vector<double> adjusted = evaluator::holm(p_values);
  for (size_t t = 0; t < list.size(); ++t)
    if (const double p = adjusted[tasks[t].twin.value_or(t)]; std::isfinite(p)) list[t]["metrics"].begin().value()["p_value_holm"] = p;
}

// Records of several tasks as one task's, whose subjects they are.
TaskOutcome pooled(const std::vector<PlannedTask>& tasks, const std::vector<TaskOutcome>& outcomes, const std::vector<size_t>& members) {
  TaskOutcome all;
  for (const size_t t : members) {
    all.seconds += outcomes[t].seconds;
    for (Record record : outcomes[t].records) {
      record.subject = record.subject.empty() ? tasks[t].name : tasks[t].name + "/" + record.subject;
      all.records.push_back(std::move(record));
    }
  }
  return all;
}

Json tell_group(const std::vector<PlannedTask>& tasks, const std::vector<TaskOutcome>& outcomes, const std::vector<TaskOutcome>& baselines, const std::vector<size_t>& members,
                const EvaluationConfig& config) {
  const PlannedTask& first = tasks[members.front()];
  const TaskOutcome all = pooled(tasks, outcomes, members), before = baselines.empty() ? TaskOutcome() : pooled(tasks, baselines, members);
  Json told = {{"group", first.task.group}, {"tasks", Json::array()}, {"shots", first.shots}, {"documents", all.records.size()}, {"metrics", Json::object()}};
  for (const size_t t : members) told["tasks"].push_back(tasks[t].name);
  Comparer{first.task, all.records, baselines.empty() ? nullptr : &before.records, summary_options(config)}.tell_figures(told);
  return told;
}

// A mean of sets' first metrics.
struct Mean {
  double sum = 0, baseline_sum = 0, squared_errors = 0;
  int count = 0;

  void add(const Json& metric) {
    sum += number(metric["value"]);
    baseline_sum += number(metric["baseline"]);  // not a number where one is not there
    const double error = number(metric["stderr"]);
    squared_errors += error * error;
    ++count;
  }
  Json told(const std::string& name, std::int64_t shots) const {
    return {{"category", name}, {"shots", shots < 0 ? Json() : Json(shots)}, {"sets", count}, {"value", number_or_null(sum / count)},
            {"stderr", number_or_null(std::sqrt(squared_errors) / count)}, {"baseline", number_or_null(baseline_sum / count)}};
  }
};

// Means over the sets of each category, and over all sets with a category; for each number of shots that was asked for. Of scores that are
// better the higher they are: with others a mean would say nothing.
Json tell_categories(const std::vector<PlannedTask>& tasks, const std::vector<std::vector<size_t>>& sets, const std::vector<const Json*>& told) {
  std::vector<std::int64_t> asked;
  for (const PlannedTask& planned : tasks)
    if (std::find(asked.begin(), asked.end(), planned.options.shots) == asked.end()) asked.push_back(planned.options.shots);
  Json list = Json::array();
  for (const std::int64_t shots : asked) {
    std::vector<std::pair<std::string, Mean>> means;
    Mean all;
    for (size_t s = 0; s < sets.size(); ++s) {
      const PlannedTask& first = tasks[sets[s].front()];
      const Json& metric = *(*told[s])["metrics"].begin();
      if (first.options.shots != shots || first.task.category.empty() || !metric["value"].is_number() || metric["better"] != "higher") continue;
      auto found = std::find_if(means.begin(), means.end(), [&](const auto& mean) { return mean.first == first.task.category; });
      if (found == means.end()) found = means.insert(means.end(), {first.task.category, {}});
      found->second.add(metric);
      all.add(metric);
    }
    if (all.count < 2) continue;
    for (const auto& mean : means) list.push_back(mean.second.told(mean.first, shots));
    list.push_back(all.told("all", shots));
  }
  return list;
}

}  // namespace

std::vector<std::vector<size_t>> sets_of(const std::vector<PlannedTask>& tasks) {
  std::vector<std::vector<size_t>> sets;
  for (size_t t = 0; t < tasks.size(); ++t) {
    const auto belongs = [&](const std::vector<size_t>& set) {
      const PlannedTask& first = tasks[set.front()];
      return first.task.group == tasks[t].task.group && first.options.shots == tasks[t].options.shots && first.task.metrics == tasks[t].task.metrics && first.task.category == tasks[t].task.category;
    };
    const auto found = tasks[t].task.group.empty() ? sets.end() : std::find_if(sets.begin(), sets.end(), belongs);
    if (found == sets.end()) sets.push_back({t});
    else found->push_back(t);
  }
  return sets;
}

Json tell_tasks(const std::vector<PlannedTask>& tasks, const std::vector<TaskOutcome>& outcomes, const std::vector<TaskOutcome>& baselines,
                const EvaluationConfig& config, const fs::path& output) {
  Json told = {{"tasks", Json::array()}};
  if (outcomes.empty()) return told;
  if (!output.empty()) {
    std::error_code problem;
    fs::create_directories(output / "tasks", problem);
    if (problem) throw_system_error("create", output / "tasks", problem.value());
  }
  for (size_t t = 0; t < outcomes.size(); ++t) told["tasks"].push_back(tell_task(tasks[t], outcomes[t], t < baselines.size() ? &baselines[t] : nullptr, config, output));
  correct_p_values(tasks, told["tasks"]);
  const std::vector<std::vector<size_t>> sets = sets_of(tasks);
  Json groups = Json::array();
  for (const std::vector<size_t>& set : sets)
    if (set.size() > 1) groups.push_back(tell_group(tasks, outcomes, baselines, set, config));
  std::vector<const Json*> of_sets;
  size_t next_group = 0;
  for (const std::vector<size_t>& set : sets) of_sets.push_back(set.size() > 1 ? &groups[next_group++] : &told["tasks"][set.front()]);
  const Json categories = tell_categories(tasks, sets, of_sets);
  if (!groups.empty()) told["groups"] = groups;
  if (!categories.empty()) told["categories"] = categories;
  return told;
}

}  // namespace miq::executor
