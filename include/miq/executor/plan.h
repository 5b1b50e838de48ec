// The plan: what every linear will get, settled before a weight is read.
#pragma once

#include <string>
#include <vector>

#include "miq/model/language_model.h"
#include "miq/quantizer/recipe.h"

namespace miq::executor {

struct PlannedLinear {
  std::string name;
  std::int64_t out_features, in_features;
  quantizer::Choice choice;  ///< points into the recipe
};

/// One entry per linear of the blocks, in the order they are quantized.
/// @throws Error{config} naming the layer, when a rule matches nothing or a choice cannot be met.
std::vector<PlannedLinear> make_plan(const model::LanguageModel& model, const quantizer::Recipe& recipe);

}  // namespace miq::executor
