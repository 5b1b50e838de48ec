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

/// Does the job and returns the content of results.json, which also stands in `config.output` (with
/// the log and, if exported, the checkpoint in model/) unless that is empty. Everything that can be
/// checked beforehand is, before a weight is read. Of several ranks (core/process_group.h), rank 0 returns and writes the results, the others
/// return null. @throws Error
nlohmann::ordered_json run_job(const JobConfig& config, JobMode mode);

/// The results as tables for a terminal.
std::string format_report(const nlohmann::ordered_json& results);

}  // namespace miq::executor
