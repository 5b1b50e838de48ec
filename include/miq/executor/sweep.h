// Many jobs from one file: every combination of the values that `sweep` lists for some keys.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "miq/executor/job.h"
#include "miq/executor/job_config.h"

namespace miq::executor {

/// A key that varies; `calibration` and `variants` vary several at once.
struct SweepAxis {
  std::string key;
  std::vector<nlohmann::ordered_json> values;  ///< names of those that are mappings
};

struct SweepVariant {
  std::string name;                  ///< "preset=gptq,bits=4": of its run directory too
  nlohmann::ordered_json settings;   ///< axis -> value
  JobConfig config;
};

/// A column of a generalisation study.
struct SweepTest {
  std::string name;
  bool perplexity = false;
  size_t item = 0;     ///< of evaluation.perplexity or evaluation.tasks
  std::string records = {};  ///< a task's: of the results that answer it
};

/// `sweep` of a configuration: docs/sweeps.md.
struct Sweep {
  std::string kind = "grid";         ///< or ood: what each calibration set costs on each test set
  std::string title;
  JobMode mode = JobMode::run;
  std::string output;                ///< holds sweep.json and the variants' run directories
  std::vector<SweepAxis> axes;
  std::vector<SweepVariant> variants;
  std::vector<SweepTest> tests;      ///< of kind ood
  std::vector<std::string> left_out; ///< with `missing: skip`: sets whose data are not there, and why
};

bool has_sweep(const ConfigSource& source);

/// Every variant with its whole configuration, checked. @throws Error{config} naming the variant and the key.
Sweep read_sweep(const ConfigSource& source);

/// Runs the variants that are not complete, sharing what can be shared: the unquantized model's scores, and with `order: block`,
/// `propagate: float` one pass of the calibration samples. Each variant's results and export are those of a run of its own.
/// A variant that fails does not keep the others from running. Returns sweep.json: axes, variants with their figures, which of them
/// are Pareto-optimal in size and quality, and the matrices of a study.
/// @throws Error of the first variant that failed, when the others are done.
nlohmann::ordered_json run_sweep(const Sweep& sweep, const JobOptions& options);

/// Checks every variant as far as that goes before the work, and returns their names, those of complete ones and of interrupted ones.
/// Nothing is made. @throws Error naming the variant
nlohmann::ordered_json check_sweep(const Sweep& sweep, const JobOptions& options);

/// That as a table for a terminal.
std::string format_checked_sweep(const nlohmann::ordered_json& checked);

/// sweep.json from the variants' results.json, which must all be there or say so.
nlohmann::ordered_json summarise_sweep(const Sweep& sweep);

/// That as tables for a terminal.
std::string format_sweep(const nlohmann::ordered_json& summary);

}  // namespace miq::executor
