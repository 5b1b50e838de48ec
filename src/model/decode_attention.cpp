// Attention of one new token a sequence: it is rotated, put into the cache and compared with what lies there,
// without a copy of the cache.
#include <ATen/Parallel.h>

#include <cmath>
#include <vector>

#include "attention.h"
#include "instruction_sets.h"
#include "vectorised.h"

namespace miq::model::kernels {
namespace {

constexpr std::int64_t kGrain = 1 << 15;  // multiplications

// One query head against the keys it sees.
struct Head {
  const float* query;  // scaled by 1 / sqrt(D)
  std::int64_t count, dim;
  float* scores;       // [count]
};

// scores -> e^(score - largest), with ALiBi's slope per position; returns 1 / their sum.
MIQ_VECTORISED float soften(float* scores, std::int64_t count, float slope) {
  float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
  for (std::int64_t j = 0; j < count; ++j) {
    scores[j] += slope * static_cast<float>(j + 1 - count);
    largest = std::max(largest, scores[j]);
  }
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t j = 0; j < count; ++j) {
    scores[j] = fast_exp(scores[j] - largest);
    total += scores[j];
  }
  return 1.0f / total;
}

// Scores of the keys [count][D], and the sum of values weighted by scores.
template <class T>
struct Products {
  void (*scores)(const Head& head, const T* keys);
  void (*sums)(const Head& head, const T* values, float* sums);
};

template <class T>
void portable_scores(const Head& h, const T* keys) {
  for (std::int64_t j = 0; j < h.count; ++j) {
    float sum = 0;
    for (std::int64_t d = 0; d < h.dim; ++d) sum += h.query[d] * widen(keys[j * h.dim + d]);
    h.scores[j] = sum;
  }
}

template <class T>
void portable_sums(const Head& h, const T* values, float* sums) {
  std::fill(sums, sums + h.dim, 0.0f);
  for (std::int64_t j = 0; j < h.count; ++j)
    for (std::int64_t d = 0; d < h.dim; ++d) sums[d] += h.scores[j] * widen(values[j * h.dim + d]);
}

#if defined(__x86_64__)

// For head dimensions that are whole vectors.
#define MIQ_PRODUCTS(TARGET, NAME, ISA)                                                                                     \
  template <class T>                                                                                                        \
  TARGET void NAME##_scores(const Head& h, const T* keys) {                                                                 \
    constexpr std::int64_t width = sizeof(ISA::Vector) / 4;                                                                 \
    for (std::int64_t j = 0; j < h.count; ++j, keys += h.dim) {                                                             \
      ISA::Vector sum = ISA::zero();                                                                                        \
      for (std::int64_t d = 0; d < h.dim; d += width) sum = ISA::multiply_add(ISA::load(h.query + d), ISA::load(keys + d), sum); \
      h.scores[j] = ISA::sum(sum);                                                                                          \
    }                                                                                                                       \
  }                                                                                                                         \
  template <int Vectors, class T>                                                                                           \
  TARGET void NAME##_sums_of(const Head& h, const T* values, float* out) {                                                  \
    constexpr std::int64_t width = sizeof(ISA::Vector) / 4;                                                                 \
    ISA::Vector sums[Vectors];                                                                                              \
    for (int v = 0; v < Vectors; ++v) sums[v] = ISA::zero();                                                                \
    for (std::int64_t j = 0; j < h.count; ++j) {                                                                            \
      const ISA::Vector weight = ISA::all(h.scores[j]);                                                                     \
      for (int v = 0; v < Vectors; ++v) sums[v] = ISA::multiply_add(weight, ISA::load(values + j * h.dim + v * width), sums[v]); \
    }                                                                                                                       \
    for (int v = 0; v < Vectors; ++v) ISA::put(out + v * width, sums[v]);                                                   \
  }                                                                                                                         \
  template <class T>                                                                                                        \
  TARGET void NAME##_sums(const Head& h, const T* values, float* out) {                                                     \
    constexpr std::int64_t width = sizeof(ISA::Vector) / 4;                                                                 \
    std::int64_t d = 0;                                                                                                     \
    for (; d + 4 * width <= h.dim; d += 4 * width) NAME##_sums_of<4>(h, values + d, out + d);                               \
    for (; d < h.dim; d += width) NAME##_sums_of<1>(h, values + d, out + d);                                                \
  }
MIQ_PRODUCTS(MIQ_AVX512, avx512, Avx512)
MIQ_PRODUCTS(MIQ_AVX2, avx2, Avx2)
#undef MIQ_PRODUCTS

#endif

template <class T>
Products<T> products(std::int64_t dim) {
#if defined(__x86_64__)
  if (has_avx512() && dim % 16 == 0) return {avx512_scores<T>, avx512_sums<T>};
  if (has_avx2() && dim % 8 == 0) return {avx2_scores<T>, avx2_sums<T>};
#endif
  return {portable_scores<T>, portable_sums<T>};
}

template <class T>
void rotate_into(const T* x, const Rotation& rotation, std::int64_t dim, T* y) {
  const std::int64_t half = rotation.half;
  for (std::int64_t k = 0; k < half; ++k) {
    const std::int64_t first = rotation.interleaved ? 2 * k : k, second = rotation.interleaved ? first + 1 : k + half;
    const float a = widen(x[first]), b = widen(x[second]);
    store(a * rotation.cos[k] - b * rotation.sin[k], y[first]);
    store(b * rotation.cos[k] + a * rotation.sin[k], y[second]);
  }
  std::copy(x + 2 * half, x + dim, y + 2 * half);
}

}  // namespace

bool has_decode_attention(const at::Tensor& query) { return query.is_cpu() && is_float_type(query.scalar_type()) && query.size(1) == 1; }

at::Tensor decode_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const Rotation& rotation, at::Tensor& keys,
                            at::Tensor& values, std::int64_t past, const AttentionMask& mask) {
  const std::int64_t batch = query.size(0), heads = query.size(2), kv_heads = key.size(2), dim = query.size(3), capacity = keys.size(2);
  const std::int64_t total = past + 1, first = mask.window > 0 ? std::max<std::int64_t>(0, total - mask.window) : 0, count = total - first;
  const float* const slopes = mask.alibi_slopes_N.defined() ? mask.alibi_slopes_N.const_data_ptr<float>() : nullptr;
  at::Tensor out = at::empty({batch, 1, heads * dim}, query.options());
  with_float_type(query.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    T* const cached_keys = keys.mutable_data_ptr<T>();
    T* const cached_values = values.mutable_data_ptr<T>();
    for (std::int64_t i = 0; i < batch * kv_heads; ++i) {
      const std::int64_t b = i / kv_heads, n = i % kv_heads, at = (i * capacity + past) * dim;
      rotate_into(key.const_data_ptr<T>() + b * key.stride(0) + n * key.stride(2), rotation, dim, cached_keys + at);
      const T* const v = value.const_data_ptr<T>() + b * value.stride(0) + n * value.stride(2);
      std::copy(v, v + dim, cached_values + at);
    }
    T* const target = out.mutable_data_ptr<T>();
    const Products<T> multiply = products<T>(dim);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    at::parallel_for(0, batch * heads, std::max<std::int64_t>(1, kGrain / (2 * count * dim)), [&](std::int64_t begin, std::int64_t end) {
      std::vector<T> rotated(static_cast<size_t>(dim));
      std::vector<float> scratch(static_cast<size_t>(2 * dim + count));
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t b = i / heads, n = i % heads, offset = ((b * kv_heads + n / (heads / kv_heads)) * capacity + first) * dim;
        rotate_into(query.const_data_ptr<T>() + b * query.stride(0) + n * query.stride(2), rotation, dim, rotated.data());
        for (std::int64_t d = 0; d < dim; ++d) scratch[static_cast<size_t>(d)] = widen(rotated[static_cast<size_t>(d)]) * scale;
        float* const sums = scratch.data() + dim;
        const Head head{scratch.data(), count, dim, sums + dim};
        multiply.scores(head, cached_keys + offset);
        const float factor = soften(head.scores, count, slopes ? slopes[n] : 0.0f);
        multiply.sums(head, cached_values + offset, sums);
        for (std::int64_t d = 0; d < dim; ++d) store(sums[d] * factor, target[i * dim + d]);
      }
    });
  });
  return out;
}

}  // namespace miq::model::kernels
