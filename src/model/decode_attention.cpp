// Attention of one new token a sequence: it is rotated, put into the cache and compared with what lies there,
// without a copy of the cache.
#include <ATen/Parallel.h>

#include <cmath>
#include <vector>

#include "attention.h"
#include "vectorised.h"

namespace miq::model::kernels {
namespace {

constexpr std::int64_t kGrain = 1 << 15;  // multiplications

// What the keys of one head are compared with, and how far back.
struct Head {
  const float* query;  // scaled by 1 / sqrt(D)
  std::int64_t count, dim;
  float slope;         // of ALiBi: added per position back, negative of the distance
  float* scores;       // [count]
  float* sums;         // [dim]
};

// kDim: the head dimension where it is known at compile time, else 0.
template <std::int64_t kDim, class T>
MIQ_INLINE void attend(const Head& h, const T* keys, const T* values, T* out) {
  const std::int64_t dim = kDim > 0 ? kDim : h.dim;
  float largest = -INFINITY;
  for (std::int64_t j = 0; j < h.count; ++j) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t d = 0; d < dim; ++d) sum += h.query[d] * widen(keys[j * dim + d]);
    h.scores[j] = sum + h.slope * static_cast<float>(j + 1 - h.count);
    largest = std::max(largest, h.scores[j]);
  }
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t j = 0; j < h.count; ++j) {
    h.scores[j] = fast_exp(h.scores[j] - largest);
    total += h.scores[j];
  }
  std::fill(h.sums, h.sums + dim, 0.0f);
  std::int64_t j = 0;
  for (; j + 4 <= h.count; j += 4) {
    const T* const v = values + j * dim;
#pragma omp simd
    for (std::int64_t d = 0; d < dim; ++d)
      h.sums[d] += (h.scores[j] * widen(v[d]) + h.scores[j + 1] * widen(v[dim + d])) +
                   (h.scores[j + 2] * widen(v[2 * dim + d]) + h.scores[j + 3] * widen(v[3 * dim + d]));
  }
  for (; j < h.count; ++j)
#pragma omp simd
    for (std::int64_t d = 0; d < dim; ++d) h.sums[d] += h.scores[j] * widen(values[j * dim + d]);
  const float factor = 1.0f / total;
#pragma omp simd
  for (std::int64_t d = 0; d < dim; ++d) store(h.sums[d] * factor, out[d]);
}

#define MIQ_ATTEND(T)                                                                                     \
  MIQ_VECTORISED void attend_head(const Head& head, const T* keys, const T* values, T* out) {             \
    if (head.dim == 64) return attend<64>(head, keys, values, out);                                       \
    if (head.dim == 128) return attend<128>(head, keys, values, out);                                     \
    attend<0>(head, keys, values, out);                                                                   \
  }
MIQ_ATTEND(float)
MIQ_ATTEND(at::BFloat16)
MIQ_ATTEND(at::Half)
#undef MIQ_ATTEND

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
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    at::parallel_for(0, batch * heads, std::max<std::int64_t>(1, kGrain / (2 * count * dim)), [&](std::int64_t begin, std::int64_t end) {
      std::vector<T> rotated(static_cast<size_t>(dim));
      std::vector<float> scratch(static_cast<size_t>(2 * dim + count));
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t b = i / heads, n = i % heads, offset = ((b * kv_heads + n / (heads / kv_heads)) * capacity + first) * dim;
        rotate_into(query.const_data_ptr<T>() + b * query.stride(0) + n * query.stride(2), rotation, dim, rotated.data());
        for (std::int64_t d = 0; d < dim; ++d) scratch[static_cast<size_t>(d)] = widen(rotated[static_cast<size_t>(d)]) * scale;
        attend_head({scratch.data(), count, dim, slopes ? slopes[n] : 0.0f, scratch.data() + 2 * dim, scratch.data() + dim}, cached_keys + offset,
                    cached_values + offset, target + i * dim);
      }
    });
  });
  return out;
}

}  // namespace miq::model::kernels
