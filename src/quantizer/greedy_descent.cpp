#include "greedy_descent.h"

#include <ATen/ATen.h>

#include "row_tile.h"
#include "tile_update.h"

namespace miq::quantizer {
namespace {

constexpr std::int64_t kBlock = 128;

// Positions are in the factor's order.
struct Descent {
  Grid grid;
  std::int64_t rows, columns, groups;
  std::vector<std::int64_t> column, slot;  // of each position
  at::Tensor hessian;                      // [I, I], damped
  at::Tensor weight_OI, start_OI, scales_OG, zeros_OG;
  at::Tensor codes_OI;
  bool late_clamping;
  int passes;
};

struct TileState {
  std::vector<float> error;  // E = Q - W, [I][kLanes]
  std::vector<float> value;  // Q
  std::vector<float> code;
};

TileGrid grid_at(const Descent& d, std::int64_t first, std::int64_t valid, std::int64_t position) {
  TileGrid grid;
  const std::int64_t offset = first * d.groups + d.slot[static_cast<size_t>(position)];
  load_tile_grid(d.scales_OG.const_data_ptr<float>() + offset, d.zeros_OG.const_data_ptr<float>() + offset, d.groups, valid, d.grid, grid);
  return grid;
}

// One pass over a tile; whether any value changed.
bool pass(const Descent& d, std::int64_t first, std::int64_t valid, TileState& state) {
  const float* const h = d.hessian.const_data_ptr<float>();
  alignas(64) float pull[kBlock * kLanes], target[kLanes], value[kLanes], code[kLanes], change[kLanes];
  bool changed = false;
  TileGrid grid;
  std::int64_t loaded = -1;
  for (std::int64_t begin = 0; begin < d.columns; begin += kBlock) {
    const std::int64_t width = std::min(kBlock, d.columns - begin);
    std::fill_n(pull, width * kLanes, 0.0f);
    subtract_products(pull, width, state.error.data(), d.columns, h + begin, d.columns);  // - E H
    for (std::int64_t k = begin; k < begin + width; ++k) {
      if (d.slot[static_cast<size_t>(k)] != loaded) {
        grid = grid_at(d, first, valid, k);
        loaded = d.slot[static_cast<size_t>(k)];
        if (d.late_clamping) {
          std::fill_n(grid.low, kLanes, -1e6f);
          std::fill_n(grid.high, kLanes, 1e6f);
        }
      }
      float* const error = state.error.data() + k * kLanes;
      float* const now = state.value.data() + k * kLanes;
      const float diagonal = h[k * d.columns + k];
      for (std::int64_t r = 0; r < kLanes; ++r) target[r] = now[r] + pull[(k - begin) * kLanes + r] / diagonal;
      quantize_column(target, grid, code, value);
      for (std::int64_t r = 0; r < kLanes; ++r) {
        change[r] = value[r] - now[r];
        changed = changed || change[r] != 0;
        error[r] += change[r];
        now[r] = value[r];
        state.code[static_cast<size_t>(k * kLanes + r)] = code[r];
      }
      // The columns of the block behind this one.
      subtract_products(pull + (k + 1 - begin) * kLanes, begin + width - k - 1, change, 1, h + k * d.columns + k + 1, d.columns);
    }
  }
  return changed;
}

// Codes of a late-clamping pass back on the grid; errors stay as they are, as in the reference.
void clamp_codes(const Descent& d, std::int64_t first, std::int64_t valid, TileState& state) {
  alignas(64) float code[kLanes], value[kLanes];
  for (std::int64_t k = 0; k < d.columns; ++k) {
    const TileGrid grid = grid_at(d, first, valid, k);
    quantize_column(state.value.data() + k * kLanes, grid, code, value);
    std::copy_n(code, kLanes, state.code.data() + k * kLanes);
    std::copy_n(value, kLanes, state.value.data() + k * kLanes);
  }
}

void load_positions(const Descent& d, const at::Tensor& matrix_OI, std::int64_t first, std::vector<float>& tile) {
  const float* const m = matrix_OI.const_data_ptr<float>();
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    const float* const row = m + std::min(first + lane, d.rows - 1) * d.columns;
    for (std::int64_t k = 0; k < d.columns; ++k) tile[static_cast<size_t>(k * kLanes + lane)] = row[d.column[static_cast<size_t>(k)]];
  }
}

void descend_tile(Descent& d, std::int64_t first, std::int64_t valid) {
  const auto size = static_cast<size_t>(d.columns * kLanes);
  TileState state{std::vector<float>(size), std::vector<float>(size), std::vector<float>(size)};
  load_positions(d, d.start_OI, first, state.value);
  load_positions(d, d.weight_OI, first, state.error);
  for (size_t i = 0; i < size; ++i) state.error[i] = state.value[i] - state.error[i];
  for (int p = 0; p < d.passes; ++p) {
    const bool changed = pass(d, first, valid, state);
    if (d.late_clamping) clamp_codes(d, first, valid, state);
    if (!changed) break;
  }
  std::uint8_t* const out = d.codes_OI.mutable_data_ptr<std::uint8_t>();
  for (std::int64_t lane = 0; lane < valid; ++lane)
    for (std::int64_t k = 0; k < d.columns; ++k)
      out[(first + lane) * d.columns + d.column[static_cast<size_t>(k)]] = code_byte(state.code[static_cast<size_t>(k * kLanes + lane)], d.grid);
}

}  // namespace

void descend(QuantizedLinear& linear, const at::Tensor& weight_OI, bool from_weights, StageHessian& hessian,
             const HessianFactor& factor, int passes, bool reference_clamping) {
  Descent d;
  d.grid = linear.grid;
  d.rows = weight_OI.size(0);
  d.columns = weight_OI.size(1);
  d.passes = passes;
  d.late_clamping = reference_clamping;
  d.column = factor.columns();
  const at::Tensor perm = at::tensor(d.column, at::kLong);
  const at::Tensor group = linear.group_of_column.defined() ? linear.group_of_column.cpu()
                                                            : at::arange(d.columns).floor_divide(d.grid.columns_per_group(d.columns));
  const at::Tensor slots = group.index_select(0, perm);
  d.slot.assign(slots.const_data_ptr<std::int64_t>(), slots.const_data_ptr<std::int64_t>() + d.columns);
  d.hessian = hessian.matrix().cpu().index_select(0, perm).index_select(1, perm).contiguous();
  at::Tensor diagonal = d.hessian.diagonal();
  if (factor.dead.defined()) diagonal.masked_fill_(factor.dead.cpu().index_select(0, perm), 1);
  diagonal.add_(factor.damp);
  d.scales_OG = linear.params.scales_OG.cpu().contiguous();
  d.zeros_OG = linear.params.zeros_OG.cpu().contiguous();
  d.groups = d.scales_OG.size(1);
  d.weight_OI = weight_OI.cpu().contiguous();
  d.start_OI = from_weights ? d.weight_OI : stored_weight(linear).cpu().contiguous();
  d.codes_OI = at::empty({d.rows, d.columns}, at::kByte);
  for_each_row_tile(d.rows, [&](std::int64_t first, std::int64_t valid) { descend_tile(d, first, valid); });
  linear.codes_OI = d.codes_OI.to(weight_OI.device());
}

at::Tensor clamp_to_grid(const at::Tensor& weight_OI, const Grid& grid, const GridParams& params) {
  const std::int64_t columns = weight_OI.size(1), width = grid.columns_per_group(columns);
  const auto spread = [&](const at::Tensor& ends_OG) { return ends_OG.repeat_interleave(width, 1).narrow(1, 0, columns); };
  const double top = (1 << grid.bits) - 1;
  const at::Tensor lows = spread(-params.zeros_OG * params.scales_OG), highs = spread((top - params.zeros_OG) * params.scales_OG);
  return at::minimum(at::maximum(weight_OI, lows), highs).contiguous();
}

}  // namespace miq::quantizer
