// Where the transform of each linear's input goes: into the operation before, or along to run time.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "miq/executor/plan.h"

namespace miq::executor {

struct TransformPlace {
  bool divisor_online = false;  ///< x is divided at run time
  bool rotated_input = false, rotated_output = false;  ///< at run time
  std::string text = "-";       ///< "folded into input_layernorm", "online", ...
};

/// For each linear of the plan, in its order.
std::vector<TransformPlace> transform_places(const model::Architecture& architecture, const std::vector<PlannedLinear>& plan);

}  // namespace miq::executor
