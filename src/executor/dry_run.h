// What a job would do, of all that it opened for it.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "miq/executor/job.h"
#include "miq/model/language_model.h"
#include "run_folder.h"
#include "task_evaluation.h"

namespace miq::executor {

/// A job that is prepared: everything that it needs is there.
struct PreparedJob {
  const JobConfig& config;
  JobMode mode;
  const model::LanguageModel& model;
  const std::vector<at::Tensor>& calibration_ids;
  const std::vector<at::Tensor>& streams;  ///< of evaluation.perplexity
  const std::vector<PlannedTask>& tasks;
  RunState state;                          ///< of what stands in the output folder
};

/// The folder, or the nearest one above it that is there.
std::filesystem::path existing_part(std::filesystem::path folder);

/// Whether the folder can be made or written into. @throws Error{io}
void check_writable(const std::filesystem::path& folder);

/// As dry_run() returns it. @throws Error{io} where the disk has no room for the output.
nlohmann::ordered_json describe_job(const PreparedJob& job);

}  // namespace miq::executor
