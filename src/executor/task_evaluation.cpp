// Which tasks a job asks, and asking them.
#include "task_evaluation.h"

#include <chrono>
#include <map>
#include <tuple>

#include "miq/core/digest.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/log.h"
#include "miq/core/text.h"
#include "miq/evaluator/task_run.h"
#include "score_store.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using dataset::TaskOptions;

bool is_file(const std::string& name) { return fs::path(name).extension() == ".yaml"; }

// A task's name as a file's: a path's stem, subjects behind a dot.
std::string file_name(const std::string& task) {
  std::string name = is_file(task) ? fs::path(task).stem().string() : task;
  for (char& c : name)
    if (c == '/' || c == '\\') c = '.';
  return name;
}

// What the questions depend on. Where there are no shots, it does not matter where they would come from.
auto question_key(const std::string& name, const PlannedTask& planned) {
  const TaskOptions& o = planned.options;
  const bool shots = planned.shots > 0;
  return std::make_tuple(name, planned.shots, o.limit, o.subjects, o.split, shots ? o.fewshot_split : "", shots ? o.fewshot_set : "", shots && o.seed != planned.task.seed ? o.seed : -1);
}

// A name that no other task's records have: the task's, with its shots or its subjects where they tell it from the first of that name, or a number.
std::string free_name(const std::string& base, const PlannedTask& planned, const std::vector<PlannedTask>& others) {
  const auto owner = [&](const std::string& name) { return std::find_if(others.begin(), others.end(), [&](const PlannedTask& other) { return other.records == name; }); };
  const auto first = owner(base);
  if (first == others.end()) return base;
  const std::string selection = selection_of(planned);
  const bool plain = selection.size() <= 40 && std::all_of(selection.begin(), selection.end(), [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
  std::string name = base;
  if (planned.shots != first->shots) name += "." + std::to_string(planned.shots) + "shot";
  else if (plain && !selection.empty() && selection != selection_of(*first)) name += "." + selection;
  for (int twin = 2; owner(name) != others.end(); ++twin) name = base + "." + std::to_string(twin);
  return name;
}

using DocumentKey = std::pair<std::string, std::int64_t>;  // subject, place

std::string name_of(const DocumentKey& key) { return "document " + std::to_string(key.second) + (key.first.empty() ? "" : " of " + key.first); }

// What compare() would refuse after the work.
void check_same_documents(const PlannedTask& planned, const std::vector<dataset::TaskSubject>& subjects, const std::vector<evaluator::Record>& records, const fs::path& run) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorKind::config, "evaluation.against: the earlier run of " + planned.name + " is over other documents: " + what, run.string(),
                "run both with the same task, split, subjects and limit");
  };
  std::map<DocumentKey, std::string> digests;
  for (const evaluator::Record& record : records) digests[{record.subject, record.document}] = record.digest;
  for (const dataset::TaskSubject& subject : subjects)
    for (const dataset::TaskDocument& document : subject.documents) {
      const DocumentKey key{subject.name, document.index};
      const auto found = digests.find(key);
      if (found == digests.end()) refuse(name_of(key) + " is not among them");
      if (found->second != evaluator::document_digest(document)) refuse(name_of(key) + " has other content there");
      digests.erase(found);
    }
  if (!digests.empty()) refuse(name_of(digests.begin()->first) + " is only there");
}

std::string digest_of(const std::vector<dataset::TaskSubject>& subjects) {
  std::string all;
  for (const dataset::TaskSubject& subject : subjects)
    for (const dataset::TaskDocument& document : subject.documents) {
      all += subject.name + evaluator::document_digest(document);
      for (const dataset::TaskRequest& request : document.requests) all += sha256(request.context);
    }
  return sha256(all);
}

// An earlier run's entry of the task in its results.json; none where that says nothing of it.
std::optional<std::string> told_records(const PlannedTask& planned, const fs::path& results_file) {
  const nlohmann::json results = parse_json(read_file(results_file), results_file.string());
  std::optional<std::string> found;
  std::string other_shots;
  const auto tasks = results.is_object() ? results.find("tasks") : results.end();
  if (tasks == results.end() || !tasks->is_array()) throw Error(ErrorKind::io, "the results have no list of tasks", results_file.string(), "evaluation.against names the output folder of `miq eval` or `miq run`");
  for (const nlohmann::json& entry : *tasks) {
    const auto text = [&](const char* key) { return entry.is_object() && entry.contains(key) && entry[key].is_string() ? entry[key].get<std::string>() : std::string(); };
    if (text("task") != planned.name || text("records").empty() || !entry.contains("shots") || !entry["shots"].is_number_integer()) continue;
    if (text("split") != split_of(planned) || text("selection") != selection_of(planned)) continue;
    if (entry["shots"].get<std::int64_t>() != planned.shots) {
      other_shots += (other_shots.empty() ? "" : ", ") + std::to_string(entry["shots"].get<std::int64_t>());
      continue;
    }
    if (!found || text("records") == "tasks/" + planned.records + ".jsonl") found = text("records");
  }
  if (!found && !other_shots.empty())
    throw Error(ErrorKind::config, "evaluation.against: the earlier run asked " + planned.name + " with " + other_shots + " shots, not with " + std::to_string(planned.shots), results_file.string(),
                "ask for the same shots in both");
  return found;
}

}  // namespace

std::string split_of(const PlannedTask& planned) { return planned.options.split.empty() ? planned.task.split : planned.options.split; }
std::string selection_of(const PlannedTask& planned) { return planned.options.subjects == "all" ? "" : planned.options.subjects; }

std::vector<PlannedTask> list_tasks(const EvaluationConfig& config) {
  std::vector<PlannedTask> planned;
  std::vector<decltype(question_key("", PlannedTask()))> questions;
  for (const TaskItem& item : config.tasks)
    for (const std::string& name : dataset::expand_tasks(item.task)) {
      PlannedTask one;
      one.options = item.options;
      one.task = dataset::load_task(name, &one.options);
      one.name = is_file(name) ? one.task.name : name;
      one.shots = shots_of(one.task, one.options);
      const auto key = question_key(name, one);
      bool repeated = false;
      for (size_t t = 0; t < planned.size(); ++t) {
        if (questions[t] != key) continue;
        if (!one.twin) one.twin = t;
        repeated = repeated || planned[t].options.shots == one.options.shots;
      }
      if (repeated) continue;
      one.records = one.twin ? planned[*one.twin].records : free_name(file_name(name), one, planned);
      questions.push_back(key);
      planned.push_back(std::move(one));
    }
  return planned;
}

std::vector<PlannedTask> plan_tasks(const EvaluationConfig& config, const fs::path& data_dir) {
  std::vector<PlannedTask> planned = list_tasks(config);
  for (PlannedTask& one : planned) {
    if (one.twin) continue;
    const std::vector<dataset::TaskSubject> subjects = load_documents(one.task, one.options, data_dir);
    evaluator::check_metrics(one.task, subjects);
    one.digest = digest_of(subjects);
    if (!config.against.empty()) check_same_documents(one, subjects, read_outcomes({one}, config.against)[0].records, config.against);
  }
  return planned;
}

bool needs_chat(const std::vector<PlannedTask>& tasks) {
  return std::any_of(tasks.begin(), tasks.end(), [](const PlannedTask& planned) { return planned.task.chat; });
}

std::vector<TaskOutcome> run_tasks(model::LanguageModel& model, const dataset::Tokenizer& tokenizer, const std::vector<PlannedTask>& tasks,
                                   const EvaluationConfig& config, const fs::path& data_dir, const std::optional<dataset::ChatKind>& chat,
                                   const ScoreStore& store) {
  if (tasks.empty()) return {};
  const bool held = !model.blocks().empty();
  if (!held) model.hold_blocks_if_they_fit();
  std::vector<TaskOutcome> outcomes;
  for (const PlannedTask& planned : tasks) {
    if (planned.twin) {
      outcomes.push_back(outcomes[*planned.twin]);
      continue;
    }
    const auto start = std::chrono::steady_clock::now();
    const std::vector<dataset::TaskSubject> subjects = load_documents(planned.task, planned.options, data_dir);
    std::optional<TaskOutcome> known = store.task(planned.records);
    if (!known) {
      known = {evaluator::run_task(model, tokenizer, planned.task, subjects, {config.batch_tokens, chat}), 0};
      known->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      store.put(planned.records, *known);
    }
    TaskOutcome outcome = std::move(*known);
    log_info("task " + planned.name + ": " + std::to_string(outcome.records.size()) + " documents, " + format_seconds(outcome.seconds));
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
    fs::path records = "tasks/" + planned.records + ".jsonl";
    if (const fs::path results = run / "results.json"; fs::exists(results)) records = told_records(planned, results).value_or(records.string());
    if (!fs::exists(run / records))
      throw Error(ErrorKind::io, "the run to compare with has no records of the task " + planned.name, (run / records).string(),
                  "evaluation.against names the output folder of a run with the same tasks, shots and limits");
    outcomes.push_back({evaluator::read_records(run / records), 0});
  }
  return outcomes;
}

}  // namespace miq::executor
