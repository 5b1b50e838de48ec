#include "miq/quantizer/activation.h"

#include <ATen/ATen.h>

#include <cmath>

#include <c10/core/DeviceGuard.h>

#include "gpu/kernels.h"
#include "miq/core/config.h"
#include "miq/core/error.h"
#include "miq/core/gpu_kernels.h"
#include "miq/core/narrow_float.h"
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

// Scales of the input itself, a row or a group of a row each: one kernel looks, scales and rounds.
bool quantizes_on_device(const at::Tensor& x, const Activation& activation) {
  return activation.dynamic && activation.granularity != ActivationGranularity::tensor && activation.bits <= 8 && is_float_type(x.scalar_type()) && x.numel() > 0 &&
         gpu_kernels(x.device()) != nullptr;
}

// To values in x's type, or else to codes with scales and zeros.
void quantize_on_device(const at::Tensor& x, const Activation& activation, at::Tensor* values, QuantizedActivation* quantized) {
  const c10::DeviceGuard guard(x.device());
  const at::Tensor in = x.contiguous();
  const bool grouped = activation.granularity == ActivationGranularity::group;
  const std::int64_t columns = in.size(-1), rows = in.numel() / columns, group = grouped ? activation.group_size : columns;
  miq_activation call{in.const_data_ptr(), gpu_store(in.scalar_type()), rows, columns, group, static_cast<int>(activation.type), activation.bits, activation.symmetric,
                      nullptr, nullptr, nullptr, nullptr};
  if (values != nullptr) {
    *values = at::empty_like(in);
    call.values = values->mutable_data_ptr();
  } else {
    const at::ScalarType type = activation.type == GridType::integer ? at::kChar : activation.type == GridType::fp8_e4m3 ? at::kFloat8_e4m3fn : at::kFloat8_e5m2;
    quantized->codes = at::empty(in.sizes(), in.options().dtype(type));
    std::vector<std::int64_t> shape = in.sizes().vec();
    shape.back() = 1;
    if (grouped) shape.insert(shape.end() - 1, columns / group);
    quantized->scales = at::empty(shape, in.options().dtype(at::kFloat));
    call.codes = quantized->codes.mutable_data_ptr();
    call.scales = quantized->scales.mutable_data_ptr<float>();
    if (activation.type == GridType::integer && !activation.symmetric) {
      quantized->zeros = at::empty_like(quantized->scales);
      call.zeros = quantized->zeros.mutable_data_ptr<float>();
    }
  }
  check_launch(gpu_kernels(in.device())->quantize_activation(&call, native_stream(in.device())), "quantize_activation");
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
  if (quantizes_on_device(x, activation)) {
    QuantizedActivation quantized;
    quantize_on_device(x, activation, nullptr, &quantized);
    return quantized;
  }
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
  if (quantizes_on_device(x, activation)) {
    at::Tensor values;
    quantize_on_device(x, activation, &values, nullptr);
    return values;
  }
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
