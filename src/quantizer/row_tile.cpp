#include "row_tile.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

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

void copy_lane(const TileGrid& from, std::int64_t lane, TileGrid& to) {
  to.scale[lane] = from.scale[lane];
  to.zero[lane] = from.zero[lane];
  to.offset[lane] = from.offset[lane];
  to.low[lane] = from.low[lane];
  to.high[lane] = from.high[lane];
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

// |x|^norm, within 1e-6 of its value; 0 for 0. Plain arithmetic, so that loops over it vectorise.
inline float power(float x, float norm) {
  const float magnitude = std::abs(x);
  const auto bits = std::bit_cast<std::int32_t>(magnitude);
  // log2: the exponent, and atanh's series on a mantissa in [0.7, 1.4].
  const std::int32_t shift = (bits - 0x3f3504f3) >> 23;
  const float mantissa = std::bit_cast<float>(bits - (shift << 23));
  const float t = (mantissa - 1) / (mantissa + 1), t2 = t * t;
  const float series = t * (2.885390082f + t2 * (0.9617966940f + t2 * (0.5770780164f + t2 * (0.4121985831f + t2 * 0.32f))));
  const float exponent = norm * (static_cast<float>(shift) + series);
  // exp2: whole part into the exponent, the rest by its series.
  const float clamped = std::min(std::max(exponent, -126.0f), 126.0f);
  const float whole = round_half_even(clamped), f = clamped - whole;
  const float fraction =
      1 + f * (0.6931471806f + f * (0.2402265070f + f * (0.05550410866f + f * (0.009618129108f + f * (0.001333355815f + f * 0.000154f)))));
  const float scaled = fraction * std::bit_cast<float>((static_cast<std::int32_t>(whole) + 127) << 23);
  return magnitude > 0 ? scaled : 0.0f;
}

// errors[r] += sum over columns of |Q(w) - w|^norm, for each row of a tile.
MIQ_VECTORISED void add_rounding_errors(const float* tile, std::int64_t columns, const TileGrid& g, float norm, float* errors) {
  for (std::int64_t c = 0; c < columns; ++c) {
    const float* const w = tile + c * kLanes;
    for (std::int64_t r = 0; r < kLanes; ++r) {
      float code = w[r] / g.scale[r] + g.offset[r];
      code = code < g.low[r] ? g.low[r] : code;
      code = code > g.high[r] ? g.high[r] : code;
      errors[r] += power(g.scale[r] * (round_half_even(code) - g.offset[r]) - w[r], norm);
    }
  }
}

// Shrinks each row's interval step by step and keeps the first strict minimum of the error.
void fit_by_error(const float* tile, std::int64_t columns, const float* lows, const float* highs, const Grid& grid,
                  const Range& range, bool shared, TileGrid& best) {
  alignas(64) float least[kLanes], errors[kLanes];
  std::fill(least, least + kLanes, std::numeric_limits<float>::infinity());
  TileGrid candidate;
  const auto consider = [&] {
    std::fill(errors, errors + kLanes, 0.0f);
    add_rounding_errors(tile, columns, candidate, static_cast<float>(range.norm), errors);
    if (shared) std::fill(errors, errors + kLanes, std::accumulate(errors, errors + kLanes, 0.0f));
    for (std::int64_t r = 0; r < kLanes; ++r) {
      if (!(errors[r] < least[r])) continue;
      least[r] = errors[r];
      copy_lane(candidate, r, best);
    }
  };
  const int steps = static_cast<int>(range.maxshrink * range.grid);
  for (int i = 0; i < steps; ++i) {
    const auto p = static_cast<float>(1 - static_cast<double>(i) / range.grid);
    bool any_other = false;
    TileGrid other;
    for (std::int64_t r = 0; r < kLanes; ++r) {
      const Interval whole = ist_interval(lows[r], highs[r], grid), part = {p * whole.low, p * whole.high};
      const Fitted fitted = fit_ist(part, grid);
      set_lane(candidate, r, fitted);
      set_lane(other, r, fitted);
      if (!range.adjacent_zeros || grid.symmetric || grid.bits != 2) continue;
      const float neighbour = fitted.zero > -part.low / fitted.scale ? fitted.zero - 1 : fitted.zero + 1;
      if (neighbour < 0 || neighbour > static_cast<float>((1 << grid.bits) - 1)) continue;
      set_lane(other, r, finish(fitted.scale, neighbour, grid));
      any_other = true;
    }
    consider();
    if (!any_other) continue;
    candidate = other;
    consider();
  }
}

}  // namespace

void fit_tile(const float* tile, std::int64_t columns, const Grid& grid, const Range& range, TileGrid& out, bool shared) {
  alignas(64) float lows[kLanes], highs[kLanes];
  find_extremes(tile, columns, lows, highs);
  if (shared) {
    std::fill(lows, lows + kLanes, *std::min_element(lows, lows + kLanes));
    std::fill(highs, highs + kLanes, *std::max_element(highs, highs + kLanes));
  }
  for (std::int64_t lane = 0; lane < kLanes; ++lane) set_lane(out, lane, fit_interval(lows[lane], highs[lane], grid));
  if (range.kind == RangeKind::mse) fit_by_error(tile, columns, lows, highs, grid, range, shared, out);
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
