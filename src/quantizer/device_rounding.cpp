#include "device_rounding.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include <limits>

#include "miq/core/gpu_kernels.h"

namespace miq::quantizer {
namespace {

at::Tensor matrix(const at::Tensor& t) { return t.to(at::kFloat).contiguous(); }

void round(const at::Tensor& weight, const Grid& grid, const GridParams& params, std::uint8_t* codes, float* values) {
  const c10::DeviceGuard guard(weight.device());
  const at::Tensor w = matrix(weight), scales = matrix(params.scales_OG), zeros = matrix(params.zeros_OG);
  const std::int64_t groups = scales.size(1), group = groups == 1 ? w.size(1) : grid.columns_per_group(w.size(1));
  const miq_nearest call{w.const_data_ptr<float>(), w.size(0), w.size(1), group, groups, scales.const_data_ptr<float>(), zeros.const_data_ptr<float>(), codes, values, gpu_grid(grid)};
  check_launch(gpu_kernels(w.device())->round_nearest(&call, native_stream(w.device())), "round_nearest");
}

}  // namespace

miq_grid gpu_grid(const Grid& grid) {
  return {static_cast<int>(grid.type), grid.bits, static_cast<int>(grid.convention), grid.symmetric, grid.real_zeros, gpu_store(grid.scale_dtype)};
}

miq_range gpu_range(const Range& range) {
  return {range.kind == RangeKind::mse, static_cast<float>(range.norm), range.grid, static_cast<int>(range.maxshrink * range.grid), range.adjacent_zeros};
}

bool rounds_on_device(const at::Tensor& weight_OI, const Grid& grid) {
  return gpu_kernels(weight_OI.device()) != nullptr && (grid.granularity == Granularity::group || grid.granularity == Granularity::channel);
}

bool fits_on_device(const at::Tensor& weight_OI, const Grid& grid, const Range& range) {
  return rounds_on_device(weight_OI, grid) && (range.kind == RangeKind::min_max || range.kind == RangeKind::mse);
}

GridParams fit_on_device(const at::Tensor& weight_OI, const Grid& grid, const Range& range, const at::Tensor& limits_OG) {
  const c10::DeviceGuard guard(weight_OI.device());
  const at::Tensor w = matrix(weight_OI), limits = limits_OG.defined() ? matrix(limits_OG) : limits_OG;
  const std::int64_t rows = w.size(0), columns = w.size(1), groups = grid.num_groups(columns);
  GridParams params{at::empty({rows, groups}, w.options()), at::empty({rows, groups}, w.options())};
  const miq_group_fit call{w.const_data_ptr<float>(), rows, columns, 0, columns, grid.columns_per_group(columns), limits.defined() ? limits.const_data_ptr<float>() : nullptr,
                           params.scales_OG.mutable_data_ptr<float>(), params.zeros_OG.mutable_data_ptr<float>(), groups, 0, gpu_grid(grid), gpu_range(range)};
  check_launch(gpu_kernels(w.device())->fit_groups(&call, native_stream(w.device())), "fit_groups");
  return params;
}

at::Tensor nearest_on_device(const at::Tensor& weight_OI, const Grid& grid, const GridParams& params) {
  at::Tensor codes = at::empty(weight_OI.sizes(), weight_OI.options().dtype(at::kByte));
  round(weight_OI, grid, params, codes.mutable_data_ptr<std::uint8_t>(), nullptr);
  return codes;
}

at::Tensor nearest_values_on_device(const at::Tensor& weight_OI, const Grid& grid, const GridParams& params) {
  at::Tensor values = at::empty(weight_OI.sizes(), weight_OI.options().dtype(at::kFloat));
  round(weight_OI, grid, params, nullptr, values.mutable_data_ptr<float>());
  return values;
}

at::Tensor awq_clip_on_device(const at::Tensor& weight_OI, const Grid& grid, const Range& range, const at::Tensor& hessian_II, at::Tensor* errors_OG) {
  const at::Tensor weight = matrix(weight_OI);
  const std::int64_t rows = weight.size(0), columns = weight.size(1), groups = grid.num_groups(columns), group = columns / groups;
  const at::Tensor w_OGC = weight.view({rows, groups, group}), largest_OG = w_OGC.abs().amax(2);
  // The diagonal blocks [G, C, C].
  const at::Tensor blocks = hessian_II.to(weight.device(), at::kFloat).view({groups, group, groups, group}).diagonal(0, 0, 2).permute({2, 0, 1}).contiguous();
  at::Tensor best_OG = largest_OG.clone(), error_OG = at::full_like(largest_OG, std::numeric_limits<float>::infinity());
  for (int i = 0; i < static_cast<int>(range.max_shrink * range.n_grid); ++i) {
    const at::Tensor limit_OG = largest_OG * static_cast<float>(1 - static_cast<double>(i) / range.n_grid), limit = limit_OG.unsqueeze(2);
    const at::Tensor clipped = at::minimum(at::maximum(w_OGC, limit.neg()), limit).view({rows, columns});
    const at::Tensor values = nearest_values_on_device(clipped, grid, fit_on_device(weight, grid, {}, limit_OG));
    const at::Tensor change_GOC = values.view({rows, groups, group}).sub_(w_OGC).transpose(0, 1);
    const at::Tensor form_OG = (at::bmm(change_GOC, blocks) * change_GOC).sum(2).t();
    const at::Tensor better = form_OG < error_OG;
    best_OG = at::where(better, limit_OG, best_OG);
    error_OG = at::where(better, form_OG, error_OG);
  }
  if (errors_OG != nullptr) *errors_OG = error_OG;
  return best_OG.contiguous();
}

}  // namespace miq::quantizer
