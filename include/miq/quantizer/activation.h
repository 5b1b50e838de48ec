// Quantized activations: a linear's input as a server computes it at run time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "miq/quantizer/grid.h"

namespace miq {
class FieldVisitor;
}

namespace miq::quantizer {

enum class ActivationGranularity { tensor, token, group };

/// bits = 16: not quantized.
struct Activation {
  GridType type = GridType::integer;
  int bits = 16;                ///< 2..8, or 16
  ActivationGranularity granularity = ActivationGranularity::token;
  std::int64_t group_size = 128;  ///< columns of a token that share a scale, with granularity group
  bool dynamic = true;          ///< false: one scale per tensor, from calibration
  bool symmetric = true;
  bool enabled() const { return bits < 16; }
};

/// A static range: scale and zero of one tensor, float32 scalars.
struct ActivationParams {
  at::Tensor scale, zero;  ///< undefined: dynamic
};

/// Codes and parameters of x [..., I]. Integer: signed codes -2^(b-1) .. 2^(b-1)-1 (int8), value =
/// scale * (code - zero). Symmetric: scale = max(max|x|, 1e-5) / (2^(b-1) - 1), SmoothQuant's and vLLM's
/// per-token kernel; asymmetric: range widened to 0, 2^b - 1 steps, whole zero. fp8: the e4m3fn or e5m2
/// tensor, scale = max|x| / 448 (57344).
struct QuantizedActivation {
  at::Tensor codes;   ///< int8 or float8, the shape of x
  at::Tensor scales;  ///< float32, broadcast over codes (groups: [..., I / g, 1] over [..., I / g, g])
  at::Tensor zeros;   ///< as scales; undefined: symmetric
};

/// @throws Error{internal} when a static activation has no params.
QuantizedActivation quantize_activation(const at::Tensor& x, const Activation& activation, const ActivationParams& params);

/// The quantized values in x's type.
at::Tensor fake_quantize(const at::Tensor& x, const Activation& activation, const ActivationParams& params);

/// Static parameters that cover [low, high].
ActivationParams static_params(float low, float high, const Activation& activation);

void visit_fields(FieldVisitor& visitor, Activation& activation);

}  // namespace miq::quantizer
