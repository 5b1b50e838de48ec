// 64 codes by 64 int8 values of x an instruction (vpdpbusd), 16 rows of the matrix side by side.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#define MIQ_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")))
#define MIQ_AVX512_INLINE MIQ_AVX512 __attribute__((always_inline)) inline

namespace miq::quantizer::packed {
namespace {

// Quad T of plane `Width`, its bits where they stand in a code; other bits are left over.
template <int Bits, int Width, int T>
MIQ_AVX512_INLINE __m512i plane_quad(const std::uint8_t* chunk) {
  constexpr int vector = T * Width / 8, right = T * Width % 8 - plane_shift(Bits, Width);
  const __m512i bits = _mm512_loadu_si512(chunk + plane_offset(Bits, Width) + 64 * vector);
  if constexpr (right > 0) return _mm512_srli_epi32(bits, right);
  if constexpr (right < 0) return _mm512_slli_epi32(bits, -right);
  return bits;
}

constexpr std::int64_t kAhead = 4096;  // bytes that are fetched before they are needed: hardware stops at pages
constexpr int kSelect = 0xCA;  // of ternary logic: mask ? a : b

// The codes of columns 4 T .. 4 T + 3, a byte each.
template <int Bits, int T>
MIQ_AVX512_INLINE __m512i quad(const std::uint8_t* chunk) {
  if constexpr (Bits == 8) return plane_quad<8, 8, T>(chunk);
  __m512i codes = plane_quad<Bits, has_plane(Bits, 4) ? 4 : has_plane(Bits, 2) ? 2 : 1, T>(chunk);
  if constexpr (has_plane(Bits, 4) && has_plane(Bits, 2)) {
    constexpr char mask = 3 << plane_shift(Bits, 2);
    codes = _mm512_ternarylogic_epi32(_mm512_set1_epi8(mask), (plane_quad<Bits, 2, T>(chunk)), codes, kSelect);
  }
  if constexpr ((has_plane(Bits, 4) || has_plane(Bits, 2)) && has_plane(Bits, 1)) {
    constexpr char mask = 1 << plane_shift(Bits, 1);
    codes = _mm512_ternarylogic_epi32(_mm512_set1_epi8(mask), (plane_quad<Bits, 1, T>(chunk)), codes, kSelect);
  }
  return _mm512_and_si512(codes, _mm512_set1_epi8(static_cast<char>((1 << Bits) - 1)));
}

MIQ_AVX512_INLINE __m512i broadcast(const std::int8_t* four) {
  int value;
  __builtin_memcpy(&value, four, 4);
  return _mm512_set1_epi32(value);
}

MIQ_AVX512_INLINE __m512 load(const Parameters& p, std::int64_t at) {
  switch (p.store) {
    case Store::uint8:
      return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const std::uint8_t*>(p.data) + at))));
    case Store::float16:
      return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const std::uint16_t*>(p.data) + at)));
    case Store::bfloat16: {
      const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const std::uint16_t*>(p.data) + at));
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    }
    case Store::float32:
      return _mm512_loadu_ps(static_cast<const float*>(p.data) + at);
    case Store::constant:
      break;
  }
  return _mm512_set1_ps(p.value);
}

// Adds a quad's products. Even and odd quads have sums of their own: an instruction need not wait for the last.
template <int Bits, int Rows, int T>
MIQ_AVX512_INLINE void add_quad(const std::uint8_t* chunk, const std::int8_t* high, const std::int8_t* low, std::int64_t stride,
                                __m512i (&high_sums)[Rows][2], __m512i (&low_sums)[Rows][2]) {
  const __m512i codes = quad<Bits, T>(chunk);
  constexpr int chain = Rows == 1 ? T % 2 : 0;
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    high_sums[r][chain] = _mm512_dpbusd_epi32(high_sums[r][chain], codes, broadcast(high + r * stride + 4 * T));
    low_sums[r][chain] = _mm512_dpbusd_epi32(low_sums[r][chain], codes, broadcast(low + r * stride + 4 * T));
  }
}

template <int Bits, int Rows>
MIQ_AVX512 void multiply_rows(const Matrix& m, const Input& in, std::int64_t row, std::int64_t panel, float* out) {
  const std::uint8_t* chunk = m.codes + panel * m.panel_bytes();
  const std::int8_t* high = in.high + row * in.columns;
  const std::int8_t* low = in.low + row * in.columns;
  const float* x_scale = in.scales + row * in.blocks;
  const float* x_sum = in.sums + row * in.blocks;
  __m512 y[Rows];
  for (int r = 0; r < Rows; ++r) y[r] = _mm512_setzero_ps();
  for (std::int64_t g = 0, k = 0; g < m.groups; ++g) {
    const std::int64_t at = (panel * m.groups + g) * kPanelRows, group_end = std::min(m.chunks, (g + 1) * m.chunks_per_group);
    const __m512 scale = load(m.scales, at), zero = load(m.zeros, at);
    while (k < group_end) {
      const std::int64_t block_end = std::min(k + m.chunks_per_block, group_end);
      __m512i high_sums[Rows][2], low_sums[Rows][2];
      for (int r = 0; r < Rows; ++r)
        for (int c = 0; c < 2; ++c) high_sums[r][c] = low_sums[r][c] = _mm512_setzero_si512();
      for (; k < block_end; ++k, chunk += 64 * Bits, high += kChunk, low += kChunk) {
#pragma GCC unroll 8
        for (int line = 0; line < Bits; ++line) _mm_prefetch(reinterpret_cast<const char*>(chunk + kAhead + 64 * line), _MM_HINT_T0);
        add_quad<Bits, Rows, 0>(chunk, high, low, in.columns, high_sums, low_sums);
        add_quad<Bits, Rows, 1>(chunk, high, low, in.columns, high_sums, low_sums);
        add_quad<Bits, Rows, 2>(chunk, high, low, in.columns, high_sums, low_sums);
        add_quad<Bits, Rows, 3>(chunk, high, low, in.columns, high_sums, low_sums);
        add_quad<Bits, Rows, 4>(chunk, high, low, in.columns, high_sums, low_sums);
        add_quad<Bits, Rows, 5>(chunk, high, low, in.columns, high_sums, low_sums);
        add_quad<Bits, Rows, 6>(chunk, high, low, in.columns, high_sums, low_sums);
        add_quad<Bits, Rows, 7>(chunk, high, low, in.columns, high_sums, low_sums);
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        if constexpr (Rows == 1) {
          high_sums[r][0] = _mm512_add_epi32(high_sums[r][0], high_sums[r][1]);
          low_sums[r][0] = _mm512_add_epi32(low_sums[r][0], low_sums[r][1]);
        }
        const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high_sums[r][0], 8), low_sums[r][0]);
        const __m512 centred = _mm512_fnmadd_ps(zero, _mm512_set1_ps(x_sum[r * in.blocks]), _mm512_cvtepi32_ps(sum));
        y[r] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(x_scale[r * in.blocks])), centred, y[r]);
      }
      ++x_scale;
      ++x_sum;
    }
  }
  for (int r = 0; r < Rows; ++r) _mm512_storeu_ps(out + (row + r) * kPanelRows, y[r]);
}

// 16 fp8 bytes as float32. e4m3's exponent is 8 less biased than float16's: the values are 256 times too small.
template <CodeType Type>
MIQ_AVX512_INLINE __m512 widen_fp8(const std::uint8_t* codes) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  if constexpr (Type == CodeType::fp8_e5m2) return _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 8));
  const __m256i halves = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
  return _mm512_cvtph_ps(_mm256_and_si256(halves, _mm256_set1_epi16(static_cast<short>(0xBF80))));
}

template <CodeType Type, int Rows>
MIQ_AVX512 void multiply_rows(const Matrix& m, const Input& in, std::int64_t row, std::int64_t panel, float* out) {
  const std::uint8_t* codes = m.codes + panel * m.panel_bytes();
  const float* const x = in.values + row * in.columns;
  __m512 y[Rows];
  for (int r = 0; r < Rows; ++r) y[r] = _mm512_setzero_ps();
  for (std::int64_t g = 0; g < m.groups; ++g) {
    const std::int64_t end = std::min(m.chunks, (g + 1) * m.chunks_per_group) * kChunk;
    __m512 sums[Rows][4];
    for (int r = 0; r < Rows; ++r)
      for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_setzero_ps();
    for (std::int64_t i = g * m.chunks_per_group * kChunk; i < end; i += 4, codes += 4 * kPanelRows) {
      _mm_prefetch(reinterpret_cast<const char*>(codes + kAhead), _MM_HINT_T0);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        const __m512 weights = widen_fp8<Type>(codes + c * kPanelRows);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) sums[r][c] = _mm512_fmadd_ps(weights, _mm512_set1_ps(x[r * in.columns + i + c]), sums[r][c]);
      }
    }
    const __m512 scale = _mm512_mul_ps(load(m.scales, (panel * m.groups + g) * kPanelRows), _mm512_set1_ps(Type == CodeType::fp8_e4m3 ? 256 : 1));
    for (int r = 0; r < Rows; ++r)
      y[r] = _mm512_fmadd_ps(scale, _mm512_add_ps(_mm512_add_ps(sums[r][0], sums[r][1]), _mm512_add_ps(sums[r][2], sums[r][3])), y[r]);
  }
  for (int r = 0; r < Rows; ++r) _mm512_storeu_ps(out + (row + r) * kPanelRows, y[r]);
}

template <auto Codes>
MIQ_AVX512 void multiply(const Matrix& matrix, const Input& input, std::int64_t panel, float* out) {
  std::int64_t row = 0;
  for (; row + 4 <= input.rows; row += 4) multiply_rows<Codes, 4>(matrix, input, row, panel, out);
  for (; row + 2 <= input.rows; row += 2) multiply_rows<Codes, 2>(matrix, input, row, panel, out);
  if (row < input.rows) multiply_rows<Codes, 1>(matrix, input, row, panel, out);
}

}  // namespace

PanelKernel avx512_kernel(CodeType type, int bits) {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (!has) return nullptr;
  if (type == CodeType::fp8_e4m3) return multiply<CodeType::fp8_e4m3>;
  if (type == CodeType::fp8_e5m2) return multiply<CodeType::fp8_e5m2>;
  constexpr PanelKernel kernels[] = {multiply<2>, multiply<3>, multiply<4>, multiply<5>, multiply<6>, multiply<7>, multiply<8>};
  return kernels[bits - 2];
}

}  // namespace miq::quantizer::packed

#else

namespace miq::quantizer::packed {
PanelKernel avx512_kernel(CodeType, int) { return nullptr; }
}  // namespace miq::quantizer::packed

#endif
