// Round to nearest: codes by division, no data.
#include "../roundings.h"

namespace miq::quantizer {

QuantizedLinear round_nearest(const LinearProblem& problem, const Grid& grid, const Range& range, const Rounding&) {
  QuantizedLinear result;
  result.grid = grid;
  result.params = fit_grid(problem.weight_OI, grid, range, problem.hessian_matrix());
  result.codes_OI = nearest_codes(problem.weight_OI, grid, result.params);
  result.loss = std::numeric_limits<double>::quiet_NaN();
  return result;
}

}  // namespace miq::quantizer
