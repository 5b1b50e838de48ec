// attention() of many queries on a CPU: tiles of queries against chunks of keys.
#include "attention.h"

#include <ATen/Parallel.h>

#include "attention_tile.h"
#include "miq/core/device.h"

namespace miq::model::kernels {
namespace {

template <class T>
void attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const AttentionMask& mask, T* out) {
  const std::int64_t batch = query.size(0), heads = query.size(1), kv_heads = key.size(1), tokens = query.size(2), total = key.size(2), dim = query.size(3);
  const float* const slopes = mask.alibi_slopes_N.defined() ? mask.alibi_slopes_N.const_data_ptr<float>() : nullptr;
  const std::int64_t chunks = (total + kChunk - 1) / kChunk, piece = packed_elements(dim), kv = batch * kv_heads;
  const at::Tensor packed = at::empty({2, kv, chunks, piece}, key.options());
  if (total % kChunk != 0) packed.select(2, chunks - 1).zero_();  // what is packed there counts with weight 0, but must be a number
  T* const packed_k = packed.mutable_data_ptr<T>();
  T* const packed_v = packed_k + kv * chunks * piece;
  at::parallel_for(0, kv * chunks, 1, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t i = from; i < to; ++i) {
      const std::int64_t begin = i % chunks * kChunk, head = i / chunks % kv_heads, b = i / chunks / kv_heads;
      const auto rows = [&](const at::Tensor& t) { return t.const_data_ptr<T>() + b * t.stride(0) + head * t.stride(1) + begin * t.stride(2); };
      pack_into_chunk(rows(key), key.stride(2), rows(value), value.stride(2), 0, std::min(kChunk, total - begin), dim, packed_k + i * piece,
                      packed_v + i * piece);
    }
  });
  const std::int64_t tiles = (tokens + kTile - 1) / kTile, repeats = heads / kv_heads;
  const std::int64_t width = heads * dim, pairs = batch * heads;
  at::parallel_for(0, pairs * tiles, 1, [&](std::int64_t from, std::int64_t to) {
    TileScratch<T> scratch(dim, chunks);
    std::vector<std::pair<const T*, const T*>> places(static_cast<size_t>(chunks));
    for (std::int64_t i = from; i < to; ++i) {
      // Heads fastest: each thread gets early (cheap) and late (dear) tiles only if tiles alternate.
      const std::int64_t pair = i % pairs, slot = i / pairs;
      const std::int64_t tile = slot % 2 == 0 ? slot / 2 : tiles - 1 - slot / 2;
      const std::int64_t b = pair / heads, n = pair % heads, offset = (b * kv_heads + n / repeats) * chunks * piece;
      for (std::int64_t c = 0; c < chunks; ++c) places[static_cast<size_t>(c)] = {packed_k + offset + c * piece, packed_v + offset + c * piece};
      const TileQueries<T> queries{query.const_data_ptr<T>() + b * query.stride(0) + n * query.stride(1), query.stride(2), 0,
                                   out + b * tokens * width + n * dim, width, 0, tokens, /*group=*/1, total - tokens, dim, mask.window,
                                   slopes != nullptr ? slopes + n : nullptr};
      attend_tile(queries, tile * kTile, places, scratch);
    }
    release_tiles<T>();
  });
}

}  // namespace

bool has_causal_attention(const at::Tensor& query) { return query.is_cpu() && has_attention_tiles(query.scalar_type()); }

bool has_attention_tiles(at::ScalarType dtype) {
#if defined(__x86_64__)
  if (dtype == at::kBFloat16) return has_fast_bfloat16(at::kCPU);
  return dtype == at::kFloat && __builtin_cpu_supports("avx512f");
#else
  return false;
#endif
}

at::Tensor causal_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const AttentionMask& mask) {
  at::Tensor out = at::empty({query.size(0), query.size(2), query.size(1) * query.size(3)}, query.options());
  if (query.scalar_type() == at::kFloat)
    attend<float>(query, key, value, mask, out.mutable_data_ptr<float>());
  else
    attend<at::BFloat16>(query, key, value, mask, out.mutable_data_ptr<at::BFloat16>());
  return out;
}

}  // namespace miq::model::kernels
