#include "task_evaluation.h"

#include <chrono>
#include <cmath>
#include <set>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/log.h"
#include "miq/core/text.h"
#include "miq/evaluator/comparison.h"
#include "miq/evaluator/task_run.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using evaluator::MetricValue;

// A task's name as a file's: a path's stem, subjects behind a dot.
std::string file_name(const std::string& task) {
  std::string name = fs::path(task).extension() == ".yaml" ? fs::path(task).stem().string() : task;
  for (char& c : name)
    if (c == '/' || c == '\\') c = '.';
  return name;
}

evaluator::SummaryOptions summary_options(const EvaluationConfig& config) {
  evaluator::SummaryOptions options;
  options.bootstrap.resamples = config.bootstrap;
  return options;
}

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

// One metric with what it is compared with.
Json tell_metric(const MetricValue& value, const std::optional<MetricValue>& baseline, const std::optional<evaluator::Comparison>& comparison) {
  Json told = evaluator::to_json(value);
  if (baseline) {
    told["baseline"] = number_or_null(baseline->value);
    told["baseline_stderr"] = number_or_null(baseline->standard_error);
  } else {
    told["baseline"] = Json();
  }
  told["p_value"] = comparison ? number_or_null(comparison->p_value) : Json();
  if (comparison) told["comparison"] = to_json(*comparison);
  return told;
}

Json tell_division(const std::vector<evaluator::DivisionSummary>& parts, const std::vector<evaluator::DivisionSummary>& baselines, const char* key) {
  Json list = Json::array();
  for (const evaluator::DivisionSummary& part : parts) {
    Json told = {{key, part.name}, {"documents", part.documents}};
    const auto before = std::find_if(baselines.begin(), baselines.end(), [&](const evaluator::DivisionSummary& b) { return b.name == part.name; });
    for (size_t m = 0; m < part.micro.size(); ++m) {
      told["metrics"][part.micro[m].name] = to_json(part.micro[m]);
      if (before != baselines.end() && m < before->micro.size()) told["metrics"][part.micro[m].name]["baseline"] = number_or_null(before->micro[m].value);
      if (m < part.macro.size()) told["macro"][part.macro[m].name] = to_json(part.macro[m]);
    }
    list.push_back(std::move(told));
  }
  return list;
}

std::vector<std::vector<std::string>> subject_rows(const Json& subjects) {
  std::vector<std::vector<std::string>> rows = {{"subject", "documents"}};
  if (subjects.empty()) return rows;
  for (const auto& [name, value] : subjects.front()["metrics"].items()) rows.front().insert(rows.front().end(), {name, "stderr"});
  for (const Json& subject : subjects) {
    rows.push_back({subject["subject"].get<std::string>(), std::to_string(subject["documents"].get<std::int64_t>())});
    for (const auto& [name, value] : subject["metrics"].items())
      for (const char* key : {"value", "stderr"}) rows.back().push_back(value[key].is_number() ? format_fixed(value[key].get<double>(), 4) : "-");
  }
  return rows;
}

Json tell_task(const PlannedTask& planned, const TaskOutcome& outcome, const TaskOutcome* baseline, const EvaluationConfig& config, const fs::path& output) {
  const dataset::Task& task = planned.task;
  const evaluator::SummaryOptions options = summary_options(config);
  Json told = {{"task", task.name}, {"version", task.version}, {"shots", shots_of(task, planned.options)}, {"documents", outcome.records.size()}, {"metrics", Json::object()}};
  if (!task.category.empty()) told["category"] = task.category;
  const std::vector<MetricValue> values = evaluator::summarise(task, outcome.records, options);
  const std::vector<MetricValue> baseline_values = baseline ? evaluator::summarise(task, baseline->records, options) : std::vector<MetricValue>();
  evaluator::CompareOptions compare_options;
  compare_options.equal_weights = task.equal_weights;
  for (size_t m = 0; m < values.size(); ++m) {
    std::optional<evaluator::Comparison> comparison;
    if (baseline) comparison = evaluator::compare(baseline->records, outcome.records, values[m].name, compare_options);
    told["metrics"][values[m].name] = tell_metric(values[m], m < baseline_values.size() ? std::optional(baseline_values[m]) : std::nullopt, comparison);
    if (comparison && m == 0) {
      if (comparison->changed >= 0) told["flips"] = comparison->changed;
      if (std::isfinite(comparison->agreement)) told["agreement"] = comparison->agreement;
      if (std::isfinite(comparison->divergence)) told["kl_divergence"] = comparison->divergence;
    }
  }
  const std::vector<evaluator::Record> none;
  const auto division = [&](evaluator::Division by, const char* list, const char* key) {
    const auto parts = evaluator::summarise_by(task, outcome.records, by, options);
    if (parts.size() > (by == evaluator::Division::subject ? 1u : 0u)) told[list] = tell_division(parts, evaluator::summarise_by(task, baseline ? baseline->records : none, by, options), key);
  };
  division(evaluator::Division::category, "categories", "category");
  division(evaluator::Division::subject, "subjects", "subject");
  division(evaluator::Division::part, "parts", "part");
  told["seconds"] = outcome.seconds;
  if (output.empty()) return told;
  const std::string records = "tasks/" + planned.records + ".jsonl";
  evaluator::write_records(output / records, outcome.records);
  told["records"] = records;
  if (baseline && config.against.empty()) {
    told["baseline_records"] = "tasks/" + planned.records + ".baseline.jsonl";
    evaluator::write_records(output / told["baseline_records"].get<std::string>(), baseline->records);
  }
  if (told.contains("subjects")) write_file_atomically(output / ("tasks/" + planned.records + ".subjects.txt"), format_table(subject_rows(told["subjects"])) + "\n");
  return told;
}

}  // namespace

std::vector<PlannedTask> plan_tasks(const EvaluationConfig& config, const fs::path& data_dir) {
  std::vector<PlannedTask> planned;
  std::set<std::string> names;
  for (const TaskItem& item : config.tasks)
    for (const std::string& name : dataset::expand_tasks(item.task)) {
      PlannedTask one{{}, item.options, file_name(name)};
      one.task = dataset::load_task(name, &one.options);
      if (names.count(one.records) > 0) one.records += "." + std::to_string(shots_of(one.task, one.options)) + "shot";
      for (int twin = 2; names.count(one.records) > 0; ++twin) one.records = file_name(name) + "." + std::to_string(twin);
      names.insert(one.records);
      load_documents(one.task, one.options, data_dir);
      planned.push_back(std::move(one));
    }
  return planned;
}

bool needs_chat(const std::vector<PlannedTask>& tasks) {
  return std::any_of(tasks.begin(), tasks.end(), [](const PlannedTask& planned) { return planned.task.chat; });
}

std::vector<TaskOutcome> run_tasks(model::LanguageModel& model, const dataset::Tokenizer& tokenizer, const std::vector<PlannedTask>& tasks,
                                   const EvaluationConfig& config, const fs::path& data_dir, const std::optional<dataset::ChatKind>& chat) {
  if (tasks.empty()) return {};
  const bool held = !model.blocks().empty();
  if (!held) model.hold_blocks_if_they_fit();
  std::vector<TaskOutcome> outcomes;
  for (const PlannedTask& planned : tasks) {
    const auto start = std::chrono::steady_clock::now();
    const std::vector<dataset::TaskSubject> subjects = load_documents(planned.task, planned.options, data_dir);
    TaskOutcome outcome{evaluator::run_task(model, tokenizer, planned.task, subjects, {config.batch_tokens, chat}), 0};
    outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (config.requests) {
      auto record = outcome.records.begin();
      for (const dataset::TaskSubject& subject : subjects)
        for (const dataset::TaskDocument& document : subject.documents) (record++)->requests = document.requests;
    }
    outcomes.push_back(std::move(outcome));
  }
  if (!held) model.replace_blocks({});
  return outcomes;
}

std::vector<TaskOutcome> read_outcomes(const std::vector<PlannedTask>& tasks, const fs::path& run) {
  std::vector<TaskOutcome> outcomes;
  for (const PlannedTask& planned : tasks) {
    const fs::path file = run / "tasks" / (planned.records + ".jsonl");
    if (!fs::exists(file))
      throw Error(ErrorKind::io, "the run to compare with has no records of the task " + planned.task.name, file.string(),
                  "evaluation.against names the output folder of a run with the same tasks, shots and limits");
    outcomes.push_back({evaluator::read_records(file), 0});
  }
  return outcomes;
}

Json tell_tasks(const std::vector<PlannedTask>& tasks, const std::vector<TaskOutcome>& outcomes, const std::vector<TaskOutcome>& baselines,
                const EvaluationConfig& config, const fs::path& output) {
  Json list = Json::array();
  if (!output.empty() && !outcomes.empty()) {
    std::error_code problem;
    fs::create_directories(output / "tasks", problem);
    if (problem) throw_system_error("create", output / "tasks", problem.value());
  }
  std::vector<double> p_values;
  for (size_t t = 0; t < outcomes.size(); ++t) {
    list.push_back(tell_task(tasks[t], outcomes[t], t < baselines.size() ? &baselines[t] : nullptr, config, output));
    const Json& metrics = list.back()["metrics"];
    p_values.push_back(!metrics.empty() && metrics.begin()->at("p_value").is_number() ? metrics.begin()->at("p_value").get<double>() : evaluator::kUndefined);
  }
  // Several tasks are several tests: each first metric's p-value also as Holm corrects it.
  const std::vector<double> adjusted = evaluator::holm(p_values);
  for (size_t t = 0; t < list.size(); ++t)
    if (std::isfinite(adjusted[t])) list[t]["metrics"].begin().value()["p_value_holm"] = adjusted[t];
  return list;
}

Json tell_categories(const std::vector<PlannedTask>& tasks, const Json& told) {
  struct Sum {
    double value = 0, baseline = 0;
    int count = 0, baselines = 0;
  };
  std::vector<std::string> order;
  std::map<std::string, Sum> sums;
  for (size_t t = 0; t < told.size(); ++t) {
    const Json& metrics = told[t]["metrics"];
    if (metrics.empty() || tasks[t].task.category.empty() || !metrics.begin()->at("value").is_number()) continue;
    for (const std::string& name : {tasks[t].task.category, std::string("all")}) {
      if (sums.count(name) == 0 && name != "all") order.push_back(name);
      Sum& sum = sums[name];
      sum.value += metrics.begin()->at("value").get<double>();
      ++sum.count;
      if (!metrics.begin()->at("baseline").is_number()) continue;
      sum.baseline += metrics.begin()->at("baseline").get<double>();
      ++sum.baselines;
    }
  }
  Json list = Json::array();
  if (sums["all"].count < 2) return list;
  order.push_back("all");
  for (const std::string& name : order) {
    const Sum& sum = sums[name];
    list.push_back({{"category", name}, {"tasks", sum.count}, {"value", sum.value / sum.count}, {"baseline", sum.baselines == sum.count ? Json(sum.baseline / sum.count) : Json()}});
  }
  return list;
}

}  // namespace miq::executor
