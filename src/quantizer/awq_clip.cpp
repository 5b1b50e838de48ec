// AWQ's clip search from the diagonal group blocks of the Hessian. Source: llm-awq auto_clip.py:
// auto_clip_layer (MIT), which sums the squared error of each group's own output over sampled tokens.
#include <cmath>
#include <limits>

#include "device_rounding.h"
#include "row_tile.h"
#include "tile_update.h"

namespace miq::quantizer {
namespace {

struct Best {
  alignas(64) float limit[kLanes], error[kLanes];
};

// d^T H d of each lane's change d = tile[columns][kLanes]; product: scratch of the tile's size.
void quadratic_forms(const float* change, std::int64_t columns, const float* hessian, float* product, float* forms) {
  std::fill_n(product, columns * kLanes, 0.0f);
  subtract_products(product, columns, change, columns, hessian, columns);  // - d^T H
  std::fill_n(forms, kLanes, 0.0f);
  for (std::int64_t c = 0; c < columns; ++c)
    for (std::int64_t r = 0; r < kLanes; ++r) forms[r] -= change[c * kLanes + r] * product[c * kLanes + r];
}

void search_group(const float* tile, std::int64_t columns, const float* hessian, const Grid& grid, const Range& range,
                  std::vector<float>& scratch, Best& best) {
  float largest[kLanes], lows[kLanes], highs[kLanes], forms[kLanes];
  find_extremes(tile, columns, lows, highs);
  for (std::int64_t r = 0; r < kLanes; ++r) largest[r] = std::max(-lows[r], highs[r]);
  std::fill_n(best.error, kLanes, std::numeric_limits<float>::infinity());
  float* const change = scratch.data();
  alignas(64) float codes[kLanes], limits[kLanes], clipped[kLanes];
  TileGrid fitted;
  for (int i = 0; i < static_cast<int>(range.max_shrink * range.n_grid); ++i) {
    for (std::int64_t r = 0; r < kLanes; ++r) limits[r] = largest[r] * static_cast<float>(1 - static_cast<double>(i) / range.n_grid);
    fit_clipped(lows, highs, limits, grid, fitted);
    for (std::int64_t c = 0; c < columns; ++c) {
      const float* const w = tile + c * kLanes;
      for (std::int64_t r = 0; r < kLanes; ++r) clipped[r] = std::clamp(w[r], -limits[r], limits[r]);
      quantize_column(clipped, fitted, codes, change + c * kLanes);
      for (std::int64_t r = 0; r < kLanes; ++r) change[c * kLanes + r] -= w[r];
    }
    quadratic_forms(change, columns, hessian, change + columns * kLanes, forms);
    for (std::int64_t r = 0; r < kLanes; ++r) {
      if (!(forms[r] < best.error[r])) continue;
      best.error[r] = forms[r];
      best.limit[r] = limits[r];
    }
  }
}

}  // namespace

at::Tensor awq_clip(const at::Tensor& weight_OI, const Grid& grid, const Range& range, const at::Tensor& hessian_II, at::Tensor* errors_OG) {
  if (rounds_on_device(weight_OI, grid) && weight_OI.size(1) % grid.columns_per_group(weight_OI.size(1)) == 0)
    return awq_clip_on_device(weight_OI, grid, range, hessian_II, errors_OG);
  const at::Tensor weight = weight_OI.to(at::kCPU, at::kFloat).contiguous(), hessian = hessian_II.to(at::kCPU, at::kFloat);
  const std::int64_t rows = weight.size(0), columns = weight.size(1);
  const std::int64_t group = grid.columns_per_group(columns), groups = grid.num_groups(columns);
  std::vector<at::Tensor> blocks;
  for (std::int64_t begin = 0; begin < columns; begin += group) {
    const std::int64_t width = std::min(group, columns - begin);
    blocks.push_back(hessian.narrow(0, begin, width).narrow(1, begin, width).contiguous());
  }
  at::Tensor limits = at::empty({rows, groups}, at::kFloat), errors = at::empty({rows, groups}, at::kFloat);
  const float* const w = weight.const_data_ptr<float>();
  float* const limit = limits.mutable_data_ptr<float>();
  float* const error = errors.mutable_data_ptr<float>();
  for_each_row_tile(rows, [&](std::int64_t first, std::int64_t valid) {
    std::vector<float> tile(static_cast<size_t>(group * kLanes)), scratch(static_cast<size_t>(2 * group * kLanes));
    Best best;
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t begin = g * group, end = std::min(begin + group, columns);
      load_tile(w, rows, columns, first, begin, end, tile.data());
      search_group(tile.data(), end - begin, blocks[static_cast<size_t>(g)].const_data_ptr<float>(), grid, range, scratch, best);
      for (std::int64_t lane = 0; lane < valid; ++lane) {
        limit[(first + lane) * groups + g] = best.limit[lane];
        error[(first + lane) * groups + g] = best.error[lane];
      }
    }
  });
  if (errors_OG != nullptr) *errors_OG = errors.to(weight_OI.device());
  return limits.to(weight_OI.device());
}

}  // namespace miq::quantizer
