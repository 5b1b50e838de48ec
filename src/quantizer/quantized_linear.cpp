#include "miq/quantizer/quantized_linear.h"

#include <ATen/Parallel.h>

#include <cmath>

namespace miq::quantizer {
namespace {

void dequantize_row(const std::uint8_t* codes, const float* scales, const float* zeros, float* out, std::int64_t columns,
                    std::int64_t columns_per_group) {
  for (std::int64_t begin = 0, g = 0; begin < columns; begin += columns_per_group, ++g) {
    const std::int64_t end = std::min(begin + columns_per_group, columns);
    const float scale = scales[g], zero = zeros[g];
#pragma omp simd
    for (std::int64_t c = begin; c < end; ++c) out[c] = scale * (static_cast<float>(codes[c]) - zero);
  }
}

// float32 values of natural groups, one pass over the codes.
at::Tensor dequantize_on_cpu(const QuantizedLinear& linear) {
  const std::int64_t rows = linear.out_features(), columns = linear.in_features();
  const std::int64_t groups = linear.params.scales_OG.size(1);
  const std::int64_t columns_per_group = linear.grid.columns_per_group(columns);
  const at::Tensor codes = linear.codes_OI.contiguous();
  const at::Tensor scales = linear.params.scales_OG.contiguous(), zeros = linear.params.zeros_OG.contiguous();
  at::Tensor out = at::empty({rows, columns}, at::kFloat);
  const std::uint8_t* const code = codes.const_data_ptr<std::uint8_t>();
  const float* const scale = scales.const_data_ptr<float>();
  const float* const zero = zeros.const_data_ptr<float>();
  float* const target = out.mutable_data_ptr<float>();
  at::parallel_for(0, rows, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      dequantize_row(code + r * columns, scale + r * groups, zero + r * groups, target + r * columns, columns, columns_per_group);
  });
  return out;
}

}  // namespace

double QuantizedLinear::bits_per_weight() const {
  // GPTQ's g_idx costs 32 bits a column.
  const double index = group_of_column.defined() ? 32.0 / static_cast<double>(out_features()) : 0;
  return quantizer::bits_per_weight(grid, out_features(), in_features()) + index;
}

std::int64_t QuantizedLinear::bytes() const {
  return static_cast<std::int64_t>(std::ceil(bits_per_weight() * static_cast<double>(codes_OI.numel()) / 8));
}

at::Tensor dequantize(const QuantizedLinear& linear, at::ScalarType dtype) {
  if (linear.codes_OI.is_cpu() && !linear.group_of_column.defined()) return dequantize_on_cpu(linear).to(dtype);
  at::Tensor index = linear.group_of_column;
  if (!index.defined())
    index = at::arange(linear.in_features(), linear.codes_OI.options().dtype(at::kLong))
                .floor_divide(linear.grid.columns_per_group(linear.in_features()));
  const at::Tensor scales = linear.params.scales_OG.index_select(1, index);
  const at::Tensor zeros = linear.params.zeros_OG.index_select(1, index);
  return (scales * (linear.codes_OI.to(at::kFloat) - zeros)).to(dtype);
}

}  // namespace miq::quantizer
