// A job from start to end: what `miq quantize`, `eval` and `run` do.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "miq/executor/job_config.h"

namespace miq::executor {

enum class JobMode {
  quantize,  ///< stops after export
  evaluate,  ///< scores the model as it is
  run,       ///< quantizes, then scores the quantized model from memory
};

struct JobOptions {
  bool overwrite = false;  ///< whatever stands in the output folder, the job begins anew
};

/// Does the job and returns the content of results.json, which also stands in `config.output` (with
/// the log and, if exported, the checkpoint in model/) unless that is empty. What an interrupted job with the
/// same configuration, model and data left in the folder is not done again, and the outcome is the same to the last bit; a
/// complete one's results are returned as they are. Everything that can be checked beforehand is, before a weight is read.
/// Of several ranks (core/process_group.h), rank 0 returns and writes the results, the others return null.
/// @throws Error, Error{config} naming the differences when another job's output is in the folder
nlohmann::ordered_json run_job(const JobConfig& config, JobMode mode, const JobOptions& options = {});

/// Checks all that run_job checks before the work, and that the disk has room; reads headers, calibration data and documents, writes nothing.
/// Returns what the job would do: command, model, plan (as describe_plan), calibration, evaluation, expect, output (files and their
/// expected sizes, state: of the run that is there already), notes. @throws Error as run_job.
nlohmann::ordered_json dry_run(const JobConfig& config, JobMode mode, const JobOptions& options = {});

/// That for a terminal.
std::string format_dry_run(const nlohmann::ordered_json& job);

/// @throws Error{numeric} naming every quality gate (`expect`) that these results miss, with its figures.
void require_met(const nlohmann::ordered_json& results);

/// The results as tables for a terminal.
std::string format_report(const nlohmann::ordered_json& results);

}  // namespace miq::executor
