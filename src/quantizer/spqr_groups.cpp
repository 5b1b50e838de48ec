#include "spqr_groups.h"

#include <ATen/ATen.h>

#include <limits>

#include "tile_grid.h"

namespace miq::quantizer {
namespace {

// errors[r] = sum over columns but `skip` of ((Q(w) - w) / u)^2.
MIQ_VECTORISED void weighted_errors(const float* tile, std::int64_t columns, std::int64_t skip, const float* inverse_squares,
                                    const TileGrid& g, float* errors) {
  for (std::int64_t r = 0; r < kLanes; ++r) errors[r] = 0;
  for (std::int64_t c = 0; c < columns; ++c) {
    if (c == skip) continue;
    const float* const w = tile + c * kLanes;
    for (std::int64_t r = 0; r < kLanes; ++r) {
      const float error = gpu::value_minus_weight(w[r], g.scale[r], round_lane(w[r], g, r).steps);
      errors[r] += error * error * inverse_squares[c];
    }
  }
}

// The two smallest and the two largest weights of each row, and where the first ones stand.
struct Extremes {
  float low[kLanes], second_low[kLanes], high[kLanes], second_high[kLanes];
  std::int64_t low_at[kLanes], high_at[kLanes];
};

Extremes two_extremes(const float* tile, std::int64_t columns) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Extremes e;
  for (std::int64_t r = 0; r < kLanes; ++r) {
    e.low[r] = e.second_low[r] = kInfinity;
    e.high[r] = e.second_high[r] = -kInfinity;
    e.low_at[r] = e.high_at[r] = 0;
    for (std::int64_t c = 0; c < columns; ++c) {
      const float w = tile[c * kLanes + r];
      if (w < e.low[r]) {
        e.second_low[r] = e.low[r];
        e.low[r] = w;
        e.low_at[r] = c;
      } else if (w < e.second_low[r]) {
        e.second_low[r] = w;
      }
      if (w > e.high[r]) {
        e.second_high[r] = e.high[r];
        e.high[r] = w;
        e.high_at[r] = c;
      } else if (w > e.second_high[r]) {
        e.second_high[r] = w;
      }
    }
  }
  return e;
}

void fit_plain(const float* tile, std::int64_t columns, const Grid& grid, TileGrid& fitted) {
  fit_tile(tile, columns, grid, Range{}, fitted);
}

}  // namespace

void fit_spqr_group(const float* tile, std::int64_t columns, const float* inverse_squares, double threshold, bool simplified,
                    const Grid& grid, TileGrid& fitted) {
  fit_plain(tile, columns, grid, fitted);
  if (threshold <= 0 || simplified || columns < 2) return;
  // The detection has real zeros, whatever the grid has.
  Grid real = grid;
  real.real_zeros = true;
  TileGrid whole = fitted, without;
  if (!grid.real_zeros) fit_plain(tile, columns, real, whole);
  const Extremes e = two_extremes(tile, columns);
  alignas(64) float base[kLanes], rest[kLanes], lows[kLanes], highs[kLanes];
  weighted_errors(tile, columns, -1, inverse_squares, whole, base);
  std::vector<float> cleaned(tile, tile + columns * kLanes);
  std::vector<char> likely(static_cast<size_t>(columns * kLanes), 0);
  bool any = false;
  for (std::int64_t c = 0; c < columns; ++c) {
    for (std::int64_t r = 0; r < kLanes; ++r) {
      lows[r] = e.low_at[r] == c ? e.second_low[r] : e.low[r];
      highs[r] = e.high_at[r] == c ? e.second_high[r] : e.high[r];
    }
    fit_extremes(lows, highs, real, without);
    weighted_errors(tile, columns, c, inverse_squares, without, rest);
    for (std::int64_t r = 0; r < kLanes; ++r) {
      likely[static_cast<size_t>(c * kLanes + r)] = base[r] - rest[r] > static_cast<float>(threshold);
      any = any || likely[static_cast<size_t>(c * kLanes + r)] != 0;
    }
  }
  if (!any) return;
  for (std::int64_t r = 0; r < kLanes; ++r) {
    float sum = 0, count = 0;
    for (std::int64_t c = 0; c < columns; ++c)
      if (!likely[static_cast<size_t>(c * kLanes + r)]) sum += tile[c * kLanes + r], count += 1;
    const float mean = sum / std::max(1.0f, count);
    for (std::int64_t c = 0; c < columns; ++c)
      if (likely[static_cast<size_t>(c * kLanes + r)]) cleaned[static_cast<size_t>(c * kLanes + r)] = mean;
  }
  fit_plain(cleaned.data(), columns, grid, fitted);
}

SecondLevel quantize_parameters(at::Tensor& values_O, int bits, bool symmetric, std::int64_t rows, at::ScalarType dtype) {
  Grid grid;
  grid.scale_dtype = dtype;
  grid.bits = bits;
  grid.symmetric = symmetric;
  grid.convention = GridConvention::spqr;
  grid.real_zeros = true;
  grid.granularity = Granularity::channel;
  const at::Tensor groups_RO = values_O.reshape({-1, rows});
  const GridParams params = fit_grid(groups_RO, grid, Range{});
  const at::Tensor codes = nearest_codes(groups_RO, grid, params);
  values_O.copy_(values_of_codes(codes, grid, params).reshape(values_O.sizes()));
  return {codes.reshape({-1}), params.scales_OG.reshape({-1}), params.zeros_OG.reshape({-1})};
}

at::Tensor spearman_order(const at::Tensor& weight_OI) {
  // Ranks of each column's weights, centred and of unit length.
  at::Tensor ranks_IO = weight_OI.t().argsort(true, 1).argsort(true, 1).to(at::kFloat);
  ranks_IO = ranks_IO - ranks_IO.mean(1, true);
  ranks_IO = ranks_IO / ranks_IO.norm(2, {1}, true).clamp_min(1e-12);
  const std::int64_t columns = weight_OI.size(1);
  at::Tensor left = at::ones({columns}, at::kBool), order = at::empty({columns}, at::kLong);
  std::int64_t now = 0;
  for (std::int64_t k = 0; k < columns; ++k) {
    order[k] = now;
    left[now] = false;
    if (k + 1 == columns) break;
    const at::Tensor likeness = ranks_IO.mv(ranks_IO[now]).masked_fill(left.logical_not(), -std::numeric_limits<float>::infinity());
    now = likeness.argmax().item<std::int64_t>();
  }
  return order;
}

}  // namespace miq::quantizer
