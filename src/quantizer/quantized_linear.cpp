#include "miq/quantizer/quantized_linear.h"

#include <ATen/ATen.h>

#include <cmath>

#include "miq/quantizer/range.h"
#include "miq/quantizer/transform.h"

namespace miq::quantizer {
namespace {

void place_outliers(at::Tensor& weight_OI, const Outliers& outliers) {
  if (!outliers.defined()) return;
  const at::Tensor counts = outliers.row_offsets.diff().to(at::kLong);
  const at::Tensor rows = at::arange(weight_OI.size(0), counts.options()).repeat_interleave(counts);
  weight_OI.index_put_({rows, outliers.columns.to(at::kLong)}, outliers.values);
}

// A whole-row grid and one scale per token: the product of the codes, scaled afterwards.
bool multiplies_codes(const QuantizedLinear& linear) {
  return linear.params.scales_OG.size(1) == 1 && !linear.outliers.defined() && linear.activation.granularity != ActivationGranularity::group &&
         !linear.grid.real_zeros && linear.grid.convention != GridConvention::quip;
}

// A parameter that broadcasts over x [..., I], as one value for each row of x: [T, 1].
at::Tensor for_each_row(const at::Tensor& parameter, const at::Tensor& x) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = 1;
  return parameter.expand(shape).reshape({-1, 1});
}

// codes [T, I] weight [I, O] -> sums in int32. A GPU's product wants more than 16 rows and multiples of 8: x is filled up with zeros,
// other widths are multiplied in float64, where sums are exact.
at::Tensor multiply_codes(const at::Tensor& codes, const at::Tensor& weight) {
  constexpr std::int64_t kLeastRows = 32, kStep = 8;
  if (codes.is_cpu()) return at::_int_mm(codes, weight);
  if (codes.size(1) % kStep != 0 || weight.size(1) % kStep != 0) return at::mm(codes.to(at::kDouble), weight.to(at::kDouble)).to(at::kInt);
  const std::int64_t rows = codes.size(0), filled = std::max(kLeastRows, (rows + kStep - 1) / kStep * kStep);
  return at::_int_mm(at::constant_pad_nd(codes, {0, 0, 0, filled - rows}), weight).narrow(0, 0, rows);
}

// int8 codes of both sides, sums in int32: what a server computes. [T, O] float32, in units of both scales.
at::Tensor multiply_integers(const QuantizedActivation& x, const QuantizedLinear& linear) {
  const int half = 1 << (linear.grid.bits - 1);
  const at::Tensor weight = linear.codes_OI.to(at::kShort).sub_(half).to(at::kChar);
  const at::Tensor codes = x.codes.reshape({-1, x.codes.size(-1)});
  at::Tensor sums = multiply_codes(codes, weight.t()).to(at::kFloat);
  // (x - zx) (w - zw) = x w - zw sum x - zx (sum w - n zw)
  const at::Tensor weight_zeros = (linear.params.zeros_OG - half).t();  // [1, O]
  if (weight_zeros.count_nonzero().item<std::int64_t>() > 0) sums.sub_(codes.sum(1, true, at::kInt) * weight_zeros);
  if (x.zeros.defined())
    sums.sub_(for_each_row(x.zeros, x.codes) * (weight.sum(1, false, at::kInt).unsqueeze(0) - static_cast<double>(codes.size(1)) * weight_zeros));
  return sums;
}

at::Tensor multiply_quantized(const QuantizedLinear& linear, const at::Tensor& x) {
  const Activation& activation = linear.activation;
  if (!multiplies_codes(linear))
    return at::linear(fake_quantize(x, activation, linear.activation_params), stored_weight(linear).to(x.scalar_type()));
  const QuantizedActivation quantized = quantize_activation(x, activation, linear.activation_params);
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = linear.out_features();
  at::Tensor y;
  if (activation.type == GridType::integer && linear.grid.is_integer()) {
    y = multiply_integers(quantized, linear).view(shape);
  } else {  // floating codes are exact in every compute type
    at::Tensor codes = quantized.codes.to(x.scalar_type());
    if (quantized.zeros.defined()) codes.sub_(quantized.zeros);
    const GridParams units{at::ones_like(linear.params.scales_OG), linear.params.zeros_OG};
    y = at::linear(codes, values_of_codes(linear.codes_OI, linear.grid, units).to(x.scalar_type())).to(at::kFloat);
  }
  return y.mul_(linear.params.scales_OG.view({-1})).mul_(quantized.scales).to(x.scalar_type());
}

}  // namespace

double QuantizedLinear::bits_per_weight() const {
  const auto rows = static_cast<double>(out_features()), weights = rows * static_cast<double>(in_features());
  double bits = quantizer::bits_per_weight(grid, out_features(), in_features());
  if (group_of_column.defined()) bits += 32 / rows;  // GPTQ's g_idx
  if (outliers.defined()) bits += static_cast<double>(outliers.columns.numel()) * (16 + outliers.value_bits) / weights + 32 / static_cast<double>(in_features());
  if (online.divisor_I.defined()) bits += 16 / rows;
  return bits + static_cast<double>(online.parameter_bits) / weights;
}

std::int64_t QuantizedLinear::bytes() const {
  return static_cast<std::int64_t>(std::ceil(bits_per_weight() * static_cast<double>(codes_OI.numel()) / 8));
}

QuantizedLinear to_device(QuantizedLinear linear, const at::Device& device) {
  BilevelParams& b = linear.bilevel;
  for (at::Tensor* tensor : {&linear.codes_OI, &linear.params.scales_OG, &linear.params.zeros_OG, &b.scale_codes_OG, &b.scale_scales_RG, &b.scale_zeros_RG, &b.zero_codes_OG, &b.zero_scales_RG,
                             &b.zero_zeros_RG, &linear.outliers.row_offsets, &linear.outliers.columns, &linear.outliers.values, &linear.activation_params.scale,
                             &linear.activation_params.zero, &linear.group_of_column})
    if (tensor->defined()) *tensor = tensor->to(device);
  linear.online = to_device(linear.online, device);
  return linear;
}

OnlineTransform to_device(OnlineTransform transform, const at::Device& device) {
  if (transform.divisor_I.defined()) transform.divisor_I = transform.divisor_I.to(device);
  return transform;
}

at::Tensor stored_weight(const QuantizedLinear& linear) {
  at::Tensor weight;
  if (!linear.group_of_column.defined()) {
    weight = values_of_codes(linear.codes_OI, linear.grid, linear.params);
  } else {
    const at::Tensor scales = linear.params.scales_OG.index_select(1, linear.group_of_column);
    const at::Tensor zeros = linear.params.zeros_OG.index_select(1, linear.group_of_column);
    const GridParams units{at::ones({linear.out_features(), 1}, scales.options()), at::zeros({linear.out_features(), 1}, scales.options())};
    weight = scales * (values_of_codes(linear.codes_OI, linear.grid, units) - zeros);
  }
  place_outliers(weight, linear.outliers);
  return weight;
}

at::Tensor dequantize(const QuantizedLinear& linear, at::ScalarType dtype) {
  return restore_weight(stored_weight(linear), linear.online).to(dtype);
}

at::Tensor forward(const QuantizedLinear& linear, const at::Tensor& x) {
  if (!linear.activation.enabled()) return at::linear(x, dequantize(linear, x.scalar_type()));
  at::Tensor inside = x;
  if (linear.online.divisor_I.defined()) inside = inside / linear.online.divisor_I;
  if (linear.online.input) inside = linear.online.input->apply(inside.to(at::kFloat));
  at::Tensor y = multiply_quantized(linear, inside.to(x.scalar_type()));
  if (linear.online.output) y = linear.online.output->apply_transposed(y.to(at::kFloat)).to(x.scalar_type());
  return y;
}

}  // namespace miq::quantizer
