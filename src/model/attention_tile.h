// The CPU kernel's heart: a tile of queries against chunks of keys and values, which may lie anywhere.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace miq::model::kernels {

/// Keys of a chunk. All products have few sizes, so that oneDNN compiles few kernels; ends are padded with zeros.
constexpr std::int64_t kChunk = 128;
constexpr std::int64_t kTile = 64;  ///< rows of a tile at most

/// Elements that a packed chunk of keys, or of values, takes.
inline std::int64_t packed_elements(std::int64_t dim) { return kChunk * dim; }

/// Keys and values [count, D] (unit stride in D, rows `k_stride` and `v_stride` apart) as tokens `at` .. `at` + count of a packed
/// chunk, whose other tokens stay. Keys stand as [D / pair][kChunk][pair], values as [kChunk / pair][D][pair]: right factors of a
/// product; pair is 2 for bfloat16 (two products per instruction), 1 for float32.
template <class T>
void pack_into_chunk(const T* keys, std::int64_t k_stride, const T* values, std::int64_t v_stride, std::int64_t at, std::int64_t count,
                     std::int64_t dim, T* packed_keys, T* packed_values);

/// The queries of one kv head in one text: rows are its tokens, and for each token `group` query heads.
template <class T>
struct TileQueries {
  const T* query;
  std::int64_t token_stride, head_stride;  ///< of the queries
  T* out;
  std::int64_t out_token_stride, out_head_stride;
  std::int64_t tokens, group;
  std::int64_t first_position;             ///< of token 0
  std::int64_t dim, window;                ///< window: 0, or how many positions a query sees
  const float* slopes;                     ///< ALiBi's, of the `group` heads; or null
  std::int64_t rows() const { return tokens * group; }
};

/// Scratch of one thread for tiles of up to `chunks` chunks.
template <class T>
struct TileScratch {
  TileScratch(std::int64_t dim, std::int64_t chunks);
  std::vector<T> query, weights;
  std::vector<float> scores, sums;
};

/// softmax(q k^T / sqrt(D) + mask) v for rows begin .. begin + kTile of `queries`. `chunks`: packed keys and values of positions
/// kChunk * c .. of the text, for all c up to the last row's position. A row's result does not depend on the other rows.
template <class T>
void attend_tile(const TileQueries<T>& queries, std::int64_t begin, const std::vector<std::pair<const T*, const T*>>& chunks, TileScratch<T>& scratch);

/// Frees what oneDNN keeps for the products of this thread.
template <class T>
void release_tiles();

}  // namespace miq::model::kernels
