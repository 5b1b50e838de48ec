#include "row_tile.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace miq::quantizer {
namespace {

// Compiled three times; the loader picks the best the CPU has. The arithmetic is the same in all but
// for fused multiply-adds.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define MIQ_VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MIQ_VECTORISED
#endif

// Round half to even for |x| < 2^22, where codes lie: two additions that vectorise everywhere.
inline float round_half_even(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

// Scale, zero and the way of rounding that follow from the interval [low, high] of raw weights.
struct Fitted {
  float scale, zero, offset, low, high;
};

Fitted finish(float scale, float zero, const Grid& grid) {
  const auto top = static_cast<float>((1 << grid.bits) - 1), half = static_cast<float>(1 << (grid.bits - 1));
  if (grid.convention == GridConvention::ct) return {scale, zero, zero - half, -half, half - 1};
  return {scale, zero, 0, -zero, top - zero};
}

struct Interval {
  float low, high;
};

// The interval that GPTQ's quantizer spans for raw extremes.
Interval ist_interval(float low, float high, const Grid& grid) {
  low = std::min(low, 0.0f);
  high = std::max(high, 0.0f);
  if (grid.symmetric) {
    high = std::max(-low, high);
    if (low < 0 || grid.convention == GridConvention::miq) low = -high;
  }
  // Nothing but zeros, or weights so small that the scale would lose its digits.
  if (high - low < 256 * std::numeric_limits<float>::min()) return {-1, 1};
  return {low, high};
}

// As float32 operations of the references, in their order; std::nearbyint rounds half to even.
Fitted fit_ist(Interval interval, const Grid& grid) {
  const auto top = static_cast<float>((1 << grid.bits) - 1);
  const float scale = (interval.high - interval.low) / top;
  const float zero = grid.symmetric ? (top + 1) / 2 : std::nearbyint(-interval.low / scale);
  return finish(scale, zero, grid);
}

Fitted fit_awq(float low, float high, const Grid& grid) {
  const auto top = static_cast<float>((1 << grid.bits) - 1), half = static_cast<float>(1 << (grid.bits - 1));
  if (grid.symmetric) return finish(std::max({-low, high, 1e-5f}) / (half - 1), half, grid);
  const float scale = std::max(high - low, 1e-5f) / top;
  return finish(scale, std::clamp(-std::nearbyint(low / scale), 0.0f, top), grid);
}

Fitted fit_ct(float low, float high, const Grid& grid) {
  const auto top = static_cast<float>((1 << grid.bits) - 1), half = static_cast<float>(1 << (grid.bits - 1));
  low = std::min(low, 0.0f);
  high = std::max(high, 0.0f);
  // compressed-tensors gives a group of zeros the scale eps and the (signed) zero point 0.
  constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
  if (low == high) return finish(kEpsilon, half, grid);
  if (grid.symmetric) {
    const float scale = std::max(-low, high) / (top / 2);
    return finish(scale == 0 ? kEpsilon : scale, half, grid);
  }
  const float scale = (high - low) / top;
  if (scale == 0) return finish(kEpsilon, half, grid);  // underflow
  return finish(scale, std::nearbyint(std::clamp(-half - low / scale, -half, half - 1)) + half, grid);
}

Fitted fit_interval(float low, float high, const Grid& grid) {
  switch (grid.convention) {
    case GridConvention::miq:
    case GridConvention::ist: return fit_ist(ist_interval(low, high, grid), grid);
    case GridConvention::awq: return fit_awq(low, high, grid);
    case GridConvention::ct: return fit_ct(low, high, grid);
  }
  return fit_ist(ist_interval(low, high, grid), grid);
}

void set_lane(TileGrid& out, std::int64_t lane, const Fitted& fitted) {
  out.scale[lane] = fitted.scale;
  out.zero[lane] = fitted.zero;
  out.offset[lane] = fitted.offset;
  out.low[lane] = fitted.low;
  out.high[lane] = fitted.high;
}

MIQ_VECTORISED void find_extremes(const float* tile, std::int64_t columns, float* lows, float* highs) {
  for (std::int64_t r = 0; r < kLanes; ++r) lows[r] = highs[r] = tile[r];
  for (std::int64_t c = 1; c < columns; ++c) {
    const float* const w = tile + c * kLanes;
    for (std::int64_t r = 0; r < kLanes; ++r) {
      lows[r] = w[r] < lows[r] ? w[r] : lows[r];
      highs[r] = w[r] > highs[r] ? w[r] : highs[r];
    }
  }
}

// sum of |Q(w) - w|^norm over `count` weights that lie `stride` apart.
double rounding_error(const float* weights, std::int64_t count, std::int64_t stride, const Fitted& g, double norm) {
  double sum = 0;
  for (std::int64_t c = 0; c < count; ++c) {
    const float w = weights[c * stride];
    const float code = round_half_even(std::min(std::max(w / g.scale + g.offset, g.low), g.high)) - g.offset;
    sum += std::pow(std::abs(g.scale * code - w), static_cast<float>(norm));
  }
  return sum;
}

// Shrinks the interval step by step and keeps the first strict minimum of the error.
Fitted fit_by_error(const float* weights, std::int64_t count, std::int64_t stride, Interval whole, const Grid& grid,
                    const Range& range) {
  Fitted best = fit_ist(whole, grid);
  double least = std::numeric_limits<double>::infinity();
  const auto consider = [&](const Fitted& candidate) {
    const double error = rounding_error(weights, count, stride, candidate, range.norm);
    if (error < least) {
      least = error;
      best = candidate;
    }
  };
  const int steps = static_cast<int>(range.maxshrink * range.grid);
  for (int i = 0; i < steps; ++i) {
    const auto p = static_cast<float>(1 - static_cast<double>(i) / range.grid);
    const Fitted candidate = fit_ist({p * whole.low, p * whole.high}, grid);
    consider(candidate);
    if (range.adjacent_zeros && !grid.symmetric && grid.bits == 2) {
      const float exact = -(p * whole.low) / candidate.scale;
      const float other = candidate.zero > exact ? candidate.zero - 1 : candidate.zero + 1;
      if (other >= 0 && other <= static_cast<float>((1 << grid.bits) - 1)) consider(finish(candidate.scale, other, grid));
    }
  }
  return best;
}

}  // namespace

void fit_tile(const float* tile, std::int64_t columns, const Grid& grid, const Range& range, TileGrid& out) {
  alignas(64) float lows[kLanes], highs[kLanes];
  find_extremes(tile, columns, lows, highs);
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    if (range.kind == RangeKind::mse)
      set_lane(out, lane, fit_by_error(tile + lane, columns, kLanes, ist_interval(lows[lane], highs[lane], grid), grid, range));
    else
      set_lane(out, lane, fit_interval(lows[lane], highs[lane], grid));
  }
}

void fit_row(const float* weights, std::int64_t count, const Grid& grid, const Range& range, float& scale, float& zero) {
  const auto [low, high] = std::minmax_element(weights, weights + count);
  const Fitted fitted = range.kind == RangeKind::mse
                            ? fit_by_error(weights, count, 1, ist_interval(*low, *high, grid), grid, range)
                            : fit_interval(*low, *high, grid);
  scale = fitted.scale;
  zero = fitted.zero;
}

void tile_grid_from_params(const float* scales, const float* zeros, std::int64_t stride, std::int64_t rows,
                           const Grid& grid, TileGrid& out) {
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    const std::int64_t row = std::min(lane, rows - 1);
    set_lane(out, lane, finish(scales[row * stride], zeros[row * stride], grid));
  }
}

MIQ_VECTORISED void quantize_column(const float* weights, const TileGrid& grid, float* codes, float* values) {
  for (std::int64_t r = 0; r < kLanes; ++r) {
    float code = weights[r] / grid.scale[r] + grid.offset[r];
    code = code < grid.low[r] ? grid.low[r] : code;
    code = code > grid.high[r] ? grid.high[r] : code;
    code = round_half_even(code) - grid.offset[r];
    codes[r] = code + grid.zero[r];
    values[r] = grid.scale[r] * code;
  }
}

MIQ_VECTORISED void load_tile_grid(const float* scales, const float* zeros, const Grid& grid, TileGrid& out) {
  const bool signed_codes = grid.convention == GridConvention::ct;
  const auto top = static_cast<float>((1 << grid.bits) - 1), half = static_cast<float>(1 << (grid.bits - 1));
  for (std::int64_t r = 0; r < kLanes; ++r) {
    out.scale[r] = scales[r];
    out.zero[r] = zeros[r];
    out.offset[r] = signed_codes ? zeros[r] - half : 0;
    out.low[r] = signed_codes ? -half : -zeros[r];
    out.high[r] = signed_codes ? half - 1 : top - zeros[r];
  }
}

MIQ_VECTORISED void round_column(const float* weights, float diagonal, const TileGrid& grid, float* codes, float* errors,
                                 float* squares) {
  for (std::int64_t r = 0; r < kLanes; ++r) {
    float code = weights[r] / grid.scale[r] + grid.offset[r];
    code = code < grid.low[r] ? grid.low[r] : code;
    code = code > grid.high[r] ? grid.high[r] : code;
    code = round_half_even(code) - grid.offset[r];
    codes[r] = code + grid.zero[r];
    errors[r] = (weights[r] - grid.scale[r] * code) / diagonal;
    squares[r] += errors[r] * errors[r];
  }
}

}  // namespace miq::quantizer
