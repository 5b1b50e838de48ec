// Quality gates: bounds on figures of results.json. The names are its paths (configs/README.md).
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "miq/executor/job.h"

namespace miq::executor {

/// The gates under `expect`: a mapping from figures to bounds, or lists of bounds. @throws Error{config} for what cannot be a bound.
std::vector<Expectation> read_expectations(ConfigReader& reader);

/// The keys of `expect`, a figure's bounds joined by commas.
void dump_expectations(FieldVisitor& dumper, std::vector<Expectation> gates);

/// Whether the job will have the figures that its gates are of, and the baselines that they are compared with. Reads no data.
/// @throws Error{config} with the nearest name for a figure that it will not have, naming the entries where several fit.
void check_expectations(const JobConfig& config, JobMode mode);

/// [{"what", "bound", "value", "limit", "met"}] of the job's results. What is not a number meets no bound.
nlohmann::ordered_json judge_expectations(const JobConfig& config, JobMode mode, const nlohmann::ordered_json& results);

/// These as a table.
std::string expectation_table(const nlohmann::ordered_json& judged);

}  // namespace miq::executor
