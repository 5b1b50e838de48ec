// float16 and bfloat16 to float32 and back, for vectorised loops.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <bit>
#include <cstdint>

#define MIQ_INLINE __attribute__((always_inline)) inline

namespace miq {

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

/// Calls act(T()) with the element type of `type`: float32, bfloat16 or float16.
template <class Act>
void with_float_type(c10::ScalarType type, const Act& act) {
  if (type == c10::ScalarType::Float) return act(float());
  if (type == c10::ScalarType::BFloat16) return act(c10::BFloat16());
  act(c10::Half());
}

inline bool is_float_type(c10::ScalarType type) {
  return type == c10::ScalarType::Float || type == c10::ScalarType::BFloat16 || type == c10::ScalarType::Half;
}

}  // namespace miq
