// HQQ: nearest codes on a grid whose zeros minimise |W - Q|^p, p < 1, by half-quadratic splitting; no
// data. Source: mobiusml/hqq core/quantize.py:Quantizer.quantize, core/optimize.py:
// optimize_weights_proximal_legacy and _v2 (Apache-2.0). Works with the inverse scale, as they do.
#include <ATen/ATen.h>

#include <cmath>

#include "../roundings.h"

namespace miq::quantizer {
namespace {

// argmin_e |e|^p + beta/2 (e - x)^2, approximately; 0 at 0.
at::Tensor shrink(const at::Tensor& x, double beta, double p) {
  const at::Tensor magnitude = x.abs();
  return x.sign() * (magnitude - magnitude.pow(p - 1) / beta).clamp_min(0);
}

// Rows of groups [R, g]; inverse scales and zeros [R, 1].
struct Groups {
  at::Tensor weight, inverse, zero;
  double top;
  at::Tensor codes() const { return (weight * inverse + zero).round_().clamp_(0, top); }
};

void optimize_zeros(Groups& groups, const Rounding& rounding) {
  double beta = rounding.beta, best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < rounding.iterations; ++i) {
    const at::Tensor codes = groups.codes();
    const at::Tensor values = (codes - groups.zero) / groups.inverse;
    const at::Tensor change = groups.weight - values;
    groups.zero = (codes - (groups.weight - shrink(change, beta, rounding.lp_norm)) * groups.inverse).mean(1, true);
    if (!rounding.early_stop) {
      beta *= rounding.kappa;
      continue;
    }
    const double error = change.abs().mean().item<double>();
    if (!(error < best)) break;
    best = error;
  }
}

}  // namespace

QuantizedLinear round_hqq(const LinearProblem& problem, const Grid& grid, const Range&, const Rounding& rounding) {
  const at::Tensor& weight = problem.weight_OI;
  const std::int64_t rows = weight.size(0), columns = weight.size(1), width = grid.columns_per_group(columns);
  QuantizedLinear result;
  result.grid = grid;
  result.codes_OI = at::empty({rows, columns}, weight.options().dtype(at::kByte));
  result.params = {at::empty({rows, grid.num_groups(columns)}, weight.options()), at::empty({rows, grid.num_groups(columns)}, weight.options())};
  // All full groups together, as the reference's stopping rule looks at their common error; a ragged
  // last one alone.
  for (std::int64_t begin = 0; begin < columns;) {
    const std::int64_t full = (columns - begin) / width, span = full > 0 ? full * width : columns - begin, count = std::max<std::int64_t>(1, full);
    Groups groups;
    groups.weight = weight.narrow(1, begin, span).reshape({rows * count, span / count});
    groups.top = (1 << grid.bits) - 1;
    const at::Tensor low = groups.weight.amin(1, true), range = groups.weight.amax(1, true) - low;
    groups.inverse = at::where(range <= 1e-4, at::ones_like(range), groups.top / range).clamp_max(2e4);
    groups.zero = -low * groups.inverse;
    if (!grid.real_zeros) groups.zero.round_();
    optimize_zeros(groups, rounding);
    if (!grid.real_zeros && rounding.iterations > 0) groups.zero.round_();
    result.codes_OI.narrow(1, begin, span).copy_(groups.codes().reshape({rows, span}));
    result.params.scales_OG.narrow(1, begin / width, count).copy_((1 / groups.inverse).reshape({rows, count}));
    result.params.zeros_OG.narrow(1, begin / width, count).copy_(groups.zero.reshape({rows, count}));
    begin += span;
  }
  result.loss = std::numeric_limits<double>::quiet_NaN();
  return result;
}

}  // namespace miq::quantizer
