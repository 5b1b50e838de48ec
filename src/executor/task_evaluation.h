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
  dataset::Task task;
  dataset::TaskOptions options;
  std::string records;  ///< name of its records file, without the extension
};

/// One model's records of a task.
struct TaskOutcome {
  std::vector<evaluator::Record> records;
  double seconds = 0;
};

/// The tasks of the configuration, suites taken apart. Reads every document once, so that what is wrong with them is told before the work.
/// @throws Error as load_task and load_documents.
std::vector<PlannedTask> plan_tasks(const EvaluationConfig& config, const std::filesystem::path& data_dir);

/// Whether one of the tasks asks a chat model.
bool needs_chat(const std::vector<PlannedTask>& tasks);

/// The records of each task.
std::vector<TaskOutcome> run_tasks(model::LanguageModel& model, const dataset::Tokenizer& tokenizer, const std::vector<PlannedTask>& tasks,
                                   const EvaluationConfig& config, const std::filesystem::path& data_dir, const std::optional<dataset::ChatKind>& chat);

/// The records of another run's folder. @throws Error{io} for a task that it lacks.
std::vector<TaskOutcome> read_outcomes(const std::vector<PlannedTask>& tasks, const std::filesystem::path& run);

/// The `tasks` of results.json; records are written to `output` unless that is empty. `baselines`: of the model that is compared with, or none.
nlohmann::ordered_json tell_tasks(const std::vector<PlannedTask>& tasks, const std::vector<TaskOutcome>& outcomes, const std::vector<TaskOutcome>& baselines,
                                  const EvaluationConfig& config, const std::filesystem::path& output);

/// Means over the tasks of each category, and over all of them, of each task's first metric. Only of categories with two tasks or more.
nlohmann::ordered_json tell_categories(const std::vector<PlannedTask>& tasks, const nlohmann::ordered_json& told);

}  // namespace miq::executor
