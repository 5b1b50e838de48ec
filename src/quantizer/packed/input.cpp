#include "input.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "miq/core/narrow_float.h"
#include "miq/core/vectorised.h"

namespace miq::quantizer::packed {
namespace {

constexpr float kLargest = 127 * 256 + 127;  // both bytes lie in -128 .. 127, the high one above -128

template <class T>
MIQ_INLINE void widen_range(const T* x, std::int64_t count, float* out) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) out[i] = widen(x[i]);
}

MIQ_VECTORISED void widen_row(const float* x, std::int64_t count, float* out) { widen_range(x, count, out); }
MIQ_VECTORISED void widen_row(const at::BFloat16* x, std::int64_t count, float* out) { widen_range(x, count, out); }
MIQ_VECTORISED void widen_row(const at::Half* x, std::int64_t count, float* out) { widen_range(x, count, out); }

// Whole numbers round(x / scale) = 256 high + low of each block, with their sums.
MIQ_VECTORISED void to_integers(const float* x, std::int64_t columns, std::int64_t block, std::int8_t* high, std::int8_t* low, float* scales, float* sums) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  for (std::int64_t begin = 0; begin < columns; begin += block) {
    const std::int64_t end = std::min(begin + block, columns);
    float largest = 0, total = 0;
#pragma omp simd reduction(max : largest) reduction(+ : total)
    for (std::int64_t i = begin; i < end; ++i) {
      largest = std::max(largest, std::fabs(x[i]));
      total += x[i];
    }
    const float inverse = largest > 0 ? kLargest / largest : 0.0f;
    std::int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int32_t whole = std::bit_cast<std::int32_t>(x[i] * inverse + kRound) - std::bit_cast<std::int32_t>(kRound);
      high[i] = static_cast<std::int8_t>((whole + 128) >> 8);
      low[i] = static_cast<std::int8_t>(whole);
      sum += whole;
    }
    *scales++ = largest / kLargest + total * 0.0f;  // what is not finite stays so
    *sums++ = static_cast<float>(sum);
  }
}

}  // namespace

PreparedInput::PreparedInput(const at::Tensor& x, CodeType type, std::int64_t chunks, std::int64_t chunks_per_block, const at::Tensor& order) {
  const std::int64_t rows = x.size(0), width = x.size(1), columns = chunks * kChunk, blocks = (chunks + chunks_per_block - 1) / chunks_per_block;
  const auto size = [](std::int64_t n) { return static_cast<size_t>(n); };
  floats_.resize(size(rows * (columns + 2 * blocks)));
  float* const values = floats_.data();
  std::vector<float> natural(order.defined() ? size(width) : 0);
  with_float_type(x.scalar_type(), [&](auto zero) {
    const auto* const source = x.const_data_ptr<decltype(zero)>();
    for (std::int64_t r = 0; r < rows; ++r) {
      float* const row = values + r * columns;
      widen_row(source + r * width, width, order.defined() ? natural.data() : row);
      const std::int32_t* const column_at = order.defined() ? order.const_data_ptr<std::int32_t>() : nullptr;
      for (std::int64_t i = 0; i < width && column_at != nullptr; ++i) row[i] = natural[size(column_at[i])];
    }
  });
  float* const scales = values + rows * columns;
  float* const sums = scales + rows * blocks;
  input_ = {rows, columns, blocks, nullptr, nullptr, scales, sums, values};
  if (type != CodeType::integer) return;
  bytes_.resize(size(2 * rows * columns));
  std::int8_t* const high = bytes_.data();
  std::int8_t* const low = high + rows * columns;
  for (std::int64_t r = 0; r < rows; ++r)
    to_integers(values + r * columns, columns, chunks_per_block * kChunk, high + r * columns, low + r * columns, scales + r * blocks, sums + r * blocks);
  input_.high = high;
  input_.low = low;
}

}  // namespace miq::quantizer::packed
