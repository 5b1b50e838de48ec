#include "miq/quantizer/range.h"

#include <cmath>

#include "device_rounding.h"
#include "miq/core/error.h"
#include "miq/core/gpu_kernels.h"
#include "tile_grid.h"

namespace miq::quantizer {
namespace {

at::Tensor on_cpu(const at::Tensor& t) { return t.to(at::kCPU, at::kFloat).contiguous(); }

GridParams constant(const Fitted& fitted, std::int64_t rows, const at::TensorOptions& options) {
  return {at::full({rows, 1}, fitted.scale, options), at::full({rows, 1}, fitted.zero, options)};
}

// One interval for the whole matrix; every row carries the same parameters. For the error search the
// matrix is laid out as one tile, filled up with zeros, which lie on every grid of the search.
GridParams fit_tensor(const at::Tensor& weight_OI, const Grid& grid, const Range& range) {
  const at::Tensor flat = on_cpu(weight_OI).flatten();
  const auto options = weight_OI.options().dtype(at::kFloat);
  const std::int64_t rows = weight_OI.size(0);
  if (range.kind == RangeKind::rms) {
    const double rms = std::sqrt(flat.to(at::kDouble).square().mean().item<double>());
    const auto high = static_cast<float>(range.rho * rms + 1e-16);
    return constant(fit_interval(-high, high, grid), rows, options);
  }
  if (range.kind == RangeKind::percentile) {
    std::vector<float> weights(flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel());
    const auto [low, high] = percentile_interval(weights, range.percentile);
    return constant(fit_interval(low, high, grid), rows, options);
  }
  const std::int64_t columns = (flat.numel() + kLanes - 1) / kLanes;
  at::Tensor tile = at::zeros({columns * kLanes}, at::kFloat);
  if (range.kind == RangeKind::min_max) tile.fill_(flat[0]);
  tile.narrow(0, 0, flat.numel()).copy_(flat);
  TileGrid fitted;
  fit_tile(tile.const_data_ptr<float>(), columns, grid, range, fitted, /*shared=*/true);
  return {at::full({rows, 1}, fitted.scale[0], options), at::full({rows, 1}, fitted.zero[0], options)};
}

// Squares of group_size rows and columns, ragged at the edges.
GridParams fit_blocks(const at::Tensor& weight_OI, const Grid& grid) {
  const at::Tensor weight = on_cpu(weight_OI);
  const std::int64_t rows = weight.size(0), columns = weight.size(1), size = grid.group_size, groups = grid.num_groups(columns);
  GridParams params{at::empty({rows, groups}, at::kFloat), at::empty({rows, groups}, at::kFloat)};
  for (std::int64_t r = 0; r < rows; r += size)
    for (std::int64_t g = 0; g < groups; ++g) {
      const at::Tensor block = weight.narrow(0, r, std::min(size, rows - r)).narrow(1, g * size, std::min(size, columns - g * size));
      const Fitted fitted = fit_interval(block.min().item<float>(), block.max().item<float>(), grid);
      params.scales_OG.narrow(0, r, block.size(0)).select(1, g).fill_(fitted.scale);
      params.zeros_OG.narrow(0, r, block.size(0)).select(1, g).fill_(fitted.zero);
    }
  return {params.scales_OG.to(weight_OI.device()), params.zeros_OG.to(weight_OI.device())};
}

}  // namespace

GridParams fit_grid(const at::Tensor& weight_OI, const Grid& grid, const Range& range, const at::Tensor& hessian_II) {
  if (!weight_OI.isfinite().all().item<bool>()) throw Error(ErrorKind::numeric, "the weight is not finite (NaN or inf)");
  if (grid.granularity == Granularity::tensor) return fit_tensor(weight_OI, grid, range);
  if (grid.granularity == Granularity::block) return fit_blocks(weight_OI, grid);
  const bool clips = range.kind == RangeKind::awq_clip;
  if (clips && !hessian_II.defined()) throw Error(ErrorKind::internal, "range awq_clip needs calibration statistics");
  const at::Tensor found = clips ? awq_clip(weight_OI, grid, range, hessian_II) : at::Tensor();
  if (clips && rounds_on_device(weight_OI, grid)) return fit_on_device(weight_OI, grid, {}, found);
  if (fits_on_device(weight_OI, grid, range)) return fit_on_device(weight_OI, grid, range);
  const at::Tensor limits = clips ? on_cpu(found) : found, weight = on_cpu(weight_OI);
  const std::int64_t rows = weight.size(0), columns = weight.size(1);
  const std::int64_t group = grid.columns_per_group(columns), groups = grid.num_groups(columns);
  GridParams params{at::empty({rows, groups}, at::kFloat), at::empty({rows, groups}, at::kFloat)};
  const float* const w = weight.const_data_ptr<float>();
  const float* const limit = clips ? limits.const_data_ptr<float>() : nullptr;
  float* const scales = params.scales_OG.mutable_data_ptr<float>();
  float* const zeros = params.zeros_OG.mutable_data_ptr<float>();
  for_each_row_tile(rows, [&](std::int64_t first, std::int64_t valid) {
    std::vector<float> tile(static_cast<size_t>(group * kLanes));
    float own_limits[kLanes], lows[kLanes], highs[kLanes];
    TileGrid fitted;
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t begin = g * group, end = std::min(begin + group, columns);
      load_tile(w, rows, columns, first, begin, end, tile.data());
      if (clips) {
        for (std::int64_t lane = 0; lane < kLanes; ++lane) own_limits[lane] = limit[std::min(first + lane, rows - 1) * groups + g];
        find_extremes(tile.data(), end - begin, lows, highs);
        fit_clipped(lows, highs, own_limits, grid, fitted);
      } else {
        fit_tile(tile.data(), end - begin, grid, range, fitted);
      }
      for (std::int64_t lane = 0; lane < valid; ++lane) {
        scales[(first + lane) * groups + g] = fitted.scale[lane];
        zeros[(first + lane) * groups + g] = fitted.zero[lane];
      }
    }
  });
  return {params.scales_OG.to(weight_OI.device()), params.zeros_OG.to(weight_OI.device())};
}

at::Tensor nearest_codes(const at::Tensor& weight_OI, const Grid& grid, const GridParams& params) {
  if (gpu_kernels(weight_OI.device()) != nullptr) return nearest_on_device(weight_OI, grid, params);
  const at::Tensor weight = on_cpu(weight_OI), scales = on_cpu(params.scales_OG), zeros = on_cpu(params.zeros_OG);
  const std::int64_t rows = weight.size(0), columns = weight.size(1);
  const std::int64_t groups = scales.size(1), group = groups == 1 ? columns : grid.columns_per_group(columns);
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
      load_tile_grid(s + first * groups + g, z + first * groups + g, groups, valid, grid, tile_grid);
      for (std::int64_t c = begin; c < end; ++c) {
        quantize_column(tile.data() + (c - begin) * kLanes, tile_grid, code, value);
        for (std::int64_t lane = 0; lane < valid; ++lane) out[(first + lane) * columns + c] = code_byte(code[lane], grid);
      }
    }
  });
  return codes.to(weight_OI.device());
}

namespace {

// With LibTorch's operators: where the codes lie on a GPU.
at::Tensor values_by_operators(const at::Tensor& codes_OI, const Grid& grid, const GridParams& params) {
  const std::int64_t columns = codes_OI.size(1), groups = params.scales_OG.size(1), group = groups == 1 ? columns : grid.columns_per_group(columns);
  at::Tensor values = grid.is_fp8() ? codes_OI.view(grid.type == GridType::fp8_e4m3 ? at::kFloat8_e4m3fn : at::kFloat8_e5m2).to(at::kFloat) : codes_OI.to(at::kFloat);
  const auto spread = [&](const at::Tensor& t_OG) {
    return groups == 1 ? t_OG : t_OG.unsqueeze(2).expand({t_OG.size(0), groups, group}).reshape({t_OG.size(0), groups * group}).narrow(1, 0, columns);
  };
  if (!grid.is_fp8()) values.sub_(spread(params.zeros_OG));
  return values.mul_(spread(params.scales_OG));
}

}  // namespace

at::Tensor values_of_codes(const at::Tensor& codes_OI, const Grid& grid, const GridParams& params) {
  if (!codes_OI.is_cpu()) return values_by_operators(codes_OI, grid, params);
  const at::Tensor codes = codes_OI.cpu().contiguous(), scales = on_cpu(params.scales_OG), zeros = on_cpu(params.zeros_OG);
  const std::int64_t rows = codes.size(0), columns = codes.size(1);
  const std::int64_t groups = scales.size(1), group = groups == 1 ? columns : grid.columns_per_group(columns);
  at::Tensor out = at::empty({rows, columns}, at::kFloat);
  const std::uint8_t* const code = codes.const_data_ptr<std::uint8_t>();
  const float* const scale = scales.const_data_ptr<float>();
  const float* const zero = zeros.const_data_ptr<float>();
  const float* const floats = grid.is_fp8() ? fp8_values(grid.type) : nullptr;
  float* const target = out.mutable_data_ptr<float>();
  at::parallel_for(0, rows, 64, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t r = from; r < to; ++r)
      for (std::int64_t g = 0; g < groups; ++g) {
        const float s = scale[r * groups + g], z = zero[r * groups + g];
        const std::int64_t end = r * columns + std::min((g + 1) * group, columns);
        if (floats)
          for (std::int64_t i = r * columns + g * group; i < end; ++i) target[i] = s * floats[code[i]];
        else
#pragma omp simd
          for (std::int64_t i = r * columns + g * group; i < end; ++i) target[i] = s * (static_cast<float>(code[i]) - z);
      }
  });
  return out.to(codes_OI.device());
}

}  // namespace miq::quantizer
