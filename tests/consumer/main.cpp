// Quantizes a matrix through the installed libraries.
#include <ATen/ATen.h>

#include <cstdio>

#include "miq/quantizer/linear_problem.h"
#include "miq/quantizer/recipe.h"

int main() {
  const miq::quantizer::LayerRecipe recipe = miq::quantizer::preset("rtn");
  const miq::quantizer::LinearProblem problem{"example", at::randn({32, 128}), nullptr};
  const auto result = miq::quantizer::round_linear(problem, recipe.grid, recipe.range, recipe.rounding);
  std::printf("relative error %.3f\n", result.relative_error);
  return result.relative_error < 0.2 ? 0 : 1;
}
