// As the AVX-512 kernel, two vectors of 8 rows: products of bytes in pairs (vpmaddubsw), summed in int16 as
// long as they fit, then in int32.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#define MIQ_AVX2 __attribute__((target("avx2,fma,f16c")))
#define MIQ_AVX2_INLINE MIQ_AVX2 __attribute__((always_inline)) inline

namespace miq::quantizer::packed {
namespace {

constexpr int kHalves = 2;  // vectors of a panel's rows

template <int Bits, int Width, int T>
MIQ_AVX2_INLINE __m256i plane_quad(const std::uint8_t* chunk) {
  constexpr int vector = T * Width / 8, right = T * Width % 8 - plane_shift(Bits, Width);
  constexpr char mask = static_cast<char>(((1 << Width) - 1) << plane_shift(Bits, Width));
  __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(chunk + plane_offset(Bits, Width) + 64 * vector));
  if constexpr (right > 0) bits = _mm256_srli_epi32(bits, right);
  if constexpr (right < 0) bits = _mm256_slli_epi32(bits, -right);
  return Width == 8 ? bits : _mm256_and_si256(bits, _mm256_set1_epi8(mask));
}

// The codes of columns 4 T .. 4 T + 3 of 8 rows, a byte each.
template <int Bits, int T>
MIQ_AVX2_INLINE __m256i quad(const std::uint8_t* chunk) {
  if constexpr (Bits == 8) return plane_quad<8, 8, T>(chunk);
  __m256i codes = plane_quad<Bits, has_plane(Bits, 4) ? 4 : has_plane(Bits, 2) ? 2 : 1, T>(chunk);
  if constexpr (has_plane(Bits, 4) && has_plane(Bits, 2)) codes = _mm256_or_si256(codes, plane_quad<Bits, 2, T>(chunk));
  if constexpr ((has_plane(Bits, 4) || has_plane(Bits, 2)) && has_plane(Bits, 1)) codes = _mm256_or_si256(codes, plane_quad<Bits, 1, T>(chunk));
  return codes;
}

MIQ_AVX2_INLINE __m256i broadcast(const std::int8_t* four) {
  int value;
  __builtin_memcpy(&value, four, 4);
  return _mm256_set1_epi32(value);
}

// Quads whose products int16 holds: (2^bits - 1) * 128 * 2 each.
constexpr int quads_in_int16(int bits) { return bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1; }

struct Sums {
  __m256i high, low;
};

template <int Bits, int T>
MIQ_AVX2_INLINE void add_quad(const std::uint8_t* chunk, const std::int8_t* high, const std::int8_t* low, Sums& short_sums, Sums& sums) {
  const __m256i codes = quad<Bits, T>(chunk), x_high = broadcast(high + 4 * T), x_low = broadcast(low + 4 * T), ones = _mm256_set1_epi16(1);
  if constexpr (Bits == 8) {  // two halves of 4 bits: int16 does not hold products of 8 bits
    const __m256i mask = _mm256_set1_epi8(15), sixteens = _mm256_set1_epi16(16);
    const __m256i lower = _mm256_and_si256(codes, mask), upper = _mm256_and_si256(_mm256_srli_epi32(codes, 4), mask);
    sums.high = _mm256_add_epi32(sums.high, _mm256_add_epi32(_mm256_madd_epi16(_mm256_maddubs_epi16(lower, x_high), ones),
                                                             _mm256_madd_epi16(_mm256_maddubs_epi16(upper, x_high), sixteens)));
    sums.low = _mm256_add_epi32(sums.low, _mm256_add_epi32(_mm256_madd_epi16(_mm256_maddubs_epi16(lower, x_low), ones),
                                                           _mm256_madd_epi16(_mm256_maddubs_epi16(upper, x_low), sixteens)));
    return;
  }
  const __m256i products_high = _mm256_maddubs_epi16(codes, x_high), products_low = _mm256_maddubs_epi16(codes, x_low);
  constexpr int count = quads_in_int16(Bits);
  short_sums.high = T % count == 0 ? products_high : _mm256_add_epi16(short_sums.high, products_high);
  short_sums.low = T % count == 0 ? products_low : _mm256_add_epi16(short_sums.low, products_low);
  if constexpr (T % count == count - 1) {
    sums.high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(short_sums.high, ones));
    sums.low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(short_sums.low, ones));
  }
}

MIQ_AVX2_INLINE __m256 load(const Parameters& p, std::int64_t at) {
  switch (p.store) {
    case Store::uint8:
      return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(static_cast<const std::uint8_t*>(p.data) + at))));
    case Store::float16:
      return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const std::uint16_t*>(p.data) + at)));
    case Store::bfloat16: {
      const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const std::uint16_t*>(p.data) + at));
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
    }
    case Store::float32:
      return _mm256_loadu_ps(static_cast<const float*>(p.data) + at);
    case Store::constant:
      break;
  }
  return _mm256_set1_ps(p.value);
}

template <int Bits>
MIQ_AVX2 void multiply(const Matrix& m, const Input& in, std::int64_t panel, float* out) {
  for (std::int64_t row = 0; row < in.rows; ++row) {
    const std::uint8_t* chunk = m.codes + panel * m.panel_bytes();
    const std::int8_t* high = in.high + row * in.columns;
    const std::int8_t* low = in.low + row * in.columns;
    std::int64_t block = row * in.blocks;
    __m256 y[kHalves] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (std::int64_t g = 0, k = 0; g < m.groups; ++g) {
      const std::int64_t at = (panel * m.groups + g) * kPanelRows, group_end = std::min(m.chunks, (g + 1) * m.chunks_per_group);
      for (; k < group_end; ++block) {
        const std::int64_t block_end = std::min(k + m.chunks_per_block, group_end);
        Sums sums[kHalves];
        for (Sums& s : sums) s.high = s.low = _mm256_setzero_si256();
        for (; k < block_end; ++k, chunk += 64 * Bits, high += kChunk, low += kChunk) {
          _mm_prefetch(reinterpret_cast<const char*>(chunk + 4096), _MM_HINT_T0);
#pragma GCC unroll 2
          for (int h = 0; h < kHalves; ++h) {
            Sums short_sums;
            short_sums.high = short_sums.low = _mm256_setzero_si256();
            add_quad<Bits, 0>(chunk + 32 * h, high, low, short_sums, sums[h]);
            add_quad<Bits, 1>(chunk + 32 * h, high, low, short_sums, sums[h]);
            add_quad<Bits, 2>(chunk + 32 * h, high, low, short_sums, sums[h]);
            add_quad<Bits, 3>(chunk + 32 * h, high, low, short_sums, sums[h]);
            add_quad<Bits, 4>(chunk + 32 * h, high, low, short_sums, sums[h]);
            add_quad<Bits, 5>(chunk + 32 * h, high, low, short_sums, sums[h]);
            add_quad<Bits, 6>(chunk + 32 * h, high, low, short_sums, sums[h]);
            add_quad<Bits, 7>(chunk + 32 * h, high, low, short_sums, sums[h]);
          }
        }
        const __m256 x_sum = _mm256_set1_ps(in.sums[block]), x_scale = _mm256_set1_ps(in.scales[block]);
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) {
          const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(sums[h].high, 8), sums[h].low);
          const __m256 centred = _mm256_fnmadd_ps(load(m.zeros, at + 8 * h), x_sum, _mm256_cvtepi32_ps(sum));
          y[h] = _mm256_fmadd_ps(_mm256_mul_ps(load(m.scales, at + 8 * h), x_scale), centred, y[h]);
        }
      }
    }
    for (int h = 0; h < kHalves; ++h) _mm256_storeu_ps(out + row * kPanelRows + 8 * h, y[h]);
  }
}

// 8 fp8 bytes as float32; e4m3's are 256 times too small.
template <CodeType Type>
MIQ_AVX2_INLINE __m256 widen_fp8(const std::uint8_t* codes) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  if constexpr (Type == CodeType::fp8_e5m2) return _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(bytes), 8));
  const __m128i halves = _mm_slli_epi16(_mm_cvtepi8_epi16(bytes), 7);
  return _mm256_cvtph_ps(_mm_and_si128(halves, _mm_set1_epi16(static_cast<short>(0xBF80))));
}

template <CodeType Type>
MIQ_AVX2 void multiply(const Matrix& m, const Input& in, std::int64_t panel, float* out) {
  for (std::int64_t row = 0; row < in.rows; ++row)
    for (int h = 0; h < kHalves; ++h) {
      const std::uint8_t* codes = m.codes + panel * m.panel_bytes() + 8 * h;
      const float* const x = in.values + row * in.columns;
      __m256 y = _mm256_setzero_ps();
      for (std::int64_t g = 0; g < m.groups; ++g) {
        const std::int64_t end = std::min(m.chunks, (g + 1) * m.chunks_per_group) * kChunk;
        __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (std::int64_t i = g * m.chunks_per_group * kChunk; i < end; i += 4, codes += 4 * kPanelRows)
#pragma GCC unroll 4
          for (int c = 0; c < 4; ++c) sums[c] = _mm256_fmadd_ps(widen_fp8<Type>(codes + c * kPanelRows), _mm256_set1_ps(x[i + c]), sums[c]);
        const __m256 scale =
            _mm256_mul_ps(load(m.scales, (panel * m.groups + g) * kPanelRows + 8 * h), _mm256_set1_ps(Type == CodeType::fp8_e4m3 ? 256 : 1));
        y = _mm256_fmadd_ps(scale, _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])), y);
      }
      _mm256_storeu_ps(out + row * kPanelRows + 8 * h, y);
    }
}

}  // namespace

PanelKernel avx2_kernel(CodeType type, int bits) {
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // all that have them have f16c
  if (!has) return nullptr;
  if (type == CodeType::fp8_e4m3) return multiply<CodeType::fp8_e4m3>;
  if (type == CodeType::fp8_e5m2) return multiply<CodeType::fp8_e5m2>;
  constexpr PanelKernel kernels[] = {multiply<2>, multiply<3>, multiply<4>, multiply<5>, multiply<6>, multiply<7>, multiply<8>};
  return kernels[bits - 2];
}

}  // namespace miq::quantizer::packed

#else

namespace miq::quantizer::packed {
PanelKernel avx2_kernel(CodeType, int) { return nullptr; }
}  // namespace miq::quantizer::packed

#endif
