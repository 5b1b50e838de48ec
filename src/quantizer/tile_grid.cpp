#include "tile_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "device_rounding.h"

namespace miq::quantizer {
namespace {

// The plain numbers of a miq_grid are these enumerators.
static_assert(static_cast<int>(GridConvention::miq) == gpu::kMiq && static_cast<int>(GridConvention::ist) == gpu::kIst && static_cast<int>(GridConvention::awq) == gpu::kAwq &&
              static_cast<int>(GridConvention::ct) == gpu::kCt && static_cast<int>(GridConvention::absmax) == gpu::kAbsmax &&
              static_cast<int>(GridConvention::spqr) == gpu::kSpqr && static_cast<int>(GridConvention::quip) == gpu::kQuip && static_cast<int>(GridConvention::hqq) == gpu::kHqq);
static_assert(static_cast<int>(GridType::integer) == 0 && static_cast<int>(GridType::fp8_e4m3) == 1 && static_cast<int>(GridType::fp8_e5m2) == 2);

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
  const miq_grid plain = gpu_grid(grid);
  const miq_range search = gpu_range(range);
  for (int i = 0; i < search.steps; ++i) {
    bool any_other = false;
    TileGrid other = candidate;
    for (std::int64_t r = 0; r < kLanes; ++r) {
      const gpu::Candidate tried = gpu::shrunk_fit(lows[r], highs[r], i, search, plain);
      set_lane(candidate, r, tried.fitted);
      Fitted neighbour = tried.fitted;
      if (gpu::tries_other_zero(search, plain) && gpu::other_zero(tried, plain, neighbour)) any_other = true;
      set_lane(other, r, neighbour);
    }
    consider();
    if (!any_other) continue;
    candidate = other;
    consider();
  }
}

}  // namespace

float fp8_max(GridType type) { return gpu::fp8_max(static_cast<int>(type)); }

Fitted fit_interval(float low, float high, const Grid& grid) { return gpu::fit_interval(low, high, gpu_grid(grid)); }

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
  const miq_grid plain = gpu_grid(grid);
  for (std::int64_t lane = 0; lane < kLanes; ++lane) set_lane(out, lane, gpu::fit_interval(lows[lane], highs[lane], plain));
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
