// What every Orthogonal asks of the rows it is given, and how seeds are stored.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "miq/core/error.h"

namespace miq::quantizer {

/// @throws Error{internal} unless x is [..., n], of float32 or float64.
inline void check_rows(const at::Tensor& x, std::int64_t n) {
  if (x.dim() == 0 || x.size(-1) != n)
    throw Error(ErrorKind::internal, "rows of " + std::to_string(x.dim() == 0 ? 0 : x.size(-1)) +
                                         " for an orthogonal matrix of order " + std::to_string(n));
  if (x.scalar_type() != at::kFloat && x.scalar_type() != at::kDouble)
    throw Error(ErrorKind::internal,
                std::string("orthogonal matrices are applied to float32, not to ") + c10::toString(x.scalar_type()));
}

/// The bits of a seed, int64.
inline at::Tensor seed_tensor(std::uint64_t seed) { return at::scalar_tensor(static_cast<std::int64_t>(seed), at::kLong); }

}  // namespace miq::quantizer
