// Sizes from untrusted files: arithmetic that says when a result does not fit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace miq {

/// a * b and a + b, or nullopt when the result does not fit 63 bits. Both operands are at least 0.
inline std::optional<std::int64_t> checked_product(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}
inline std::optional<std::int64_t> checked_sum(std::int64_t a, std::int64_t b) {
  std::int64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

/// No format's tensors have more axes, and LibTorch's operators take no more.
constexpr std::size_t kMaxAxes = 64;

/// The bytes of a tensor of `shape`; nullopt when they do not fit, even where another extent is 0: LibTorch
/// computes strides without looking at it.
inline std::optional<std::int64_t> checked_bytes(const std::vector<std::int64_t>& shape, std::int64_t element_bytes) {
  std::optional<std::int64_t> bytes = element_bytes;
  bool empty = false;
  for (const std::int64_t extent : shape) {
    empty = empty || extent == 0;
    if (bytes && extent > 0) bytes = checked_product(*bytes, extent);
  }
  if (bytes && empty) return 0;
  return bytes;
}

}  // namespace miq
