// Range: which interval of a weight group the grid covers, and from it scales and zeros.
#pragma once

#include "miq/quantizer/grid.h"

namespace miq::quantizer {

enum class RangeKind { min_max, mse };

/// `mse` shrinks the min-max interval by p = 1, 0.99, ... and keeps the first p with the least
/// sum |Q(w) - w|^norm (GPTQ quant.py:Quantizer.find_params, mse=True).
struct Range {
  RangeKind kind = RangeKind::min_max;
  double norm = 2.4;
  int grid = 100;             ///< steps of the interval
  double maxshrink = 0.8;     ///< the share of them that is tried
  bool adjacent_zeros = false;  ///< GPTQModel at 2 bits, asymmetric: also try the other whole zero
};

/// Fits `grid` to a weight, group by group (spec/algorithms section 1). weight_OI: float32, finite,
/// contiguous. @throws Error{numeric} when a weight is not finite.
GridParams fit_grid(const at::Tensor& weight_OI, const Grid& grid, const Range& range);

/// Nearest codes, uint8 [O, I]: rne(w / s) (+ z), clamped, with the parameters of each group.
at::Tensor nearest_codes(const at::Tensor& weight_OI, const Grid& grid, const GridParams& params);

}  // namespace miq::quantizer
