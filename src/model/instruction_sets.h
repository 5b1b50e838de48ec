// Vectors of float32 by instruction set, loaded from any floating type: for loops that the compiler does not
// vectorise well by itself (float16 above all).
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include "vectorised.h"

#define MIQ_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,f16c,fma")))
#define MIQ_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace miq::model::kernels {

inline bool has_avx512() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512dq");
  return has;
}

inline bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // all that have them have f16c
  return has;
}

struct Avx512 {
  using Vector = __m512;
  MIQ_AVX512 MIQ_INLINE static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  MIQ_AVX512 MIQ_INLINE static Vector load(const at::Half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  MIQ_AVX512 MIQ_INLINE static Vector load(const at::BFloat16* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  MIQ_AVX512 MIQ_INLINE static Vector all(float x) { return _mm512_set1_ps(x); }
  MIQ_AVX512 MIQ_INLINE static Vector zero() { return _mm512_setzero_ps(); }
  MIQ_AVX512 MIQ_INLINE static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  MIQ_AVX512 MIQ_INLINE static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  MIQ_AVX512 MIQ_INLINE static void put(float* p, Vector a) { _mm512_storeu_ps(p, a); }
  MIQ_AVX512 MIQ_INLINE static float sum(Vector a) { return _mm512_reduce_add_ps(a); }
};

struct Avx2 {
  using Vector = __m256;
  MIQ_AVX2 MIQ_INLINE static Vector load(const float* p) { return _mm256_loadu_ps(p); }
  MIQ_AVX2 MIQ_INLINE static Vector load(const at::Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  MIQ_AVX2 MIQ_INLINE static Vector load(const at::BFloat16* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  MIQ_AVX2 MIQ_INLINE static Vector all(float x) { return _mm256_set1_ps(x); }
  MIQ_AVX2 MIQ_INLINE static Vector zero() { return _mm256_setzero_ps(); }
  MIQ_AVX2 MIQ_INLINE static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  MIQ_AVX2 MIQ_INLINE static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  MIQ_AVX2 MIQ_INLINE static void put(float* p, Vector a) { _mm256_storeu_ps(p, a); }
  MIQ_AVX2 MIQ_INLINE static float sum(Vector a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
};

}  // namespace miq::model::kernels

#endif
