// GPTQ, which equals LDLQ: column by column, the error of each is fed back into those behind it.
// Source: arXiv 2210.17323 algorithm 1; IST-DASLab/gptq gptq.py:GPTQ.fasterquant (Apache-2.0).
// Differs from it in: groups are fitted on fully updated weights unless group_fit is stale; rows are
// independent, so one kernel takes a tile of rows through a block of columns (row_tile.h), and only
// the update of the columns behind the block is a matrix product.
#include <ATen/Parallel.h>

#include "../roundings.h"
#include "../row_tile.h"
#include "miq/core/error.h"

namespace miq::quantizer {
namespace {

// What the sweep knows, all in sweep order (permuted columns). Matrices are [I, O]: a column of the
// weight is contiguous, so lanes are rows.
struct Sweep {
  at::Tensor weight_IO, codes_IO, upper_II;
  at::Tensor scales_GO, zeros_GO;       // group-major, natural or sweep order as `slot` says
  std::vector<std::int64_t> slot;       // group of each position
  Grid grid;
  Range range;
  bool dynamic;                         // groups are fitted during the sweep
  bool stale;                           // ... on weights that lack the errors of the current block
  std::int64_t group;                   // columns per group
  std::int64_t rows, columns;
  double squared_error = 0;             // sum e^2
};

// Ends of the column blocks: block_size wide; when groups are fitted fresh, cut so that no group
// reaches from inside a block into the next.
std::vector<std::int64_t> block_ends(const Sweep& sweep, std::int64_t block_size) {
  std::vector<std::int64_t> ends;
  const bool aligned = sweep.dynamic && !sweep.stale && sweep.group < sweep.columns;
  for (std::int64_t at = 0; at < sweep.columns;) {
    std::int64_t end = std::min(at + block_size, sweep.columns);
    if (aligned && end < sweep.columns) {
      const std::int64_t last_start = end / sweep.group * sweep.group;
      const std::int64_t next_start = (at / sweep.group + 1) * sweep.group;
      end = last_start > at ? last_start : std::min(end, next_start);
    }
    ends.push_back(at = end);
  }
  return ends;
}

// A tile's columns [begin, end) copied from or to [I, O] storage; lanes beyond `valid` repeat lane 0.
void load_columns(const float* matrix, std::int64_t rows, std::int64_t first, std::int64_t valid, std::int64_t begin,
                  std::int64_t end, float* tile) {
  for (std::int64_t c = begin; c < end; ++c, tile += kLanes) {
    const float* const source = matrix + c * rows + first;
    for (std::int64_t r = 0; r < valid; ++r) tile[r] = source[r];
    for (std::int64_t r = valid; r < kLanes; ++r) tile[r] = source[0];
  }
}

// Fits the group that starts at `position` for one row tile, from the tile itself where it reaches
// (fresh), or from the stored weights (stale, and columns behind the block).
void fit_group(Sweep& sweep, const float* tile, std::int64_t block_begin, std::int64_t block_end, std::int64_t position,
               std::int64_t first, std::int64_t valid, std::vector<float>& scratch, TileGrid& fitted) {
  const std::int64_t end = std::min(position + sweep.group, sweep.columns);
  const float* const stored = sweep.weight_IO.const_data_ptr<float>();
  if (!sweep.stale && end <= block_end) {
    fit_tile(tile + (position - block_begin) * kLanes, end - position, sweep.grid, sweep.range, fitted);
  } else {
    scratch.resize(static_cast<size_t>((end - position) * kLanes));
    load_columns(stored, sweep.rows, first, valid, position, end, scratch.data());
    fit_tile(scratch.data(), end - position, sweep.grid, sweep.range, fitted);
  }
  const std::int64_t slot = sweep.slot[static_cast<size_t>(position)];
  float* const scales = sweep.scales_GO.mutable_data_ptr<float>() + slot * sweep.rows + first;
  float* const zeros = sweep.zeros_GO.mutable_data_ptr<float>() + slot * sweep.rows + first;
  for (std::int64_t r = 0; r < valid; ++r) {
    scales[r] = fitted.scale[r];
    zeros[r] = fitted.zero[r];
  }
}

struct Scratch {
  std::vector<float> tile, codes, errors, values, group;
  explicit Scratch(std::int64_t width)
      : tile(static_cast<size_t>(width * kLanes)), codes(tile), errors(tile), values(tile) {}
};

// One row tile through the columns [begin, end). Writes codes and errors [end - begin, O]; returns
// sum e^2.
double sweep_tile(Sweep& sweep, std::int64_t begin, std::int64_t end, std::int64_t first,
                                     std::int64_t valid, float* errors_BO, Scratch& scratch) {
  const std::int64_t width = end - begin;
  load_columns(sweep.weight_IO.const_data_ptr<float>(), sweep.rows, first, valid, begin, end, scratch.tile.data());
  const float* const upper = sweep.upper_II.const_data_ptr<float>() + begin * sweep.columns + begin;
  TileGrid tile_grid;
  for (std::int64_t j = begin; j < end;) {
    const bool starts = sweep.dynamic && j % sweep.group == 0;
    // A run of columns that share parameters: to the next group start, or the next change of slot.
    std::int64_t stop = j + 1;
    const std::int64_t slot = sweep.slot[static_cast<size_t>(j)];
    while (stop < end && sweep.slot[static_cast<size_t>(stop)] == slot && !(sweep.dynamic && stop % sweep.group == 0)) ++stop;
    if (starts) {
      fit_group(sweep, scratch.tile.data(), begin, end, j, first, valid, scratch.group, tile_grid);
    } else {
      const std::int64_t at = slot * sweep.rows + first;
      tile_grid_from_params(sweep.scales_GO.const_data_ptr<float>() + at, sweep.zeros_GO.const_data_ptr<float>() + at, 1,
                            valid, sweep.grid, tile_grid);
    }
    feed_back_errors(scratch.tile.data(), width, j - begin, stop - j, upper, sweep.columns, tile_grid, scratch.codes.data(),
                     scratch.errors.data(), scratch.values.data());
    j = stop;
  }
  std::uint8_t* const codes = sweep.codes_IO.mutable_data_ptr<std::uint8_t>();
  double squares = 0;
  for (std::int64_t c = 0; c < width; ++c) {
    const float* const code = scratch.codes.data() + c * kLanes;
    const float* const error = scratch.errors.data() + c * kLanes;
    for (std::int64_t r = 0; r < valid; ++r) {
      codes[(begin + c) * sweep.rows + first + r] = static_cast<std::uint8_t>(code[r]);
      errors_BO[c * sweep.rows + first + r] = error[r];
      squares += static_cast<double>(error[r]) * error[r];
    }
  }
  return squares;
}

void run(Sweep& sweep, std::int64_t block_size) {
  std::int64_t begin = 0;
  for (const std::int64_t end : block_ends(sweep, block_size)) {
    at::Tensor errors_BO = at::empty({end - begin, sweep.rows}, at::kFloat);
    float* const errors = errors_BO.mutable_data_ptr<float>();
    const std::int64_t tiles = (sweep.rows + kLanes - 1) / kLanes;
    std::vector<double> squares(static_cast<size_t>(tiles));
    at::parallel_for(0, tiles, 1, [&](std::int64_t from, std::int64_t to) {
      Scratch scratch(end - begin);
      for (std::int64_t t = from; t < to; ++t) {
        const std::int64_t first = t * kLanes;
        squares[static_cast<size_t>(t)] =
            sweep_tile(sweep, begin, end, first, std::min(kLanes, sweep.rows - first), errors, scratch);
      }
    });
    for (double value : squares) sweep.squared_error += value;
    if (end < sweep.columns) {
      at::Tensor behind = sweep.weight_IO.narrow(0, end, sweep.columns - end);
      const at::Tensor panel = sweep.upper_II.narrow(0, begin, end - begin).narrow(1, end, sweep.columns - end);
      behind.addmm_(panel.t(), errors_BO, 1, -1);
    }
    begin = end;
  }
}

// Group of each sweep position. Natural groups, except act_order desc with groups fitted on the way:
// those follow the sweep, and need an index.
std::vector<std::int64_t> slots(const at::Tensor& perm, std::int64_t columns, std::int64_t group, bool natural) {
  std::vector<std::int64_t> slot(static_cast<size_t>(columns));
  for (std::int64_t k = 0; k < columns; ++k)
    slot[static_cast<size_t>(k)] = (natural && perm.defined() ? perm.const_data_ptr<std::int64_t>()[k] : k) / group;
  return slot;
}

}  // namespace

QuantizedLinear round_error_feedback(const LinearProblem& problem, const Grid& grid, const Range& range,
                                     const Rounding& rounding) {
  const at::Device device = problem.weight_OI.device();
  const std::int64_t rows = problem.weight_OI.size(0), columns = problem.weight_OI.size(1);
  const HessianFactor& factor = problem.hessian->factor(rounding, grid.columns_per_group(columns));
  const at::Tensor original = problem.weight_OI.to(at::kCPU, at::kFloat).contiguous();
  const at::Tensor perm = factor.perm.defined() ? factor.perm.cpu() : factor.perm;

  Sweep sweep;
  sweep.grid = grid;
  sweep.range = range;
  sweep.rows = rows;
  sweep.columns = columns;
  sweep.group = grid.columns_per_group(columns);
  const bool grouped = grid.granularity == Granularity::group;
  sweep.dynamic = grouped && !rounding.static_groups;
  sweep.stale = rounding.group_fit == GroupFit::stale;
  const bool natural = !sweep.dynamic || rounding.act_order != ActOrder::desc;
  sweep.slot = slots(perm, columns, sweep.group, natural);
  // Parameters that do not change on the way are fitted on the weights as they are, before dead
  // columns are cleared, as the reference does.
  const std::int64_t groups = grid.num_groups(columns);
  if (sweep.dynamic) {
    sweep.scales_GO = at::empty({groups, rows}, at::kFloat);
    sweep.zeros_GO = at::empty({groups, rows}, at::kFloat);
  } else {
    const GridParams params = fit_grid(original, grid, range);
    sweep.scales_GO = params.scales_OG.t().contiguous();
    sweep.zeros_GO = params.zeros_OG.t().contiguous();
  }
  at::Tensor weight = original;
  if (factor.dead.defined()) weight = weight.masked_fill(factor.dead.cpu(), 0);
  if (perm.defined()) weight = weight.index_select(1, perm);
  sweep.weight_IO = weight.t().contiguous();
  sweep.codes_IO = at::empty({columns, rows}, at::kByte);
  sweep.upper_II = factor.upper_II.cpu().contiguous();
  run(sweep, rounding.block_size);

  QuantizedLinear result;
  result.grid = grid;
  at::Tensor codes = sweep.codes_IO.t().contiguous();
  if (perm.defined()) codes = codes.index_select(1, perm.argsort());
  result.codes_OI = codes.to(device);
  result.params = {sweep.scales_GO.t().contiguous().to(device), sweep.zeros_GO.t().contiguous().to(device)};
  if (!natural) {
    at::Tensor index = at::empty({columns}, at::kLong);
    index.index_copy_(0, perm, at::tensor(sweep.slot, at::kLong));
    result.group_of_column = index.to(device);
  }
  result.events = factor.events;
  // dW = E U, so sum e^2 = tr(dW (H + damp I) dW^T); dead columns count nothing in H.
  at::Tensor change = dequantize(result, at::kFloat).cpu() - original;
  if (factor.dead.defined()) change = change.masked_fill(factor.dead.cpu(), 0);
  result.loss = std::max(0.0, sweep.squared_error - factor.damp * change.to(at::kDouble).square().sum().item<double>());
  return result;
}

}  // namespace miq::quantizer
