// SpQR: error feedback whose groups are fitted without the weights that hurt most, which stay exact;
// scales and zeros are quantized themselves. Source: arXiv 2306.03078; Vahe1994/SpQR spqr_engine.py:
// SPQRUtil.quantize (Apache-2.0). The second level ties rows together at each group's start, so all
// tiles of rows go through the columns in step: fit (tiles), second level (rows), round (tiles).
#include <ATen/ATen.h>

#include <limits>

#include "../roundings.h"
#include "../row_tile.h"
#include "../spqr_groups.h"
#include "../tile_update.h"

namespace miq::quantizer {
namespace {

constexpr std::int64_t kStrip = 16;

struct Sweep {
  Grid grid;
  const Rounding* rounding;
  double threshold = 0;            // of a squared error; 0: no outliers
  std::int64_t rows, columns, tiles, group, groups, block;
  std::vector<std::int64_t> column;
  at::Tensor weights;              // [T, I, kLanes], sweep order
  at::Tensor errors;               // as weights: e of each column
  at::Tensor outliers;             // as weights: the kept value, NaN where there is none
  at::Tensor upper_II;
  std::vector<float> inverse_squares;
  at::Tensor codes_OI;             // original columns
  at::Tensor scales_GO, zeros_GO;  // [G, T * kLanes]
  BilevelParams bilevel;           // [G, ...] during the sweep

  float* at(at::Tensor& tiles_, std::int64_t t) { return tiles_.mutable_data_ptr<float>() + t * columns * kLanes; }
};

// Both levels of the group that starts at position k.
void fit_group(Sweep& sweep, std::int64_t k) {
  const std::int64_t width = std::min(sweep.group, sweep.columns - k), g = k / sweep.group, lanes = sweep.tiles * kLanes;
  float* const scales = sweep.scales_GO.mutable_data_ptr<float>() + g * lanes;
  float* const zeros = sweep.zeros_GO.mutable_data_ptr<float>() + g * lanes;
  for_each_row_tile(sweep.rows, [&](std::int64_t first, std::int64_t) {
    const std::int64_t t = first / kLanes;
    TileGrid fitted;
    fit_spqr_group(sweep.at(sweep.weights, t) + k * kLanes, width, sweep.inverse_squares.data() + k, sweep.threshold,
                   sweep.rounding->simplified_outliers, sweep.grid, fitted);
    std::copy_n(fitted.scale, kLanes, scales + t * kLanes);
    std::copy_n(fitted.zero, kLanes, zeros + t * kLanes);
  });
  const Bilevel& second = sweep.grid.bilevel;
  const auto quantize = [&](at::Tensor& values_GO, int bits, bool symmetric, at::Tensor& codes, at::Tensor& s, at::Tensor& z) {
    at::Tensor values = values_GO[g].narrow(0, 0, sweep.rows);
    const SecondLevel level = quantize_parameters(values, bits, symmetric, second.rows, sweep.grid.scale_dtype);
    codes[g].copy_(level.codes_O);
    s[g].copy_(level.scales_R);
    z[g].copy_(level.zeros_R);
  };
  BilevelParams& b = sweep.bilevel;
  if (b.scale_codes_OG.defined()) quantize(sweep.scales_GO, second.scale_bits, false, b.scale_codes_OG, b.scale_scales_RG, b.scale_zeros_RG);
  if (b.zero_codes_OG.defined()) quantize(sweep.zeros_GO, second.zero_bits, second.zero_symmetric, b.zero_codes_OG, b.zero_scales_RG, b.zero_zeros_RG);
}

// Rounds columns [begin, end), all of one group, and updates the rest of their block.
void round_strip(Sweep& sweep, std::int64_t t, std::int64_t begin, std::int64_t end, std::int64_t block_end) {
  float* const tile = sweep.at(sweep.weights, t);
  float* const errors = sweep.at(sweep.errors, t);
  float* const kept = sweep.at(sweep.outliers, t);
  const float* const upper = sweep.upper_II.const_data_ptr<float>();
  std::uint8_t* const out = sweep.codes_OI.mutable_data_ptr<std::uint8_t>();
  const std::int64_t g = begin / sweep.group, lanes = sweep.tiles * kLanes, valid = std::min(kLanes, sweep.rows - t * kLanes);
  TileGrid grid;
  load_tile_grid(sweep.scales_GO.const_data_ptr<float>() + g * lanes + t * kLanes, sweep.zeros_GO.const_data_ptr<float>() + g * lanes + t * kLanes,
                 1, kLanes, sweep.grid, grid);
  alignas(64) float code[kLanes], zero_code[kLanes], value[kLanes], squares[kLanes];
  const float nothing[kLanes] = {};
  quantize_column(nothing, grid, zero_code, value);
  for (std::int64_t k = begin; k < end; ++k) {
    const float* const row = upper + k * sweep.columns;
    float* const w = tile + k * kLanes;
    float* const error = errors + k * kLanes;
    round_column(w, row[k], grid, code, error, squares);
    for (std::int64_t r = 0; r < kLanes && sweep.threshold > 0; ++r) {
      if (!(error[r] * error[r] > static_cast<float>(sweep.threshold))) continue;
      const float value_kept = sweep.rounding->outlier_bits == 16 ? static_cast<float>(c10::Half(w[r])) : w[r];
      kept[k * kLanes + r] = value_kept;
      error[r] = (w[r] - value_kept) / row[k];
      code[r] = zero_code[r];
    }
    for (std::int64_t lane = 0; lane < valid; ++lane)
      out[(t * kLanes + lane) * sweep.columns + sweep.column[static_cast<size_t>(k)]] = static_cast<std::uint8_t>(code[lane]);
    subtract_products(tile + (k + 1) * kLanes, end - k - 1, error, 1, row + k + 1, sweep.columns);
  }
  subtract_products(tile + end * kLanes, block_end - end, errors + begin * kLanes, end - begin, upper + begin * sweep.columns + end, sweep.columns);
}

void run(Sweep& sweep) {
  for (std::int64_t begin = 0; begin < sweep.columns; begin += sweep.block) {
    const std::int64_t block_end = std::min(begin + sweep.block, sweep.columns);
    for (std::int64_t at = begin; at < block_end;) {
      if (at % sweep.group == 0) fit_group(sweep, at);
      const std::int64_t end = std::min({at + kStrip, (at / sweep.group + 1) * sweep.group, block_end});
      for_each_row_tile(sweep.rows, [&](std::int64_t first, std::int64_t) {
        const std::int64_t t = first / kLanes;
        round_strip(sweep, t, at, end, block_end);
        if (end == block_end)
          subtract_products(sweep.at(sweep.weights, t) + end * kLanes, sweep.columns - end, sweep.at(sweep.errors, t) + begin * kLanes, end - begin,
                            sweep.upper_II.const_data_ptr<float>() + begin * sweep.columns + end, sweep.columns);
      });
      at = end;
    }
  }
}

// [O, I] in sweep order -> tiles; lanes behind the last row repeat it.
at::Tensor to_tiles(const at::Tensor& matrix_OI, std::int64_t tiles) {
  const std::int64_t rows = matrix_OI.size(0), columns = matrix_OI.size(1);
  const at::Tensor index = at::arange(tiles * kLanes).clamp_max(rows - 1);
  return matrix_OI.index_select(0, index).view({tiles, kLanes, columns}).transpose(1, 2).contiguous();
}

Outliers collect_outliers(const Sweep& sweep, int value_bits) {
  const at::Tensor inverse = at::tensor(sweep.column, at::kLong).argsort();
  const at::Tensor values = sweep.outliers.transpose(1, 2).reshape({-1, sweep.columns}).narrow(0, 0, sweep.rows).index_select(1, inverse);
  const at::Tensor kept = values.isnan().logical_not();
  const at::Tensor places = kept.nonzero();
  Outliers outliers;
  outliers.value_bits = value_bits;
  outliers.row_offsets = at::cat({at::zeros({1}, at::kInt), kept.sum(1, false, at::kInt).cumsum(0, at::kInt)});
  outliers.columns = places.select(1, 1).to(at::kInt);
  outliers.values = values.masked_select(kept);
  return outliers;
}

Sweep make_sweep(const at::Tensor& weight_OI, const HessianFactor& factor, const Grid& grid, const Rounding& rounding) {
  Sweep sweep;
  sweep.grid = grid;
  sweep.rounding = &rounding;
  sweep.rows = weight_OI.size(0);
  sweep.columns = weight_OI.size(1);
  sweep.tiles = (sweep.rows + kLanes - 1) / kLanes;
  sweep.group = grid.columns_per_group(sweep.columns);
  sweep.groups = grid.num_groups(sweep.columns);
  sweep.block = rounding.block_size;
  sweep.column = factor.columns();
  at::Tensor weight = weight_OI;
  if (factor.dead.defined()) weight = weight.masked_fill(factor.dead.cpu(), 0);
  weight = weight.index_select(1, at::tensor(sweep.column, at::kLong));
  sweep.upper_II = factor.upper_II.cpu().contiguous();
  const at::Tensor diagonal = sweep.upper_II.diagonal().to(at::kDouble);
  const at::Tensor inverse_squares = diagonal.square().reciprocal().to(at::kFloat).contiguous();
  sweep.inverse_squares.assign(inverse_squares.const_data_ptr<float>(), inverse_squares.const_data_ptr<float>() + sweep.columns);
  if (rounding.outlier_threshold > 0 && sweep.rows > 1)
    sweep.threshold = rounding.outlier_threshold * (weight.var(at::IntArrayRef{0}, /*unbiased=*/true) / diagonal.square()).mean().item<double>();
  sweep.weights = to_tiles(weight, sweep.tiles);
  sweep.errors = at::empty_like(sweep.weights);
  sweep.outliers = at::full_like(sweep.weights, std::numeric_limits<float>::quiet_NaN());
  sweep.codes_OI = at::empty({sweep.rows, sweep.columns}, at::kByte);
  sweep.scales_GO = at::ones({sweep.groups, sweep.tiles * kLanes}, at::kFloat);
  sweep.zeros_GO = at::zeros_like(sweep.scales_GO);
  const Bilevel& second = grid.bilevel;
  const auto level = [&](at::Tensor& codes, at::Tensor& scales, at::Tensor& zeros) {
    codes = at::empty({sweep.groups, sweep.rows}, at::kByte);
    scales = at::empty({sweep.groups, sweep.rows / second.rows}, at::kFloat);
    zeros = at::empty_like(scales);
  };
  BilevelParams& b = sweep.bilevel;
  if (second.scale_bits > 0) level(b.scale_codes_OG, b.scale_scales_RG, b.scale_zeros_RG);
  // Whole zeros of no more bits than the second level has need none.
  if (second.zero_bits > 0 && !grid.symmetric && (grid.real_zeros || second.zero_bits < grid.bits))
    level(b.zero_codes_OG, b.zero_scales_RG, b.zero_zeros_RG);
  return sweep;
}

}  // namespace

QuantizedLinear round_spqr(const LinearProblem& problem, const Grid& grid, const Range&, const Rounding& rounding) {
  const at::Tensor weight = problem.weight_OI.to(at::kCPU, at::kFloat).contiguous();
  const std::int64_t columns = weight.size(1);
  const bool spearman = rounding.act_order == ActOrder::spearman;
  const at::Tensor order = spearman ? spearman_order(weight) : at::Tensor();
  const HessianFactor& factor = problem.hessian->factor(rounding, grid.columns_per_group(columns), order);
  Sweep sweep = make_sweep(weight, factor, grid, rounding);
  run(sweep);

  QuantizedLinear result;
  result.grid = grid;
  result.codes_OI = sweep.codes_OI;
  result.params = {sweep.scales_GO.narrow(1, 0, sweep.rows).t().contiguous(), sweep.zeros_GO.narrow(1, 0, sweep.rows).t().contiguous()};
  BilevelParams& b = sweep.bilevel;
  for (at::Tensor* t : {&b.scale_codes_OG, &b.zero_codes_OG, &b.scale_scales_RG, &b.scale_zeros_RG, &b.zero_scales_RG, &b.zero_zeros_RG})
    if (t->defined()) *t = t->t().contiguous();
  result.bilevel = b;
  if (factor.perm.defined()) {
    at::Tensor index = at::empty({columns}, at::kLong);
    index.index_put_({at::tensor(sweep.column, at::kLong)}, at::arange(columns).floor_divide(sweep.group));
    result.group_of_column = index;
  }
  if (sweep.threshold > 0) result.outliers = collect_outliers(sweep, rounding.outlier_bits);
  result.events = factor.events;
  result.loss = std::numeric_limits<double>::quiet_NaN();
  return to_device(std::move(result), problem.weight_OI.device());
}

}  // namespace miq::quantizer
