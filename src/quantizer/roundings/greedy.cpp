// QuIP's allbal: greedy coordinate descent from the weights themselves, column by column in the
// factor's order. Source: QuIP vector_balance.py:round_allbal.
#include <limits>

#include "../greedy_descent.h"
#include "../roundings.h"

namespace miq::quantizer {

QuantizedLinear round_greedy(const LinearProblem& problem, const Grid& grid, const Range& range, const Rounding& rounding) {
  const HessianFactor& factor = problem.hessian->factor(rounding, grid.columns_per_group(problem.weight_OI.size(1)));
  QuantizedLinear result;
  result.grid = grid;
  result.params = fit_grid(problem.weight_OI, grid, range, problem.hessian->matrix());
  result.events = factor.events;
  const at::Tensor weight = rounding.reference_clamping ? clamp_to_grid(problem.weight_OI, grid, result.params) : problem.weight_OI;
  descend(result, weight, /*from_weights=*/true, *problem.hessian, factor, std::max(1, rounding.greedy_passes), rounding.reference_clamping);
  result.loss = std::numeric_limits<double>::quiet_NaN();
  return result;
}

}  // namespace miq::quantizer
