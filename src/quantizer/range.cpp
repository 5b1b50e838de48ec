#include "miq/quantizer/range.h"

#include <ATen/Parallel.h>

#include "miq/core/error.h"
#include "row_tile.h"

namespace miq::quantizer {
namespace {

at::Tensor on_cpu(const at::Tensor& t) { return t.to(at::kCPU, at::kFloat).contiguous(); }

// Rows [first, first + kLanes) and columns [begin, end) of a row-major matrix as a tile; rows beyond
// the matrix repeat the last one.
void load_tile(const float* matrix, std::int64_t rows, std::int64_t columns, std::int64_t first, std::int64_t begin,
               std::int64_t end, float* tile) {
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    const float* const row = matrix + std::min(first + lane, rows - 1) * columns;
    for (std::int64_t c = begin; c < end; ++c) tile[(c - begin) * kLanes + lane] = row[c];
  }
}

// Calls work(first_row, valid_rows) for each row tile, in parallel.
template <class Work>
void for_each_row_tile(std::int64_t rows, const Work& work) {
  at::parallel_for(0, (rows + kLanes - 1) / kLanes, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) work(t * kLanes, std::min(kLanes, rows - t * kLanes));
  });
}

// One interval for the whole matrix; every row carries the same parameters. The matrix is laid out as
// one tile. What fills it up changes nothing: a copy of an element where extremes count, zeros, which
// lie on every grid of the search, where errors are summed.
GridParams fit_tensor(const at::Tensor& weight_OI, const Grid& grid, const Range& range) {
  const at::Tensor flat = on_cpu(weight_OI).flatten();
  const std::int64_t columns = (flat.numel() + kLanes - 1) / kLanes;
  at::Tensor tile = at::zeros({columns * kLanes}, at::kFloat);
  if (range.kind == RangeKind::min_max) tile.fill_(flat[0]);
  tile.narrow(0, 0, flat.numel()).copy_(flat);
  TileGrid fitted;
  fit_tile(tile.const_data_ptr<float>(), columns, grid, range, fitted, /*shared=*/true);
  const auto options = weight_OI.options().dtype(at::kFloat);
  return {at::full({weight_OI.size(0), 1}, fitted.scale[0], options), at::full({weight_OI.size(0), 1}, fitted.zero[0], options)};
}

}  // namespace

GridParams fit_grid(const at::Tensor& weight_OI, const Grid& grid, const Range& range) {
  if (!weight_OI.isfinite().all().item<bool>()) throw Error(ErrorKind::numeric, "the weight is not finite (NaN or inf)");
  if (grid.granularity == Granularity::tensor) return fit_tensor(weight_OI, grid, range);
  const at::Tensor weight = on_cpu(weight_OI);
  const std::int64_t rows = weight.size(0), columns = weight.size(1);
  const std::int64_t group = grid.columns_per_group(columns), groups = grid.num_groups(columns);
  GridParams params{at::empty({rows, groups}, at::kFloat), at::empty({rows, groups}, at::kFloat)};
  const float* const w = weight.const_data_ptr<float>();
  float* const scales = params.scales_OG.mutable_data_ptr<float>();
  float* const zeros = params.zeros_OG.mutable_data_ptr<float>();
  for_each_row_tile(rows, [&](std::int64_t first, std::int64_t valid) {
    std::vector<float> tile(static_cast<size_t>(group * kLanes));
    TileGrid fitted;
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t begin = g * group, end = std::min(begin + group, columns);
      load_tile(w, rows, columns, first, begin, end, tile.data());
      fit_tile(tile.data(), end - begin, grid, range, fitted);
      for (std::int64_t lane = 0; lane < valid; ++lane) {
        scales[(first + lane) * groups + g] = fitted.scale[lane];
        zeros[(first + lane) * groups + g] = fitted.zero[lane];
      }
    }
  });
  return {params.scales_OG.to(weight_OI.device()), params.zeros_OG.to(weight_OI.device())};
}

at::Tensor nearest_codes(const at::Tensor& weight_OI, const Grid& grid, const GridParams& params) {
  const at::Tensor weight = on_cpu(weight_OI), scales = on_cpu(params.scales_OG), zeros = on_cpu(params.zeros_OG);
  const std::int64_t rows = weight.size(0), columns = weight.size(1);
  const std::int64_t group = grid.columns_per_group(columns), groups = scales.size(1);
  at::Tensor codes = at::empty({rows, columns}, at::kByte);
  const float* const w = weight.const_data_ptr<float>();
  const float* const s = scales.const_data_ptr<float>();
  const float* const z = zeros.const_data_ptr<float>();
  std::uint8_t* const out = codes.mutable_data_ptr<std::uint8_t>();
  for_each_row_tile(rows, [&](std::int64_t first, std::int64_t valid) {
    std::vector<float> tile(static_cast<size_t>(group * kLanes));
    TileGrid tile_grid;
    alignas(64) float code[kLanes], value[kLanes];
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t begin = g * group, end = std::min(begin + group, columns);
      load_tile(w, rows, columns, first, begin, end, tile.data());
      tile_grid_from_params(s + first * groups + g, z + first * groups + g, groups, valid, grid, tile_grid);
      for (std::int64_t c = begin; c < end; ++c) {
        quantize_column(tile.data() + (c - begin) * kLanes, tile_grid, code, value);
        for (std::int64_t lane = 0; lane < valid; ++lane)
          out[(first + lane) * columns + c] = static_cast<std::uint8_t>(code[lane]);
      }
    }
  });
  return codes.to(weight_OI.device());
}

}  // namespace miq::quantizer
