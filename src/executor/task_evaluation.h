// The tasks of a job: their documents, their records for one model, and the figures that results.json tells.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "miq/dataset/chat.h"
#include "miq/dataset/tokenizer.h"
#include "miq/evaluator/metrics.h"
#include "miq/executor/job_config.h"
#include "miq/model/language_model.h"

namespace miq::executor {

/// A task of the job with what the user asked of it.
struct PlannedTask {
  std::string name;  ///< as asked for: a file's task by its own name
  dataset::Task task;
  dataset::TaskOptions options;
  std::int64_t shots = 0;      ///< that it gets
  std::string records;         ///< name of its records file, without the extension
  std::string digest;          ///< of all that is asked
  std::optional<size_t> twin;  ///< an earlier task that comes to the very same questions, though other shots were asked for: it is run once
};

/// The split whose documents are asked, and the subjects that were asked for ("" = all).
std::string split_of(const PlannedTask& planned);
std::string selection_of(const PlannedTask& planned);

/// One model's records of a task.
struct TaskOutcome {
  std::vector<evaluator::Record> records;
  double seconds = 0;
};

/// The tasks of the configuration, suites taken apart; what is asked twice in the same way is there once. Reads no document.
/// @throws Error as load_task.
std::vector<PlannedTask> list_tasks(const EvaluationConfig& config);

/// What belongs together: tasks of one group, asked with the same number of shots for the same metrics; those without a group stand alone. Indexes of `tasks`.
std::vector<std::vector<size_t>> sets_of(const std::vector<PlannedTask>& tasks);

/// The tasks of the configuration as list_tasks has them. Reads every document once, so that
/// what is wrong with them, or differs from the run to compare with, is told before the work.
/// @throws Error as load_task, load_documents and read_outcomes, Error{config} where that run is over other documents.
std::vector<PlannedTask> plan_tasks(const EvaluationConfig& config, const std::filesystem::path& data_dir);

/// Whether one of the tasks asks a chat model.
bool needs_chat(const std::vector<PlannedTask>& tasks);

/// The records of each task; what the store has is not asked again.
std::vector<TaskOutcome> run_tasks(model::LanguageModel& model, const dataset::Tokenizer& tokenizer, const std::vector<PlannedTask>& tasks,
                                   const EvaluationConfig& config, const std::filesystem::path& data_dir, const std::optional<dataset::ChatKind>& chat,
                                   const class ScoreStore& store);

/// The records of another run's folder, found by its results.json: of the same tasks with the same shots.
/// @throws Error{io} for a task that it lacks.
std::vector<TaskOutcome> read_outcomes(const std::vector<PlannedTask>& tasks, const std::filesystem::path& run);

/// `tasks`, `groups` (totals of tasks that belong together, ANLI's rounds) and `categories` (means over sets) of results.json. Records and
/// tables by category, subject and part are written to tasks/ of `output` unless that is empty. `baselines`: of the model that is compared
/// with, or none.
nlohmann::ordered_json tell_tasks(const std::vector<PlannedTask>& tasks, const std::vector<TaskOutcome>& outcomes, const std::vector<TaskOutcome>& baselines,
                                  const EvaluationConfig& config, const std::filesystem::path& output);

}  // namespace miq::executor
