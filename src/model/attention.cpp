// The CPU kernel: tiles of queries against chunks of keys.
#include "attention.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <cmath>
#include <cstring>

#include "miq/core/device.h"
#include "vectorised.h"

namespace miq::model::kernels {
namespace {

// Queries of a tile and keys of a chunk. All products have these sizes, so that oneDNN compiles few
// kernels; ends are padded with zeros.
constexpr std::int64_t kTile = 64, kChunk = 128;

struct Shape {
  std::int64_t batch, heads, kv_heads, tokens, total, dim, window;
  const float* slopes;  // of the heads, or null
  std::int64_t chunks() const { return (total + kChunk - 1) / kChunk; }
};

// Packed key and value of one chunk are D * kChunk elements each. A right factor [K, N] stands as
// [K / pair][N][pair]: pair is 2 for bfloat16 (two products per instruction), 1 for float32.
template <class T>
constexpr std::int64_t kPair = sizeof(T) == 2 ? 2 : 1;

// Keys [count, D] -> [D / pair][kChunk][pair].
template <class T>
MIQ_INLINE void pack_keys(const T* keys, std::int64_t stride, std::int64_t count, std::int64_t dim, T* packed) {
  constexpr std::int64_t pair = kPair<T>;
  for (std::int64_t d = 0; d < dim; d += pair)
    for (std::int64_t j = 0; j < kChunk; ++j)
      for (std::int64_t p = 0; p < pair; ++p)
        packed[d * kChunk + j * pair + p] = j < count ? keys[j * stride + d + p] : T(0);
}

// Values [count, D] -> [kChunk / pair][D][pair].
template <class T>
MIQ_INLINE void pack_values(const T* values, std::int64_t stride, std::int64_t count, std::int64_t dim, T* packed) {
  constexpr std::int64_t pair = kPair<T>;
  for (std::int64_t j = 0; j < kChunk; j += pair)
    for (std::int64_t p = 0; p < pair; ++p)
      for (std::int64_t d = 0; d < dim; ++d)
        packed[j * dim + d * pair + p] = j + p < count ? values[(j + p) * stride + d] : T(0);
}

// e^(scale (s - largest)) of one chunk's row in place, zeros outside begin .. end; returns the sum.
MIQ_INLINE float exp_chunk(float* s, float largest, float scale, std::int64_t begin, std::int64_t end) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = begin; j < end; ++j) {
    s[j] = fast_exp((s[j] - largest) * scale);
    sum += s[j];
  }
  for (std::int64_t j = 0; j < begin; ++j) s[j] = 0;
  for (std::int64_t j = end; j < kChunk; ++j) s[j] = 0;
  return sum;
}

// Adds bias * (column - position) to the scores first <= column < last.
MIQ_INLINE void add_distance(float* scores, float bias, std::int64_t position, std::int64_t first, std::int64_t last) {
  for (std::int64_t c = first / kChunk; c * kChunk < last; ++c) {
    float* const s = scores + c * kTile * kChunk;
    const std::int64_t begin = std::max<std::int64_t>(first - c * kChunk, 0), end = std::min(last - c * kChunk, kChunk);
#pragma omp simd
    for (std::int64_t j = begin; j < end; ++j) s[j] += bias * static_cast<float>(c * kChunk + j - position);
  }
}

// One query's scores, `chunks` rows of kChunk that lie a tile apart, of which first <= column < last
// count: writes e^(scale (s - max)) into `weights`, zeros elsewhere; returns the sum.
template <class T>
MIQ_INLINE float softmax_row(float* scores, T* weights, std::int64_t chunks, std::int64_t first, std::int64_t last,
                             float scale) {
  float largest = -INFINITY;
  for (std::int64_t c = 0; c < chunks; ++c) {
    const float* const s = scores + c * kTile * kChunk;
    const std::int64_t begin = std::max<std::int64_t>(first - c * kChunk, 0), end = std::min(last - c * kChunk, kChunk);
#pragma omp simd reduction(max : largest)
    for (std::int64_t j = begin; j < end; ++j) largest = std::max(largest, s[j]);
  }
  float sum = 0;
  for (std::int64_t c = 0; c < chunks; ++c) {
    float* const s = scores + c * kTile * kChunk;
    T* const w = weights + c * kTile * kChunk;
    const std::int64_t begin = std::clamp<std::int64_t>(first - c * kChunk, 0, kChunk);
    const std::int64_t end = std::clamp<std::int64_t>(last - c * kChunk, begin, kChunk);
    // Constant bounds for the many whole chunks.
    sum += begin == 0 && end == kChunk ? exp_chunk(s, largest, scale, 0, kChunk)
                                       : exp_chunk(s, largest, scale, begin, end);
#pragma omp simd
    for (std::int64_t j = 0; j < kChunk; ++j) store(s[j], w[j]);
  }
  return sum;
}

template <class T>
MIQ_INLINE void scale_row(const float* x, float factor, std::int64_t dim, T* out) {
  for (std::int64_t d = 0; d < dim; ++d) store(x[d] * factor, out[d]);
}

// The same for each element type, compiled per instruction set (templates cannot be).
#define MIQ_ROWS(T)                                                                                                   \
  MIQ_VECTORISED void pack_chunk(const T* k, std::int64_t k_stride, const T* v, std::int64_t v_stride,                \
                                 std::int64_t count, std::int64_t dim, T* packed_k, T* packed_v) {                    \
    pack_keys(k, k_stride, count, dim, packed_k);                                                                     \
    pack_values(v, v_stride, count, dim, packed_v);                                                                   \
  }                                                                                                                   \
  MIQ_VECTORISED float softmax(float* scores, T* weights, std::int64_t chunks, std::int64_t first, std::int64_t last, \
                               float scale) {                                                                         \
    return softmax_row(scores, weights, chunks, first, last, scale);                                                  \
  }                                                                                                                   \
  MIQ_VECTORISED void scale_into(const float* x, float factor, std::int64_t dim, T* out) {                            \
    scale_row(x, factor, dim, out);                                                                                   \
  }
MIQ_ROWS(float)
MIQ_ROWS(at::BFloat16)
#undef MIQ_ROWS
MIQ_VECTORISED void bias_scores(float* scores, float bias, std::int64_t position, std::int64_t first, std::int64_t last) {
  add_distance(scores, bias, position, first, last);
}

template <class T>
void product(std::int64_t n, std::int64_t k, std::int64_t ld_a, bool add, const T* a, const T* b, float* c) {
  at::native::cpublas::brgemm(kTile, n, k, ld_a, n, n, add, a, b, c, /*is_vnni=*/kPair<T> == 2);
}

// Scratch of one thread: a tile's queries, scores, weights and sums.
template <class T>
struct Scratch {
  Scratch(const Shape& shape)
      : query(static_cast<size_t>(kTile * shape.dim)),
        weights(static_cast<size_t>(kTile * kChunk * shape.chunks())),
        scores(static_cast<size_t>(kTile * kChunk * shape.chunks())),
        sums(static_cast<size_t>(kTile * shape.dim)) {}
  std::vector<T> query, weights;
  std::vector<float> scores, sums;
};

// Rows begin .. begin + kTile of one head: query rows `q`, packed keys and values of its kv head,
// output rows of stride `out_stride`.
template <class T>
void attend_tile(const Shape& shape, float slope, std::int64_t begin, const T* q, std::int64_t q_stride, const T* packed_k,
                 const T* packed_v, T* out, std::int64_t out_stride, Scratch<T>& scratch) {
  const std::int64_t rows = std::min(kTile, shape.tokens - begin), dim = shape.dim;
  const std::int64_t first_position = shape.total - shape.tokens + begin;
  const std::int64_t lowest = shape.window > 0 ? std::max<std::int64_t>(0, first_position - shape.window + 1) : 0;
  const std::int64_t c_begin = lowest / kChunk, c_end = (first_position + rows - 1) / kChunk + 1;
  for (std::int64_t r = 0; r < rows; ++r)
    std::memcpy(scratch.query.data() + r * dim, q + (begin + r) * q_stride, static_cast<size_t>(dim) * sizeof(T));
  for (std::int64_t c = c_begin; c < c_end; ++c)
    product(kChunk, dim, dim, false, scratch.query.data(), packed_k + c * kChunk * dim,
            scratch.scores.data() + (c - c_begin) * kTile * kChunk);
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  float sums[kTile];
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t position = first_position + r - c_begin * kChunk;
    const std::int64_t first = shape.window > 0 ? std::max<std::int64_t>(0, position - shape.window + 1) : 0;
    // The bias is added behind the scale; scores are scaled with the softmax.
    if (slope != 0) bias_scores(scratch.scores.data() + r * kChunk, slope / scale, position, first, position + 1);
    sums[r] = softmax(scratch.scores.data() + r * kChunk, scratch.weights.data() + r * kChunk, c_end - c_begin, first,
                      position + 1, scale);
  }
  for (std::int64_t c = c_begin; c < c_end; ++c)
    product(dim, kChunk, kChunk, c > c_begin, scratch.weights.data() + (c - c_begin) * kTile * kChunk,
            packed_v + c * kChunk * dim, scratch.sums.data());
  for (std::int64_t r = 0; r < rows; ++r)
    scale_into(scratch.sums.data() + r * dim, 1.0f / sums[r], dim, out + (begin + r) * out_stride);
}

template <class T>
void attend(const Shape& shape, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, T* out) {
  const std::int64_t chunks = shape.chunks(), piece = kChunk * shape.dim, kv = shape.batch * shape.kv_heads;
  const at::Tensor packed = at::empty({2, kv, chunks, piece}, key.options());
  T* const packed_k = packed.mutable_data_ptr<T>();
  T* const packed_v = packed_k + kv * chunks * piece;
  at::parallel_for(0, kv * chunks, 1, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t i = from; i < to; ++i) {
      const std::int64_t begin = i % chunks * kChunk, head = i / chunks % shape.kv_heads,
                         b = i / chunks / shape.kv_heads;
      const auto rows = [&](const at::Tensor& t) {
        return t.const_data_ptr<T>() + b * t.stride(0) + head * t.stride(1) + begin * t.stride(2);
      };
      pack_chunk(rows(key), key.stride(2), rows(value), value.stride(2), std::min(kChunk, shape.total - begin),
                 shape.dim, packed_k + i * piece, packed_v + i * piece);
    }
  });
  const std::int64_t tiles = (shape.tokens + kTile - 1) / kTile, repeats = shape.heads / shape.kv_heads;
  const std::int64_t width = shape.heads * shape.dim, pairs = shape.batch * shape.heads;
  at::parallel_for(0, pairs * tiles, 1, [&](std::int64_t from, std::int64_t to) {
    Scratch<T> scratch(shape);
    for (std::int64_t i = from; i < to; ++i) {
      // Heads fastest: each thread gets early (cheap) and late (dear) tiles only if tiles alternate.
      const std::int64_t pair = i % pairs, slot = i / pairs;
      const std::int64_t tile = slot % 2 == 0 ? slot / 2 : tiles - 1 - slot / 2;
      const std::int64_t b = pair / shape.heads, n = pair % shape.heads;
      const std::int64_t offset = (b * shape.kv_heads + n / repeats) * chunks * piece;
      attend_tile(shape, shape.slopes != nullptr ? shape.slopes[n] : 0.0f, tile * kTile, query.const_data_ptr<T>() + b * query.stride(0) + n * query.stride(1),
                  query.stride(2), packed_k + offset, packed_v + offset, out + b * shape.tokens * width + n * shape.dim,
                  width, scratch);
    }
    at::native::cpublas::brgemm_release(kPair<T> == 2);
  });
}

}  // namespace

bool has_causal_attention(const at::Tensor& query) {
  if (!query.is_cpu()) return false;
#if defined(__x86_64__)
  if (query.scalar_type() == at::kBFloat16) return has_fast_bfloat16(at::kCPU);
  return query.scalar_type() == at::kFloat && __builtin_cpu_supports("avx512f");
#else
  return false;
#endif
}

at::Tensor causal_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const AttentionMask& mask) {
  const Shape shape{query.size(0), query.size(1), key.size(1), query.size(2), key.size(2), query.size(3), mask.window,
                    mask.alibi_slopes_N.defined() ? mask.alibi_slopes_N.const_data_ptr<float>() : nullptr};
  at::Tensor out = at::empty({shape.batch, shape.tokens, shape.heads * shape.dim}, query.options());
  if (query.scalar_type() == at::kFloat)
    attend<float>(shape, query, key, value, out.mutable_data_ptr<float>());
  else
    attend<at::BFloat16>(shape, query, key, value, out.mutable_data_ptr<at::BFloat16>());
  return out;
}

}  // namespace miq::model::kernels
