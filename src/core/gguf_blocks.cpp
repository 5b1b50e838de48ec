// Layouts: ggml-common.h and ggml-quants.c of ggml (MIT), told in docs; all products below are exact in float32 but
// for one last addition, so results are ggml's to the bit whether or not it is fused.
#include "gguf_blocks.h"

#include <c10/util/Half.h>

#include <cstring>

#include "miq/core/vectorised.h"

#define MIQ_INLINE __attribute__((always_inline)) inline

namespace miq {
namespace {

using Bytes = const std::uint8_t*;

template <class T>
MIQ_INLINE T load(Bytes at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
MIQ_INLINE float half(Bytes at) { return c10::detail::fp16_ieee_to_fp32_value(load<std::uint16_t>(at)); }

// The 6-bit scale and minimum of sub-block `s` in the 12 bytes of Q4_K and Q5_K.
struct ScaleMin {
  float scale, min;
};
MIQ_INLINE ScaleMin scale_min(Bytes packed, int s) {
  if (s < 4) return {static_cast<float>(packed[s] & 63), static_cast<float>(packed[s + 4] & 63)};
  return {static_cast<float>((packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4),
          static_cast<float>((packed[s + 4] >> 4) | (packed[s] >> 6) << 4)};
}

constexpr std::int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Blocks of 32: 16 bytes hold the low bits of values i and i + 16; `kFifth`: a bit more of each from a 32-bit word.
// x = d * (q - kZero), or d * q + m.
template <bool kFifth, bool kMinimum>
MIQ_INLINE void nibbles(Bytes data, float* values, std::int64_t blocks) {
  constexpr int kScaleBytes = kMinimum ? 4 : 2, kBytes = kScaleBytes + (kFifth ? 4 : 0) + 16;
  constexpr int kZero = kMinimum ? 0 : kFifth ? 16 : 8;
  for (std::int64_t b = 0; b < blocks; ++b, data += kBytes, values += 32) {
    const float d = half(data), m = kMinimum ? half(data + 2) : 0.0f;
    const std::uint32_t fifth = kFifth ? load<std::uint32_t>(data + kScaleBytes) : 0;
    const Bytes codes = data + kBytes - 16;
    for (int i = 0; i < 16; ++i) {
      const int low = (codes[i] & 15) | static_cast<int>(fifth >> i & 1) << 4;
      const int high = codes[i] >> 4 | static_cast<int>(fifth >> (i + 16) & 1) << 4;
      const float x = static_cast<float>(low - kZero) * d, y = static_cast<float>(high - kZero) * d;
      values[i] = kMinimum ? x + m : x;  // adding 0 would lose the sign of -0
      values[i + 16] = kMinimum ? y + m : y;
    }
  }
}

MIQ_VECTORISED void q4_0(Bytes data, float* values, std::int64_t blocks) {
  nibbles<false, false>(data, values, blocks);
}
MIQ_VECTORISED void q4_1(Bytes data, float* values, std::int64_t blocks) { nibbles<false, true>(data, values, blocks); }
MIQ_VECTORISED void q5_0(Bytes data, float* values, std::int64_t blocks) { nibbles<true, false>(data, values, blocks); }
MIQ_VECTORISED void q5_1(Bytes data, float* values, std::int64_t blocks) { nibbles<true, true>(data, values, blocks); }

MIQ_VECTORISED void q8_0(Bytes data, float* values, std::int64_t blocks) {
  for (std::int64_t b = 0; b < blocks; ++b, data += 34, values += 32) {
    const float d = half(data);
    for (int i = 0; i < 32; ++i) values[i] = static_cast<float>(static_cast<std::int8_t>(data[2 + i])) * d;
  }
}

MIQ_VECTORISED void q2_k(Bytes data, float* values, std::int64_t blocks) {
  for (std::int64_t b = 0; b < blocks; ++b, data += 84) {
    const Bytes scales = data, codes = data + 16;
    const float d = half(data + 80), min = half(data + 82);
    for (int s = 0; s < 16; ++s, values += 16) {  // sub-blocks of 16; eight of them share 32 bytes of codes
      const float scale = d * static_cast<float>(scales[s] & 15), offset = min * static_cast<float>(scales[s] >> 4);
      const Bytes q = codes + 32 * (s / 8) + 16 * (s % 2);
      const int shift = s % 8 / 2 * 2;
      for (int i = 0; i < 16; ++i) values[i] = scale * static_cast<float>(q[i] >> shift & 3) - offset;
    }
  }
}

MIQ_VECTORISED void q3_k(Bytes data, float* values, std::int64_t blocks) {
  for (std::int64_t b = 0; b < blocks; ++b, data += 110) {
    const Bytes high = data, codes = data + 32, scales = data + 96;
    const float d = half(data + 108);
    for (int s = 0; s < 16; ++s, values += 16) {
      const int six = (scales[s % 8] >> 4 * (s / 8) & 15) | (scales[8 + s % 4] >> 2 * (s / 4) & 3) << 4;
      const float scale = d * static_cast<float>(six - 32);
      const Bytes q = codes + 32 * (s / 8) + 16 * (s % 2), h = high + 16 * (s % 2);
      const int shift = s % 8 / 2 * 2, bit = s / 2;
      for (int i = 0; i < 16; ++i)
        values[i] = scale * static_cast<float>((q[i] >> shift & 3) - 4 * (1 - (h[i] >> bit & 1)));
    }
  }
}

// Q4_K and Q5_K: 8 sub-blocks of 32, two of which share 32 bytes of codes; `kFifth`: a bit more of each.
template <bool kFifth>
MIQ_INLINE void scaled_nibbles(Bytes data, float* values, std::int64_t blocks) {
  constexpr int kBytes = kFifth ? 176 : 144;
  for (std::int64_t b = 0; b < blocks; ++b, data += kBytes) {
    const float d = half(data), min = half(data + 2);
    const Bytes fifth = data + 16, codes = data + kBytes - 128;
    for (int s = 0; s < 8; ++s, values += 32) {
      const ScaleMin sub = scale_min(data + 4, s);
      const float scale = d * sub.scale, offset = min * sub.min;
      const Bytes q = codes + 32 * (s / 2);
      const int shift = s % 2 * 4;
      for (int i = 0; i < 32; ++i) {
        const int code = (q[i] >> shift & 15) | (kFifth ? (fifth[i] >> s & 1) << 4 : 0);
        values[i] = scale * static_cast<float>(code) - offset;
      }
    }
  }
}

MIQ_VECTORISED void q4_k(Bytes data, float* values, std::int64_t blocks) {
  scaled_nibbles<false>(data, values, blocks);
}
MIQ_VECTORISED void q5_k(Bytes data, float* values, std::int64_t blocks) { scaled_nibbles<true>(data, values, blocks); }

MIQ_VECTORISED void q6_k(Bytes data, float* values, std::int64_t blocks) {
  for (std::int64_t b = 0; b < blocks; ++b, data += 210) {
    const Bytes scales = data + 192;
    const float d = half(data + 208);
    for (int s = 0; s < 16; ++s, values += 16) {
      const float scale = d * static_cast<float>(static_cast<std::int8_t>(scales[s]));
      const int h = s / 8, j = s % 8 / 2;
      const Bytes low = data + 64 * h + 32 * (j % 2) + 16 * (s % 2), high = data + 128 + 32 * h + 16 * (s % 2);
      const int low_shift = j / 2 * 4, high_shift = 2 * j;
      for (int i = 0; i < 16; ++i) {
        const int code = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
        values[i] = scale * static_cast<float>(code - 32);
      }
    }
  }
}

MIQ_VECTORISED void iq4_nl(Bytes data, float* values, std::int64_t blocks) {
  for (std::int64_t b = 0; b < blocks; ++b, data += 18, values += 32) {
    const float d = half(data);
    for (int i = 0; i < 16; ++i) {
      values[i] = d * static_cast<float>(kIq4Values[data[2 + i] & 15]);
      values[i + 16] = d * static_cast<float>(kIq4Values[data[2 + i] >> 4]);
    }
  }
}

MIQ_VECTORISED void iq4_xs(Bytes data, float* values, std::int64_t blocks) {
  for (std::int64_t b = 0; b < blocks; ++b, data += 136) {
    const float d = half(data);
    const std::uint16_t high = load<std::uint16_t>(data + 2);
    const Bytes low = data + 4;
    for (int s = 0; s < 8; ++s, values += 32) {
      const int six = (low[s / 2] >> 4 * (s % 2) & 15) | (high >> 2 * s & 3) << 4;
      const float scale = d * static_cast<float>(six - 32);
      const Bytes q = data + 8 + 16 * s;
      for (int i = 0; i < 16; ++i) {
        values[i] = scale * static_cast<float>(kIq4Values[q[i] & 15]);
        values[i + 16] = scale * static_cast<float>(kIq4Values[q[i] >> 4]);
      }
    }
  }
}

constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4, nullptr, nullptr},         {1, "F16", 1, 2, nullptr, nullptr},
    {2, "Q4_0", 32, 18, q4_0, encode_q4_0},     {3, "Q4_1", 32, 20, q4_1, encode_q4_1},
    {6, "Q5_0", 32, 22, q5_0, encode_q5_0},     {7, "Q5_1", 32, 24, q5_1, encode_q5_1},
    {8, "Q8_0", 32, 34, q8_0, encode_q8_0},     {9, "Q8_1", 32, 36, nullptr, nullptr},
    {10, "Q2_K", 256, 84, q2_k, encode_q2_k},   {11, "Q3_K", 256, 110, q3_k, encode_q3_k},
    {12, "Q4_K", 256, 144, q4_k, encode_q4_k},  {13, "Q5_K", 256, 176, q5_k, encode_q5_k},
    {14, "Q6_K", 256, 210, q6_k, encode_q6_k},  {15, "Q8_K", 256, 292, nullptr, nullptr},
    {16, "IQ2_XXS", 256, 66, nullptr, nullptr}, {17, "IQ2_XS", 256, 74, nullptr, nullptr},
    {18, "IQ3_XXS", 256, 98, nullptr, nullptr}, {19, "IQ1_S", 256, 50, nullptr, nullptr},
    {20, "IQ4_NL", 32, 18, iq4_nl, nullptr},    {21, "IQ3_S", 256, 110, nullptr, nullptr},
    {22, "IQ2_S", 256, 82, nullptr, nullptr},   {23, "IQ4_XS", 256, 136, iq4_xs, nullptr},
    {24, "I8", 1, 1, nullptr, nullptr},         {25, "I16", 1, 2, nullptr, nullptr},
    {26, "I32", 1, 4, nullptr, nullptr},        {27, "I64", 1, 8, nullptr, nullptr},
    {28, "F64", 1, 8, nullptr, nullptr},        {29, "IQ1_M", 256, 56, nullptr, nullptr},
    {30, "BF16", 1, 2, nullptr, nullptr},       {34, "TQ1_0", 256, 54, nullptr, nullptr},
    {35, "TQ2_0", 256, 66, nullptr, nullptr},   {39, "MXFP4", 32, 17, nullptr, nullptr},
};

}  // namespace

const GgmlType* find_ggml_type(std::int32_t id) {
  for (const GgmlType& type : kTypes)
    if (type.id == id) return &type;
  return nullptr;
}

}  // namespace miq
