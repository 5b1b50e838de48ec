// Seeded problems that quantizer tests share.
#pragma once

#include <ATen/ATen.h>

#include "miq/quantizer/linear_problem.h"

namespace miq::quantizer::test {

inline at::Tensor normal(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  at::manual_seed(seed);
  return at::randn({rows, columns});
}

/// 2/T X^T X of correlated inputs with a few loud channels, as real ones are.
inline at::Tensor hessian(std::int64_t columns, std::int64_t tokens, std::uint64_t seed) {
  at::manual_seed(seed);
  const at::Tensor mix = at::eye(columns) * 0.5 + at::randn({columns, columns}) / std::sqrt(static_cast<double>(columns));
  const at::Tensor loudness = at::rand({columns}).pow(4) * 4 + 0.1;
  const at::Tensor x = at::randn({tokens, columns}).mm(mix) * loudness;
  return x.t().mm(x).mul_(2.0 / static_cast<double>(tokens));
}

/// tr(D H D^T) in float64.
inline double quadratic(const at::Tensor& change, const at::Tensor& hessian_II) {
  const at::Tensor d = change.to(at::kDouble);
  return (d.mm(hessian_II.to(at::kDouble)) * d).sum().item<double>();
}

inline Grid group_grid(int bits, std::int64_t group_size, bool symmetric = false) {
  Grid grid;
  grid.bits = bits;
  grid.group_size = group_size;
  grid.symmetric = symmetric;
  return grid;
}

/// In natural column order.
inline Rounding error_feedback() {
  Rounding rounding;
  rounding.kind = "error_feedback";
  rounding.group_aware = false;
  return rounding;
}

}  // namespace miq::quantizer::test
