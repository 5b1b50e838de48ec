// What vectorised loops of the decoder share: conversions and an exponential without branches.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <bit>
#include <cstdint>

#include "miq/core/vectorised.h"

#define MIQ_INLINE __attribute__((always_inline)) inline

namespace miq::model::kernels {

// Conversions without branches: c10's own keep the compiler from vectorising a loop.
MIQ_INLINE float widen(float x) { return x; }
MIQ_INLINE float widen(c10::Half x) { return static_cast<float>(x); }
MIQ_INLINE float widen(c10::BFloat16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.x) << 16); }

MIQ_INLINE void store(float x, float& out) { out = x; }
MIQ_INLINE void store(float x, c10::Half& out) { out = x; }
/// Rounded to nearest, ties to even.
MIQ_INLINE void store(float x, c10::BFloat16& out) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  out.x = static_cast<std::uint16_t>(x == x ? rounded : 0x7FC0u);
}

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
