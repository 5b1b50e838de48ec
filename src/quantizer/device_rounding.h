// Fitting and rounding of weights that lie on a GPU, by the fused kernels: the device twins of range.cpp and awq_clip.cpp.
#pragma once

#include "gpu/kernels.h"
#include "miq/quantizer/range.h"

namespace miq::quantizer {

miq_grid gpu_grid(const Grid& grid);
/// Of min_max and mse; a clipped range is min_max with limits.
miq_range gpu_range(const Range& range);

/// Whether the kernels take this weight: it is on a GPU, in a build that has them, and every group lies in one row. mse is fitted there, as
/// are min_max and given limits; percentiles, rms and whole matrices are the CPU's.
bool rounds_on_device(const at::Tensor& weight_OI, const Grid& grid);
bool fits_on_device(const at::Tensor& weight_OI, const Grid& grid, const Range& range);

/// As fit_grid; limits_OG: where to clip, or undefined.
GridParams fit_on_device(const at::Tensor& weight_OI, const Grid& grid, const Range& range, const at::Tensor& limits_OG = {});
/// As nearest_codes.
at::Tensor nearest_on_device(const at::Tensor& weight_OI, const Grid& grid, const GridParams& params);
/// scale * (code - zero) of the nearest codes, without the codes.
at::Tensor nearest_values_on_device(const at::Tensor& weight_OI, const Grid& grid, const GridParams& params);
/// As awq_clip; whole groups only (columns % group == 0).
at::Tensor awq_clip_on_device(const at::Tensor& weight_OI, const Grid& grid, const Range& range, const at::Tensor& hessian_II, at::Tensor* errors_OG);

}  // namespace miq::quantizer
