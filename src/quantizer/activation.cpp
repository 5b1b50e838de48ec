#include "miq/quantizer/activation.h"

#include <ATen/ATen.h>

#include <cmath>

#include "miq/core/config.h"
#include "miq/core/error.h"
#include "tile_grid.h"

namespace miq::quantizer {
namespace {

at::Tensor largest_magnitude(const at::Tensor& x, at::IntArrayRef dims) {
  return at::maximum(x.amax(dims, /*keepdim=*/true), x.amin(dims, /*keepdim=*/true).neg());
}

// The dimensions that share a scale. A tensor is one sequence of a batch, so that what a batch is made
// of changes nothing.
std::vector<std::int64_t> shared_dimensions(const at::Tensor& x, const Activation& activation) {
  if (activation.granularity != ActivationGranularity::tensor) return {-1};
  if (x.dim() < 3) {
    std::vector<std::int64_t> all;
    for (std::int64_t d = 0; d < x.dim(); ++d) all.push_back(d);
    return all;
  }
  return {-2, -1};
}

// float32, what shares a scale along the last dimension.
at::Tensor by_scale(const at::Tensor& x, const Activation& activation) {
  const at::Tensor values = x.to(at::kFloat);
  if (activation.granularity != ActivationGranularity::group) return values;
  return values.unflatten(-1, {values.size(-1) / activation.group_size, activation.group_size});
}

float top_code(const Activation& activation) { return static_cast<float>((1 << (activation.bits - 1)) - 1); }

struct Scales {
  at::Tensor scale, zero;
};

Scales dynamic_scales(const at::Tensor& x, const Activation& activation) {
  const auto dims = shared_dimensions(x, activation);
  if (activation.type != GridType::integer) {
    const at::Tensor scale = largest_magnitude(x, dims) / fp8_max(activation.type);
    return {at::where(scale > 0, scale, at::full_like(scale, std::numeric_limits<float>::epsilon())), {}};
  }
  if (activation.symmetric) return {largest_magnitude(x, dims).clamp_min(1e-5) / top_code(activation), {}};
  const at::Tensor low = x.amin(dims, true).clamp_max(0), high = x.amax(dims, true).clamp_min(0);
  const float steps = 2 * top_code(activation) + 1, least = -top_code(activation) - 1;
  const at::Tensor scale = ((high - low) / steps).clamp_min(1e-5 / steps);
  return {scale, (least - low / scale).round().clamp(least, top_code(activation))};
}

}  // namespace

ActivationParams static_params(float low, float high, const Activation& activation) {
  const at::Tensor extremes = at::tensor({std::min(low, 0.0f), std::max(high, 0.0f)}, at::kFloat);
  Activation whole = activation;
  whole.granularity = ActivationGranularity::tensor;
  const Scales scales = dynamic_scales(extremes, whole);
  return {scales.scale.reshape({}), scales.zero.defined() ? scales.zero.reshape({}) : scales.zero};
}

QuantizedActivation quantize_activation(const at::Tensor& x, const Activation& activation, const ActivationParams& params) {
  const at::Tensor values = by_scale(x, activation);
  if (!activation.dynamic && !params.scale.defined()) throw Error(ErrorKind::internal, "a static activation range was not calibrated");
  const Scales scales = activation.dynamic ? dynamic_scales(values, activation)
                                           : Scales{params.scale.to(x.device()), params.zero.defined() ? params.zero.to(x.device()) : params.zero};
  at::Tensor codes = values / scales.scale;
  if (activation.type != GridType::integer) {
    const float top = fp8_max(activation.type);
    codes = codes.clamp_(-top, top).to(activation.type == GridType::fp8_e4m3 ? at::kFloat8_e4m3fn : at::kFloat8_e5m2);
  } else {
    codes.round_();
    if (scales.zero.defined()) codes.add_(scales.zero);
    codes = codes.clamp_(-top_code(activation) - 1, top_code(activation)).to(at::kChar);
  }
  return {codes.reshape(x.sizes()), scales.scale, scales.zero};
}

at::Tensor fake_quantize(const at::Tensor& x, const Activation& activation, const ActivationParams& params) {
  if (!activation.enabled()) return x;
  const QuantizedActivation quantized = quantize_activation(x, activation, params);
  at::Tensor values = by_scale(quantized.codes, activation);
  if (quantized.zeros.defined()) values.sub_(quantized.zeros);
  return values.mul_(quantized.scales).reshape(x.sizes()).to(x.scalar_type());
}

void visit_fields(FieldVisitor& v, Activation& activation) {
  if (v.writes() && !activation.enabled()) {
    v.integer("bits", activation.bits, 2, 16, "2 .. 8; 16: not quantized");
    return;
  }
  v.choice<GridType>("type", activation.type, {{"int", GridType::integer}, {"fp8", GridType::fp8_e4m3}, {"fp8_e4m3", GridType::fp8_e4m3}, {"fp8_e5m2", GridType::fp8_e5m2}},
                     "kind of values");
  v.integer("bits", activation.bits, 2, 16, "2 .. 8; 16: not quantized");
  v.choice<ActivationGranularity>("granularity", activation.granularity,
                                  {{"token", ActivationGranularity::token}, {"tensor", ActivationGranularity::tensor}, {"group", ActivationGranularity::group}},
                                  "what shares a scale");
  if (!v.writes() || activation.granularity == ActivationGranularity::group)
    v.integer("group_size", activation.group_size, 1, INT32_MAX, "columns of a group, with granularity group");
  v.flag("dynamic", activation.dynamic, "scales from the input at run time; false: calibrated, per tensor");
  v.flag("symmetric", activation.symmetric, "no zero point");
}

}  // namespace miq::quantizer
