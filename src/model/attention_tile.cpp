#include "attention_tile.h"

#include <ATen/native/CPUBlas.h>

#include <cmath>
#include <cstring>

#include "vectorised.h"

namespace miq::model::kernels {
namespace {

template <class T>
constexpr std::int64_t kPair = sizeof(T) == 2 ? 2 : 1;

template <class T>
MIQ_INLINE void pack_keys(const T* keys, std::int64_t stride, std::int64_t at, std::int64_t count, std::int64_t dim, T* packed) {
  constexpr std::int64_t pair = kPair<T>;
  for (std::int64_t d = 0; d < dim; d += pair)
    for (std::int64_t j = 0; j < count; ++j)
      for (std::int64_t p = 0; p < pair; ++p) packed[d * kChunk + (at + j) * pair + p] = keys[j * stride + d + p];
}

template <class T>
MIQ_INLINE void pack_values(const T* values, std::int64_t stride, std::int64_t at, std::int64_t count, std::int64_t dim, T* packed) {
  constexpr std::int64_t pair = kPair<T>;
  for (std::int64_t j = at; j < at + count; ++j)
    for (std::int64_t d = 0; d < dim; ++d) packed[j / pair * pair * dim + d * pair + j % pair] = values[(j - at) * stride + d];
}

// e^(scale (s - largest)) of one chunk's row of `columns` in place, zeros outside begin .. end; returns the sum.
MIQ_INLINE float exp_chunk(float* s, float largest, float scale, std::int64_t begin, std::int64_t end, std::int64_t columns) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = begin; j < end; ++j) {
    s[j] = fast_exp((s[j] - largest) * scale);
    sum += s[j];
  }
  for (std::int64_t j = 0; j < begin; ++j) s[j] = 0;
  for (std::int64_t j = end; j < columns; ++j) s[j] = 0;
  return sum;
}

// Adds bias * (column - position) to the scores first <= column < last.
MIQ_INLINE void add_distance(float* scores, std::int64_t step, float bias, std::int64_t position, std::int64_t first, std::int64_t last) {
  for (std::int64_t c = first / kChunk; c * kChunk < last; ++c) {
    float* const s = scores + c * step;
    const std::int64_t begin = std::max<std::int64_t>(first - c * kChunk, 0), end = std::min(last - c * kChunk, kChunk);
#pragma omp simd
    for (std::int64_t j = begin; j < end; ++j) s[j] += bias * static_cast<float>(c * kChunk + j - position);
  }
}

// One query's scores: `chunks` rows of kChunk that lie `step` apart, the last one of `columns`, of which first <= column < last
// count. Writes e^(scale (s - max)) into `weights`, zeros elsewhere; returns the sum.
template <class T>
MIQ_INLINE float softmax_row(float* scores, T* weights, std::int64_t step, std::int64_t chunks, std::int64_t columns, std::int64_t first, std::int64_t last,
                             float scale) {
  float largest = -INFINITY;
  for (std::int64_t c = 0; c < chunks; ++c) {
    const float* const s = scores + c * step;
    const std::int64_t begin = std::max<std::int64_t>(first - c * kChunk, 0), end = std::min(last - c * kChunk, kChunk);
#pragma omp simd reduction(max : largest)
    for (std::int64_t j = begin; j < end; ++j) largest = std::max(largest, s[j]);
  }
  float sum = 0;
  for (std::int64_t c = 0; c < chunks; ++c) {
    float* const s = scores + c * step;
    T* const w = weights + c * step;
    const std::int64_t begin = std::clamp<std::int64_t>(first - c * kChunk, 0, kChunk);
    const std::int64_t end = std::clamp<std::int64_t>(last - c * kChunk, begin, kChunk), width = c + 1 < chunks ? kChunk : columns;
    // Constant bounds for the many whole chunks.
    sum += begin == 0 && end == kChunk ? exp_chunk(s, largest, scale, 0, kChunk, kChunk) : exp_chunk(s, largest, scale, begin, end, width);
#pragma omp simd
    for (std::int64_t j = 0; j < width; ++j) store(s[j], w[j]);
  }
  return sum;
}

template <class T>
MIQ_INLINE void scale_row(const float* x, float factor, std::int64_t dim, T* out) {
  for (std::int64_t d = 0; d < dim; ++d) store(x[d] * factor, out[d]);
}

// The same for each element type, compiled per instruction set (templates cannot be).
#define MIQ_ROWS(T)                                                                                                                           \
  MIQ_VECTORISED void pack_chunk(const T* k, std::int64_t k_stride, const T* v, std::int64_t v_stride, std::int64_t at, std::int64_t count,   \
                                 std::int64_t dim, T* packed_k, T* packed_v) {                                                                \
    pack_keys(k, k_stride, at, count, dim, packed_k);                                                                                         \
    pack_values(v, v_stride, at, count, dim, packed_v);                                                                                       \
  }                                                                                                                                           \
  MIQ_VECTORISED float softmax(float* scores, T* weights, std::int64_t step, std::int64_t chunks, std::int64_t columns, std::int64_t first,   \
                               std::int64_t last, float scale) {                                                                              \
    return softmax_row(scores, weights, step, chunks, columns, first, last, scale);                                                           \
  }                                                                                                                                           \
  MIQ_VECTORISED void scale_into(const float* x, float factor, std::int64_t dim, T* out) { scale_row(x, factor, dim, out); }
MIQ_ROWS(float)
MIQ_ROWS(at::BFloat16)
#undef MIQ_ROWS
MIQ_VECTORISED void bias_scores(float* scores, std::int64_t step, float bias, std::int64_t position, std::int64_t first, std::int64_t last) {
  add_distance(scores, step, bias, position, first, last);
}

// One of three heights, so that few queries cost little.
std::int64_t padded_rows(std::int64_t rows) { return rows <= 16 ? 16 : rows <= 32 ? 32 : kTile; }

// Columns of a chunk that are looked at, where `count` of them are there: one of a few widths.
std::int64_t padded_columns(std::int64_t count) { return std::min(kChunk, (count + 31) / 32 * 32); }

// c [m, n] = a [m, k] b [k, n] (+ c); rows lie lda, ldb, ldc apart.
template <class T>
void product(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t lda, std::int64_t ldb, std::int64_t ldc, bool add, const T* a, const T* b, float* c) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, add, a, b, c, /*is_vnni=*/kPair<T> == 2);
}

}  // namespace

template <class T>
void pack_into_chunk(const T* keys, std::int64_t k_stride, const T* values, std::int64_t v_stride, std::int64_t at, std::int64_t count,
                     std::int64_t dim, T* packed_keys, T* packed_values) {
  pack_chunk(keys, k_stride, values, v_stride, at, count, dim, packed_keys, packed_values);
}

template <class T>
TileScratch<T>::TileScratch(std::int64_t dim, std::int64_t chunks)
    : query(static_cast<size_t>(kTile * dim)),
      weights(static_cast<size_t>(kTile * kChunk * chunks)),
      scores(static_cast<size_t>(kTile * kChunk * chunks)),
      sums(static_cast<size_t>(kTile * dim)) {}

template <class T>
void attend_tile(const TileQueries<T>& q, std::int64_t begin, const std::vector<std::pair<const T*, const T*>>& chunks, TileScratch<T>& scratch) {
  const std::int64_t rows = std::min(kTile, q.rows() - begin), height = padded_rows(rows), step = height * kChunk, dim = q.dim;
  const auto position_of = [&](std::int64_t r) { return q.first_position + (begin + r) / q.group; };
  const std::int64_t lowest = q.window > 0 ? std::max<std::int64_t>(0, position_of(0) - q.window + 1) : 0;
  const std::int64_t c_begin = lowest / kChunk, c_end = position_of(rows - 1) / kChunk + 1;
  for (std::int64_t r = 0; r < rows; ++r)
    std::memcpy(scratch.query.data() + r * dim, q.query + (begin + r) / q.group * q.token_stride + (begin + r) % q.group * q.head_stride,
                static_cast<size_t>(dim) * sizeof(T));
  const std::int64_t last_columns = padded_columns(position_of(rows - 1) + 1 - (c_end - 1) * kChunk);
  const auto columns_of = [&](std::int64_t c) { return c + 1 < c_end ? kChunk : last_columns; };
  for (std::int64_t c = c_begin; c < c_end; ++c)
    product(height, columns_of(c), dim, dim, kChunk, kChunk, false, scratch.query.data(), chunks[static_cast<size_t>(c)].first,
            scratch.scores.data() + (c - c_begin) * step);
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  float sums[kTile];
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t position = position_of(r) - c_begin * kChunk;
    const std::int64_t first = q.window > 0 ? std::max<std::int64_t>(0, position - q.window + 1) : 0;
    // The bias is added behind the scale; scores are scaled with the softmax.
    if (q.slopes != nullptr)
      bias_scores(scratch.scores.data() + r * kChunk, step, q.slopes[(begin + r) % q.group] / scale, position, first, position + 1);
    sums[r] = softmax(scratch.scores.data() + r * kChunk, scratch.weights.data() + r * kChunk, step, c_end - c_begin, last_columns, first, position + 1,
                      scale);
  }
  for (std::int64_t c = c_begin; c < c_end; ++c)
    product(height, dim, columns_of(c), kChunk, dim, dim, c > c_begin, scratch.weights.data() + (c - c_begin) * step, chunks[static_cast<size_t>(c)].second,
            scratch.sums.data());
  for (std::int64_t r = 0; r < rows; ++r)
    scale_into(scratch.sums.data() + r * dim, 1.0f / sums[r], dim,
               q.out + (begin + r) / q.group * q.out_token_stride + (begin + r) % q.group * q.out_head_stride);
}

template <class T>
void release_tiles() {
  at::native::cpublas::brgemm_release(kPair<T> == 2);
}

#define MIQ_TILES(T)                                                                                                                       \
  template void pack_into_chunk(const T*, std::int64_t, const T*, std::int64_t, std::int64_t, std::int64_t, std::int64_t, T*, T*);         \
  template struct TileScratch<T>;                                                                                                          \
  template void attend_tile(const TileQueries<T>&, std::int64_t, const std::vector<std::pair<const T*, const T*>>&, TileScratch<T>&);      \
  template void release_tiles<T>();
MIQ_TILES(float)
MIQ_TILES(at::BFloat16)
#undef MIQ_TILES

}  // namespace miq::model::kernels
