// Range: which interval of a weight group the grid covers, and from it scales and zeros.
#pragma once

#include <string>

#include "miq/quantizer/grid.h"

namespace miq::quantizer {

enum class RangeKind { min_max, mse, awq_clip, percentile, rms };

/// `mse` shrinks the min-max interval by p = 1, 0.99, ... and keeps the first p with the least
/// sum |Q(w) - w|^norm (GPTQ quant.py:Quantizer.find_params, mse=True). `awq_clip` clips |w| at
/// M (1 - i / n_grid) and keeps the first i with the least error of the group's own output (llm-awq
/// auto_clip.py). `percentile` leaves (100 - percentile) / 2 percent out on each side. `rms`: the
/// interval is +- rho times the root mean square (QuIP); rho = 0 is searched.
struct Range {
  RangeKind kind = RangeKind::min_max;
  double norm = 2.4;
  int grid = 100;             ///< mse: steps of the interval
  double maxshrink = 0.8;     ///< mse: the share of them that is tried
  bool adjacent_zeros = false;  ///< mse: GPTQModel at 2 bits, asymmetric: also try the other whole zero
  int n_grid = 20;            ///< awq_clip: steps of the interval
  double max_shrink = 0.5;    ///< awq_clip: the share of them that is tried
  std::string clip_skip = "q_|k_|query|key|Wqkv";  ///< awq_clip: regex; min_max for linears with a match in their name
  double percentile = 99.9;
  double rho = 2.4;           ///< rms
};

/// Fits `grid` to a weight, group by group (spec/algorithms section 1). weight_OI: float32, finite,
/// contiguous. awq_clip needs the Hessian of the inputs. @throws Error{numeric} when a weight is not finite.
GridParams fit_grid(const at::Tensor& weight_OI, const Grid& grid, const Range& range, const at::Tensor& hessian_II = {});

/// AWQ's clip search: where to clip |w|, [O, G], from the diagonal group blocks of the Hessian.
/// errors_OG, if given, receives the least error tr(dw_g H_g dw_g^T).
at::Tensor awq_clip(const at::Tensor& weight_OI, const Grid& grid, const Range& range, const at::Tensor& hessian_II,
                    at::Tensor* errors_OG = nullptr);

/// Nearest codes, uint8 [O, I]: rne(w / s) (+ z), clamped, with the parameters of each group.
at::Tensor nearest_codes(const at::Tensor& weight_OI, const Grid& grid, const GridParams& params);

/// scale * (code - zero), float32 [O, I], groups natural.
at::Tensor values_of_codes(const at::Tensor& codes_OI, const Grid& grid, const GridParams& params);

}  // namespace miq::quantizer
