// The plan: what every linear will get, settled before a weight is read, and what it will cost.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "miq/executor/job_config.h"
#include "miq/model/language_model.h"
#include "miq/quantizer/recipe.h"

namespace miq::executor {

struct PlannedLinear {
  std::string name;
  std::int64_t layer, stage, group;  ///< where it stands: block, model::Stage, input of the stage (an expert's)
  std::int64_t out_features, in_features;
  quantizer::Choice choice;  ///< points into the recipe
};

/// One entry per linear of the blocks, in the order they are quantized.
/// @throws Error{config} naming the layer, when a rule matches nothing or a choice cannot be met.
std::vector<PlannedLinear> make_plan(const model::LanguageModel& model, const quantizer::Recipe& recipe);

/// The head's entry, behind the last block, when a rule of the recipe names it to be quantized. It is rounded without data.
/// @throws Error as make_plan, Error{unsupported} for a method that needs data, or a head that is normalised at run time.
std::optional<PlannedLinear> planned_head(const model::LanguageModel& model, const quantizer::Recipe& recipe);

/// The plan of a job as it is printed: layers (rule, composition, bits, where the transform goes),
/// total (bits, bytes, memory, disk, seconds expected), conflicts (what, where, fix). Reads headers
/// only. @throws Error as make_plan.
nlohmann::ordered_json describe_plan(const JobConfig& config);

/// That as tables for a terminal.
std::string format_plan(const nlohmann::ordered_json& plan);

}  // namespace miq::executor
