// One pass of the calibration samples through the float model, for many recipes at once.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "miq/core/error.h"
#include "miq/executor/pipeline.h"

namespace miq::executor {

struct CapturedRecipe {
  const std::vector<PlannedLinear>* plan;    ///< of the same model
  std::filesystem::path journal;             ///< where its solved blocks go
};

/// Solves the blocks that the recipes' journals lack, each from the statistics of the float model: what `order: block`,
/// `propagate: float` does for one recipe. Blocks are written as each is solved, so that it may be interrupted at any time.
/// Effort that is shared counts for all recipes alike. Returns what went wrong with each recipe, which then is left out. @throws Error
/// for what is wrong with all.
std::vector<std::optional<Error>> capture_shared(model::LanguageModel& model, const std::vector<CapturedRecipe>& recipes, const PipelineOptions& options);

}  // namespace miq::executor
