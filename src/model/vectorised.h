// What vectorised loops of the decoder share: conversions and an exponential without branches.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "miq/core/narrow_float.h"
#include "miq/core/vectorised.h"

namespace miq::model::kernels {

/// e^x to 2 units in the last place; 0 below -87, e^88 above 88. Cephes' polynomial on |r| <= ln(2) / 2.
MIQ_INLINE float fast_exp(float x) {
  const float clamped = std::min(std::max(x, -87.0f), 88.0f);
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const float n = (clamped * 1.44269504f + kRound) - kRound;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float power = std::bit_cast<float>((static_cast<std::int32_t>(n) + 127) << 23);
  return x < -87.0f ? 0.0f : p * power;
}

}  // namespace miq::model::kernels
