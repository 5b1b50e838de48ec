// ggml's reference quantizers of the plain block types (ggml-quants.c, quantize_row_*_ref), to the bit. Compiled for the
// baseline only: a fused multiply-add would move codes that lie between two.
#include <cmath>
#include <cstring>

#include <c10/util/Half.h>

#include "gguf_blocks.h"

namespace miq {
namespace {

void store_half(float x, std::uint8_t* at) {
  const std::uint16_t bits = c10::detail::fp16_ieee_from_fp32_value(x);
  std::memcpy(at, &bits, sizeof bits);
}

// Blocks of 32 codes of 4 bits, or 5 with the fifth in a word of its own; with a zero of 8 (16), or a minimum.
template <bool kFifth, bool kMinimum>
void encode_nibbles(const float* values, std::int64_t begin, std::int64_t end, std::uint8_t* data) {
  constexpr int kScaleBytes = kMinimum ? 4 : 2, kBytes = kScaleBytes + (kFifth ? 4 : 0) + 16;
  constexpr int kLevels = kFifth ? 31 : 15, kZero = kFifth ? 16 : 8;
  for (std::int64_t b = begin; b < end; ++b) {
    const float* const x = values + b * 32;
    std::uint8_t* const out = data + b * kBytes;
    float low = x[0], high = x[0], extreme = 0;
    for (int i = 0; i < 32; ++i) {
      low = x[i] < low ? x[i] : low;
      high = x[i] > high ? x[i] : high;
      if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    }
    const float d = kMinimum ? (high - low) / kLevels : extreme / -kZero, inverse = d != 0 ? 1.0f / d : 0.0f;
    store_half(d, out);
    if (kMinimum) store_half(low, out + 2);
    std::uint8_t codes[32];
    for (int i = 0; i < 32; ++i) {
      const float scaled = kMinimum ? (x[i] - low) * inverse : x[i] * inverse;
      const int code = static_cast<int>(scaled + (kMinimum ? 0.5f : static_cast<float>(kZero) + 0.5f));
      codes[i] = static_cast<std::uint8_t>(code < kLevels ? code : kLevels);
    }
    std::uint32_t fifth = 0;
    for (int i = 0; i < 16; ++i) out[kBytes - 16 + i] = static_cast<std::uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
    if (!kFifth) continue;
    for (int i = 0; i < 32; ++i) fifth |= static_cast<std::uint32_t>(codes[i] >> 4) << i;
    std::memcpy(out + kScaleBytes, &fifth, 4);
  }
}

}  // namespace

void encode_q4_0(const float* values, const float*, std::int64_t, std::int64_t begin, std::int64_t end, std::uint8_t* data) {
  encode_nibbles<false, false>(values, begin, end, data);
}
void encode_q4_1(const float* values, const float*, std::int64_t, std::int64_t begin, std::int64_t end, std::uint8_t* data) {
  encode_nibbles<false, true>(values, begin, end, data);
}
void encode_q5_0(const float* values, const float*, std::int64_t, std::int64_t begin, std::int64_t end, std::uint8_t* data) {
  encode_nibbles<true, false>(values, begin, end, data);
}
void encode_q5_1(const float* values, const float*, std::int64_t, std::int64_t begin, std::int64_t end, std::uint8_t* data) {
  encode_nibbles<true, true>(values, begin, end, data);
}

void encode_q8_0(const float* values, const float*, std::int64_t, std::int64_t begin, std::int64_t end, std::uint8_t* data) {
  for (std::int64_t b = begin; b < end; ++b) {
    const float* const x = values + b * 32;
    std::uint8_t* const out = data + b * 34;
    float largest = 0;
    for (int i = 0; i < 32; ++i) largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
    const float d = largest / 127, inverse = d != 0 ? 1.0f / d : 0.0f;
    store_half(d, out);
    for (int i = 0; i < 32; ++i) {  // std::round, in operations that vectorise: halves away from zero
      const float scaled = x[i] * inverse, whole = static_cast<float>(static_cast<int>(scaled));
      const float rest = scaled - whole;
      const int code = static_cast<int>(whole) + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0);
      out[2 + i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(code));
    }
  }
}

}  // namespace miq
