#include "tile_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace miq::quantizer {
namespace {

float top_of(const Grid& grid) { return static_cast<float>((1 << grid.bits) - 1); }
float half_of(const Grid& grid) { return static_cast<float>(1 << (grid.bits - 1)); }

struct Interval {
  float low, high;
};

float stored(float value, const Grid& grid) { return grid.scale_dtype == at::kFloat ? value : stored_number(value, grid.scale_dtype); }

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

// std::nearbyint rounds half to even.
Fitted fit_ist(Interval interval, const Grid& grid) {
  const float top = top_of(grid), scale = stored((interval.high - interval.low) / top, grid);
  return finish(scale, grid.symmetric ? (top + 1) / 2 : std::nearbyint(-interval.low / scale), grid);
}

Fitted fit_awq(float low, float high, const Grid& grid) {
  const float top = top_of(grid), half = half_of(grid);
  if (grid.symmetric) return finish(stored(std::max({-low, high, 1e-5f}) / (half - 1), grid), half, grid);
  const float scale = stored(std::max(high - low, 1e-5f) / top, grid);
  return finish(scale, std::clamp(-std::nearbyint(low / scale), 0.0f, top), grid);
}

Fitted fit_ct(float low, float high, const Grid& grid) {
  const float top = top_of(grid), half = half_of(grid);
  low = std::min(low, 0.0f);
  high = std::max(high, 0.0f);
  // compressed-tensors gives a group of zeros the scale eps and the (signed) zero point 0.
  constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
  if (low == high) return finish(kEpsilon, half, grid);
  if (grid.symmetric) {
    const float scale = stored(std::max(-low, high) / (top / 2), grid);
    return finish(scale == 0 ? kEpsilon : scale, half, grid);
  }
  const float scale = stored((high - low) / top, grid);
  if (scale == 0) return finish(kEpsilon, half, grid);  // underflow
  return finish(scale, std::nearbyint(std::clamp(-half - low / scale, -half, half - 1)) + half, grid);
}

Fitted fit_spqr(float low, float high, const Grid& grid) {
  const float top = top_of(grid);
  if (grid.symmetric) {
    high = std::max(std::abs(low), high);
    if (low < 0) low = -high;
  }
  if (low == high) low = -1, high = 1;
  const float scale = stored((high - low) / top, grid);
  float zero = -low / scale;
  if (grid.symmetric) zero = (top + 1) / 2;
  else zero = grid.real_zeros ? stored(zero, grid) : std::nearbyint(zero);
  return finish(scale, zero, grid);
}

Fitted fit_hqq(float low, float high, const Grid& grid) {
  const float range = high - low;
  const float inverse = range <= 1e-4f ? 1.0f : std::min(top_of(grid) / range, 2e4f);
  const float zero = -low * inverse;
  return finish(1 / inverse, grid.real_zeros ? zero : std::nearbyint(zero), grid);
}

Fitted fit_fp8(float low, float high, const Grid& grid) {
  const float scale = stored(std::max(-low, high) / fp8_max(grid.type), grid);
  return finish(scale > 0 ? scale : std::numeric_limits<float>::epsilon(), 0, grid);
}

void find_percentiles(const float* tile, std::int64_t columns, double percentile, float* lows, float* highs) {
  std::vector<float> row(static_cast<size_t>(columns));
  for (std::int64_t r = 0; r < kLanes; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) row[static_cast<size_t>(c)] = tile[c * kLanes + r];
    std::tie(lows[r], highs[r]) = percentile_interval(row, percentile);
  }
}

void find_rms(const float* tile, std::int64_t columns, double rho, float* lows, float* highs) {
  for (std::int64_t r = 0; r < kLanes; ++r) {
    double sum = 0;
    for (std::int64_t c = 0; c < columns; ++c) sum += static_cast<double>(tile[c * kLanes + r]) * tile[c * kLanes + r];
    highs[r] = static_cast<float>(rho * std::sqrt(sum / static_cast<double>(columns)) + 1e-16);
    lows[r] = -highs[r];
  }
}

// Shrinks each row's interval step by step and keeps the first strict minimum of the error.
void fit_by_error(const float* tile, std::int64_t columns, const float* lows, const float* highs, const Grid& grid,
                  const Range& range, bool shared, TileGrid& best) {
  alignas(64) float least[kLanes], errors[kLanes];
  std::fill(least, least + kLanes, std::numeric_limits<float>::infinity());
  const bool ist = grid.is_integer() && (grid.convention == GridConvention::miq || grid.convention == GridConvention::ist);
  TileGrid candidate;
  set_type(candidate, grid);
  const auto consider = [&] {
    std::fill(errors, errors + kLanes, 0.0f);
    add_rounding_errors(tile, columns, candidate, static_cast<float>(range.norm), errors);
    if (shared) std::fill(errors, errors + kLanes, std::accumulate(errors, errors + kLanes, 0.0f));
    for (std::int64_t r = 0; r < kLanes; ++r) {
      if (!(errors[r] < least[r])) continue;
      least[r] = errors[r];
      set_lane(best, r, {candidate.scale[r], candidate.zero[r], candidate.offset[r], candidate.low[r], candidate.high[r], candidate.base[r]});
    }
  };
  const int steps = static_cast<int>(range.maxshrink * range.grid);
  for (int i = 0; i < steps; ++i) {
    const auto p = static_cast<float>(1 - static_cast<double>(i) / range.grid);
    bool any_other = false;
    TileGrid other = candidate;
    for (std::int64_t r = 0; r < kLanes; ++r) {
      const Interval whole = ist ? ist_interval(lows[r], highs[r], grid) : Interval{lows[r], highs[r]};
      const Interval part = {p * whole.low, p * whole.high};
      const Fitted fitted = ist ? fit_ist(part, grid) : fit_interval(part.low, part.high, grid);
      set_lane(candidate, r, fitted);
      set_lane(other, r, fitted);
      if (!ist || !range.adjacent_zeros || grid.symmetric || grid.bits != 2) continue;
      const float neighbour = fitted.zero > -part.low / fitted.scale ? fitted.zero - 1 : fitted.zero + 1;
      if (neighbour < 0 || neighbour > top_of(grid)) continue;
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

float fp8_max(GridType type) { return type == GridType::fp8_e5m2 ? 57344.0f : 448.0f; }

Fitted finish(float scale, float zero, const Grid& grid) {
  if (grid.is_fp8()) return {scale, 0, 0, -fp8_max(grid.type), fp8_max(grid.type), 0};
  const float top = top_of(grid), half = half_of(grid);
  switch (grid.convention) {
    case GridConvention::ct: return {scale, zero, zero - half, -half, half - 1, half};
    case GridConvention::spqr:
    case GridConvention::quip:
    case GridConvention::hqq: return {scale, zero, zero, 0, top, 0};  // the zero is added before rounding
    default: return {scale, zero, 0, -zero, top - zero, zero};
  }
}

Fitted fit_interval(float low, float high, const Grid& grid) {
  if (grid.is_fp8()) return fit_fp8(low, high, grid);
  switch (grid.convention) {
    case GridConvention::miq:
    case GridConvention::ist: return fit_ist(ist_interval(low, high, grid), grid);
    case GridConvention::awq: return fit_awq(low, high, grid);
    case GridConvention::ct: return fit_ct(low, high, grid);
    case GridConvention::absmax: return finish(stored(std::max({-low, high, 1e-5f}) / (half_of(grid) - 1), grid), half_of(grid), grid);
    case GridConvention::spqr: return fit_spqr(low, high, grid);
    case GridConvention::quip: return finish(stored(2 * std::max({-low, high, 1e-16f}) / top_of(grid), grid), top_of(grid) / 2, grid);
    case GridConvention::hqq: return fit_hqq(low, high, grid);
  }
  return fit_ist(ist_interval(low, high, grid), grid);
}

std::pair<float, float> percentile_interval(std::vector<float>& weights, double percentile) {
  std::sort(weights.begin(), weights.end());
  const auto at_share = [&](double share) {
    const double place = share * static_cast<double>(weights.size() - 1);
    const auto below = static_cast<size_t>(place);
    const float next = weights[std::min(below + 1, weights.size() - 1)];
    return weights[below] + static_cast<float>(place - static_cast<double>(below)) * (next - weights[below]);
  };
  const double tail = (100 - percentile) / 200;
  return {at_share(tail), at_share(1 - tail)};
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

void fit_clipped(const float* lows, const float* highs, const float* limits, const Grid& grid, TileGrid& out) {
  float low[kLanes], high[kLanes];
  for (std::int64_t r = 0; r < kLanes; ++r) {
    low[r] = std::max(lows[r], -limits[r]);
    high[r] = std::min(highs[r], limits[r]);
  }
  fit_extremes(low, high, grid, out);
}

void fit_extremes(const float* lows, const float* highs, const Grid& grid, TileGrid& out) {
  for (std::int64_t lane = 0; lane < kLanes; ++lane) set_lane(out, lane, fit_interval(lows[lane], highs[lane], grid));
  set_type(out, grid);
}

void fit_tile(const float* tile, std::int64_t columns, const Grid& grid, const Range& range, TileGrid& out, bool shared) {
  alignas(64) float lows[kLanes], highs[kLanes];
  if (range.kind == RangeKind::percentile) {
    find_percentiles(tile, columns, range.percentile, lows, highs);
  } else if (range.kind == RangeKind::rms) {
    find_rms(tile, columns, range.rho, lows, highs);
  } else {
    find_extremes(tile, columns, lows, highs);
    if (shared) {
      std::fill(lows, lows + kLanes, *std::min_element(lows, lows + kLanes));
      std::fill(highs, highs + kLanes, *std::max_element(highs, highs + kLanes));
    }
  }
  fit_extremes(lows, highs, grid, out);
  if (range.kind == RangeKind::mse) fit_by_error(tile, columns, lows, highs, grid, range, shared, out);
}

}  // namespace miq::quantizer
