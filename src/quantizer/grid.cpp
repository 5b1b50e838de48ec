#include "miq/quantizer/grid.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "gpu/grid_math.h"
#include "miq/core/gpu_kernels.h"

namespace miq::quantizer {

float stored_number(float value, at::ScalarType dtype) { return gpu::stored_number(value, gpu_store(dtype)); }

at::Tensor stored_numbers(const at::Tensor& values, at::ScalarType dtype) {
  if (dtype == at::kFloat) return values;
  at::Tensor out = values.to(at::kCPU, at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous();
  float* const v = out.mutable_data_ptr<float>();
  const int store = gpu_store(dtype);
  for (std::int64_t i = 0; i < out.numel(); ++i) v[i] = gpu::stored_number(v[i], store);
  return out.to(values.device());
}

std::int64_t Grid::columns_per_group(std::int64_t in_features) const {
  const bool grouped = granularity == Granularity::group || granularity == Granularity::block;
  return grouped ? std::min(group_size, in_features) : in_features;
}

std::int64_t Grid::num_groups(std::int64_t in_features) const {
  const std::int64_t columns = columns_per_group(in_features);
  return (in_features + columns - 1) / columns;
}

double bits_per_weight(const Grid& grid, std::int64_t out_features, std::int64_t in_features) {
  const auto weights = static_cast<double>(out_features * in_features);
  std::int64_t rows = out_features;  // that have parameters of their own
  if (grid.granularity == Granularity::tensor) rows = 1;
  if (grid.granularity == Granularity::block) rows = (out_features + grid.group_size - 1) / grid.group_size;
  const auto groups = static_cast<double>(rows * grid.num_groups(in_features));
  if (grid.is_fp8()) return 8 + groups * 16 / weights;
  const bool no_zeros = grid.symmetric || grid.convention == GridConvention::quip;
  const int zero_bits = no_zeros ? 0 : grid.real_zeros ? 16 : grid.bits;
  if (!grid.bilevel.enabled()) return grid.bits + groups * (16 + zero_bits) / weights;
  const Bilevel& second = grid.bilevel;
  double per_group = 0, per_second = 0;
  per_group += second.scale_bits > 0 ? second.scale_bits : 16;
  if (second.scale_bits > 0) per_second += 32;
  if (!no_zeros) {
    per_group += second.zero_bits > 0 ? second.zero_bits : zero_bits;
    if (second.zero_bits > 0) per_second += 32;
  }
  return grid.bits + groups * (per_group + per_second / static_cast<double>(second.rows)) / weights;
}

}  // namespace miq::quantizer
