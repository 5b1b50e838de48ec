// Stochastic rounding: up or down with the probability that makes the expected value the weight itself
// (QuIP's unbiased variant, arXiv 2307.13304 section 3). The example of docs/add-an-algorithm.md.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <limits>

#include "../roundings.h"

namespace miq::quantizer {

QuantizedLinear round_stochastic(const LinearProblem& problem, const Grid& grid, const Range& range, const Rounding&) {
  QuantizedLinear result;
  result.grid = grid;
  result.params = fit_grid(problem.weight_OI, grid, range);
  // A weight moved by up to half a step in either direction, evenly, and then rounded to nearest.
  const std::int64_t columns = problem.weight_OI.size(1);
  const at::Tensor step_OI = result.params.scales_OG.repeat_interleave(grid.columns_per_group(columns), 1).narrow(1, 0, columns);
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(std::hash<std::string>{}(problem.name));
  const at::Tensor noise_OI = at::rand(problem.weight_OI.sizes(), generator, at::kFloat) - 0.5;
  result.codes_OI = nearest_codes(problem.weight_OI + step_OI * noise_OI.to(problem.weight_OI.device()), grid, result.params);
  result.loss = std::numeric_limits<double>::quiet_NaN();  // round_linear fills it in
  return result;
}

}  // namespace miq::quantizer
