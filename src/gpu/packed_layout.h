// Packed codes as quantizer/packed/layout.h lays them out.
#pragma once

#include "portable.h"

namespace miq::gpu {
inline namespace MIQ_GPU_SPACE {

constexpr int kPanelRows = 16, kChunk = 32, kQuads = 8;

MIQ_HOST_DEVICE constexpr bool has_plane(int bits, int width) { return bits == 8 ? width == 8 : (bits & width) != 0 && width < 8; }
/// The lowest bit of a code that the plane of `width` holds, which is also how many dwords a row has before it in a chunk.
MIQ_HOST_DEVICE constexpr int plane_shift(int bits, int width) {
  return bits == 8 ? 0 : (width < 4 && (bits & 4) ? 4 : 0) + (width < 2 && (bits & 2) ? 2 : 0);
}

/// What the plane of `width` holds of quad `quad`, four codes of a byte each, from a row's dwords of a chunk: dword v lies at words[v * stride].
__device__ inline uint32_t plane_codes(const uint32_t* words, int stride, int quad, int bits, int width) {
  if (!has_plane(bits, width)) return 0;
  const int shift = plane_shift(bits, width);
  return (words[(shift + quad * width / 8) * stride] >> (quad * width % 8) & 0x01010101u * ((1u << width) - 1)) << shift;
}
__device__ inline uint32_t quad_codes(const uint32_t* words, int stride, int quad, int bits) {
  return plane_codes(words, stride, quad, bits, 8) | plane_codes(words, stride, quad, bits, 4) | plane_codes(words, stride, quad, bits, 2) |
         plane_codes(words, stride, quad, bits, 1);
}

__device__ inline float value_at(const miq_parameters& p, int64_t at) {
  switch (p.store) {
    case MIQ_UINT8: return static_cast<const uint8_t*>(p.data)[at];
    case MIQ_FLOAT16: return widen(static_cast<const Half*>(p.data)[at]);
    case MIQ_BFLOAT16: return widen(static_cast<const BFloat16*>(p.data)[at]);
    case MIQ_FLOAT32: return static_cast<const float*>(p.data)[at];
    default: return p.value;
  }
}

template <class T>
__device__ inline Pack<float, 4> widen_four(const void* data, int64_t at) {
  const Pack<T, 4> four = load_pack<4>(static_cast<const T*>(data) + at);
  return {{widen(four.at[0]), widen(four.at[1]), widen(four.at[2]), widen(four.at[3])}};
}
/// Four that follow one another; `at` is a multiple of four.
__device__ inline Pack<float, 4> four_values_at(const miq_parameters& p, int64_t at) {
  switch (p.store) {
    case MIQ_UINT8: {
      const Pack<uint8_t, 4> four = load_pack<4>(static_cast<const uint8_t*>(p.data) + at);
      return {{static_cast<float>(four.at[0]), static_cast<float>(four.at[1]), static_cast<float>(four.at[2]), static_cast<float>(four.at[3])}};
    }
    case MIQ_FLOAT16: return widen_four<Half>(p.data, at);
    case MIQ_BFLOAT16: return widen_four<BFloat16>(p.data, at);
    case MIQ_FLOAT32: return load_pack<4>(static_cast<const float*>(p.data) + at);
    default: return {{p.value, p.value, p.value, p.value}};
  }
}

inline bool is_packable(const miq_packed_matrix& m) { return m.type == 0 ? m.bits >= 2 && m.bits <= 8 : m.bits == 8; }

}  // namespace MIQ_GPU_SPACE
}  // namespace miq::gpu
