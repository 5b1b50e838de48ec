// GPTQ, which equals LDLQ: column by column, the error of each is fed back into those behind it.
// Source: arXiv 2210.17323 algorithm 1; IST-DASLab/gptq gptq.py:GPTQ.fasterquant (Apache-2.0).
// Differs from it in: groups are fitted on fully updated weights unless group_fit is stale. Rows are
// independent, so the kernel takes tiles of rows through blocks of columns: inside a block, strips of
// kStrip columns are rounded one by one and then applied to the rest of the block; the block's errors
// are applied to all that lies behind it while they are in the cache (tile_update.h).
// On a GPU: feedback_device.cpp.
#include <ATen/Parallel.h>

#include "../greedy_descent.h"
#include "../roundings.h"
#include "../row_tile.h"
#include "../tile_update.h"
#include "feedback_plan.h"

namespace miq::quantizer {
namespace {

constexpr std::int64_t kBlock = kFeedbackBlock;  // a block's errors of one tile: 16 KiB
constexpr std::int64_t kStrip = 16;

// T tiles of kLanes rows.
struct Sweep : FeedbackPlan {
  explicit Sweep(const FeedbackPlan& plan) : FeedbackPlan(plan) {}
  std::int64_t tiles = 0;
  at::Tensor weights;                  // float [T, I, kLanes], updated in place
  at::Tensor codes_OI;                 // uint8, original columns
  at::Tensor scales_GO, zeros_GO;      // float [G, T * kLanes]
  at::Tensor upper_II;
  std::vector<double> squared_errors;  // sum e^2 of each tile

  float* tile(std::int64_t t) { return weights.mutable_data_ptr<float>() + t * columns * kLanes; }
  float* scales(std::int64_t slot, std::int64_t t) { return scales_GO.mutable_data_ptr<float>() + (slot * tiles + t) * kLanes; }
  float* zeros(std::int64_t slot, std::int64_t t) { return zeros_GO.mutable_data_ptr<float>() + (slot * tiles + t) * kLanes; }
};

void fit_group(Sweep& sweep, std::int64_t t, std::int64_t position, TileGrid& fitted) {
  const std::int64_t width = std::min(sweep.group, sweep.columns - position);
  fit_tile(sweep.tile(t) + position * kLanes, width, sweep.grid, sweep.range, fitted);
  const std::int64_t slot = sweep.slot[static_cast<size_t>(position)];
  std::copy_n(fitted.scale, kLanes, sweep.scales(slot, t));
  std::copy_n(fitted.zero, kLanes, sweep.zeros(slot, t));
}

struct Scratch {
  std::vector<float> errors, codes;
  Scratch() : errors(static_cast<size_t>(kBlock * kLanes)), codes(errors) {}
};

// The end of the columns from `at` on that can be rounded with one TileGrid.
std::int64_t end_of_run(const Sweep& sweep, std::int64_t at, std::int64_t limit) {
  const std::int64_t slot = sweep.slot[static_cast<size_t>(at)];
  std::int64_t end = at + 1;
  while (end < limit && sweep.slot[static_cast<size_t>(end)] == slot) ++end;
  return end;
}

// Rounds one block of a tile, updating the rest of the block. Errors and codes go to scratch.
void round_block(Sweep& sweep, std::int64_t t, Span block, Scratch& scratch) {
  float* const tile = sweep.tile(t);
  const float* const upper = sweep.upper_II.const_data_ptr<float>();
  const bool fresh = sweep.fresh();
  alignas(64) float squares[kLanes] = {};
  TileGrid grid;
  // As the reference: all groups that start in a block, on weights without the block's own errors.
  if (sweep.dynamic && !fresh)
    for (const std::int64_t position : sweep.stale_groups(block.begin)) fit_group(sweep, t, position, grid);
  std::int64_t run_end = block.begin;
  for (std::int64_t begin = block.begin; begin < block.end;) {
    std::int64_t end = std::min(begin + kStrip, block.end);
    if (fresh) end = std::min(end, (begin / sweep.group + 1) * sweep.group);
    for (std::int64_t k = begin; k < end; ++k) {
      if (k == run_end) {
        const std::int64_t slot = sweep.slot[static_cast<size_t>(k)];
        if (fresh && k % sweep.group == 0)
          fit_group(sweep, t, k, grid);
        else
          load_tile_grid(sweep.scales(slot, t), sweep.zeros(slot, t), 1, kLanes, sweep.grid, grid);
        run_end = end_of_run(sweep, k, block.end);
      }
      const float* const row = upper + k * sweep.columns;
      float* const error = scratch.errors.data() + (k - block.begin) * kLanes;
      round_column(tile + k * kLanes, row[k], grid, scratch.codes.data() + (k - block.begin) * kLanes, error, squares);
      subtract_products(tile + (k + 1) * kLanes, end - k - 1, error, 1, row + k + 1, sweep.columns);
    }
    subtract_products(tile + end * kLanes, block.end - end, scratch.errors.data() + (begin - block.begin) * kLanes,
                      end - begin, upper + begin * sweep.columns + end, sweep.columns);
    begin = end;
  }
  const std::int64_t valid = std::min(kLanes, sweep.rows - t * kLanes);
  for (std::int64_t lane = 0; lane < valid; ++lane) sweep.squared_errors[static_cast<size_t>(t)] += squares[lane];
}

void store_codes(Sweep& sweep, std::int64_t t, Span block, const float* codes) {
  std::uint8_t* const out = sweep.codes_OI.mutable_data_ptr<std::uint8_t>();
  const std::int64_t valid = std::min(kLanes, sweep.rows - t * kLanes);
  for (std::int64_t lane = 0; lane < valid; ++lane) {
    std::uint8_t* const row = out + (t * kLanes + lane) * sweep.columns;
    for (std::int64_t k = block.begin; k < block.end; ++k)
      row[sweep.column[static_cast<size_t>(k)]] = code_byte(codes[(k - block.begin) * kLanes + lane], sweep.grid);
  }
}

void run(Sweep& sweep) {
  at::Tensor packed = at::empty({kBlock, sweep.columns}, at::kFloat);
  float* const panels = packed.mutable_data_ptr<float>();
  const float* const upper = sweep.upper_II.const_data_ptr<float>();
  for (const Span block : sweep.blocks()) {
    const std::int64_t depth = block.end - block.begin, behind = sweep.columns - block.end;
    // One panel of U after the other, shared by all tiles.
    at::parallel_for(0, (behind + kPanelColumns - 1) / kPanelColumns, 16, [&](std::int64_t from, std::int64_t to) {
      for (std::int64_t p = from; p < to; ++p) {
        const std::int64_t first = p * kPanelColumns, width = std::min(kPanelColumns, behind - first);
        pack_panel(upper + block.begin * sweep.columns + block.end + first, sweep.columns, width, depth, panels + first * depth);
      }
    });
    at::parallel_for(0, sweep.tiles, 1, [&](std::int64_t from, std::int64_t to) {
      Scratch scratch;
      for (std::int64_t t = from; t < to; ++t) {
        round_block(sweep, t, block, scratch);
        store_codes(sweep, t, block, scratch.codes.data());
        float* const rest = sweep.tile(t) + block.end * kLanes;
        for (std::int64_t first = 0; first < behind; first += kPanelColumns) {
          const std::int64_t width = std::min(kPanelColumns, behind - first);
          subtract_products(rest + first * kLanes, width, scratch.errors.data(), depth, panels + first * depth, width);
        }
      }
    });
  }
}

// The weight as tiles in sweep order; dead columns are 0, lanes behind the last row repeat it.
void load_weights(Sweep& sweep, const at::Tensor& weight_OI, const at::Tensor& dead) {
  const float* const weight = weight_OI.const_data_ptr<float>();
  std::vector<float> kept(static_cast<size_t>(sweep.columns), 1.0f);
  if (dead.defined())
    for (std::int64_t k = 0; k < sweep.columns; ++k)
      if (dead.const_data_ptr<bool>()[sweep.column[static_cast<size_t>(k)]]) kept[static_cast<size_t>(k)] = 0;
  at::parallel_for(0, sweep.tiles, 1, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t t = from; t < to; ++t) {
      float* const tile = sweep.tile(t);
      for (std::int64_t begin = 0; begin < sweep.columns; begin += kStrip)
        for (std::int64_t lane = 0; lane < kLanes; ++lane) {
          const float* const row = weight + std::min(t * kLanes + lane, sweep.rows - 1) * sweep.columns;
          for (std::int64_t k = begin; k < std::min(begin + kStrip, sweep.columns); ++k)
            tile[k * kLanes + lane] = row[sweep.column[static_cast<size_t>(k)]] * kept[static_cast<size_t>(k)];
        }
    }
  });
}

Sweep make_sweep(const FeedbackPlan& plan, const HessianFactor& factor) {
  Sweep sweep(plan);
  sweep.tiles = (sweep.rows + kLanes - 1) / kLanes;
  const std::int64_t groups = sweep.grid.num_groups(sweep.columns);
  sweep.scales_GO = at::ones({groups, sweep.tiles * kLanes}, at::kFloat);
  sweep.zeros_GO = at::zeros_like(sweep.scales_GO);
  if (!sweep.dynamic) {
    sweep.scales_GO.narrow(1, 0, sweep.rows).copy_(plan.params.scales_OG.t());
    sweep.zeros_GO.narrow(1, 0, sweep.rows).copy_(plan.params.zeros_OG.t());
  }
  sweep.weights = at::empty({sweep.tiles, sweep.columns, kLanes}, at::kFloat);
  load_weights(sweep, plan.start_OI.to(at::kCPU, at::kFloat).contiguous(), factor.dead.defined() ? factor.dead.cpu() : factor.dead);
  sweep.codes_OI = at::empty({sweep.rows, sweep.columns}, at::kByte);
  sweep.upper_II = factor.upper_II.cpu().contiguous();
  sweep.squared_errors.resize(static_cast<size_t>(sweep.tiles));
  return sweep;
}

SweptCodes sweep_tiles(const FeedbackPlan& plan, const HessianFactor& factor) {
  Sweep sweep = make_sweep(plan, factor);
  run(sweep);
  SweptCodes swept{sweep.codes_OI, {sweep.scales_GO.narrow(1, 0, sweep.rows).t().contiguous(), sweep.zeros_GO.narrow(1, 0, sweep.rows).t().contiguous()}, 0};
  for (const double value : sweep.squared_errors) swept.squared_error += value;
  return swept;
}

// tr(dW H dW^T) from sum e^2 = tr(dW (H + damp I) dW^T), which holds since dW = E U; NaN where too
// little of the sum would be left, or a dead column has an error (on grids without 0).
double undamped_loss(double squared_error, const at::Tensor& change_OI, const HessianFactor& factor, const Grid& grid) {
  const bool dead = factor.dead.defined();
  const bool has_zero = grid.is_fp8() || grid.convention == GridConvention::miq || grid.convention == GridConvention::ist ||
                        grid.convention == GridConvention::ct || grid.convention == GridConvention::absmax;
  if (dead && !has_zero) return std::numeric_limits<double>::quiet_NaN();
  const at::Tensor counted = dead ? change_OI.masked_fill(factor.dead.to(change_OI.device()), 0) : change_OI;
  const double norm = counted.norm().item<double>(), damping = factor.damp * norm * norm;
  return damping < 0.9 * squared_error || squared_error == 0 ? squared_error - damping
                                                             : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

QuantizedLinear round_error_feedback(const LinearProblem& problem, const Grid& grid, const Range& range,
                                     const Rounding& rounding) {
  const at::Device device = problem.weight_OI.device();
  const std::int64_t columns = problem.weight_OI.size(1);
  const HessianFactor& factor = problem.hessian->factor(rounding, grid.columns_per_group(columns));
  const FeedbackPlan plan = make_plan(problem.weight_OI.to(at::kFloat).contiguous(), problem.hessian->matrix(), factor, grid, range, rounding);
  const SweptCodes swept = sweeps_on_device(plan) ? sweep_on_device(plan, factor) : sweep_tiles(plan, factor);

  QuantizedLinear result;
  result.grid = grid;
  result.codes_OI = swept.codes_OI.to(device);
  result.params = {swept.params.scales_OG.to(device), swept.params.zeros_OG.to(device)};
  if (plan.dynamic && rounding.act_order != ActOrder::none) {
    at::Tensor index = at::empty({columns}, at::kLong);
    for (std::int64_t k = 0; k < columns; ++k)
      index.mutable_data_ptr<std::int64_t>()[plan.column[static_cast<size_t>(k)]] = plan.slot[static_cast<size_t>(k)];
    result.group_of_column = index.to(device);
  }
  result.events = factor.events;
  if (rounding.greedy_passes > 0) {
    descend(result, plan.start_OI, /*from_weights=*/false, *problem.hessian, factor, rounding.greedy_passes, rounding.reference_clamping);
    result.loss = std::numeric_limits<double>::quiet_NaN();
    return result;
  }
  result.loss = undamped_loss(swept.squared_error, dequantize(result, at::kFloat) - problem.weight_OI, factor, grid);
  return result;
}

}  // namespace miq::quantizer
