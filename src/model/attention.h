// Causal attention.
#pragma once

#include "miq/model/attention_mask.h"

namespace miq::model {

/// softmax(q k^T / sqrt(D) + mask) v for query [B, N, T, D] at the last T of the S positions of key and
/// value [B, K, S, D]; query head n reads kv head n / (N / K). Unit stride in D.
/// Returns [B, T, N * D] in the query's type.
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const AttentionMask& mask);

namespace kernels {

/// Whether causal_attention() runs on these: a CPU with AVX-512 (for bfloat16 also AVX512_BF16).
/// float16 and other CPUs are left to LibTorch's scaled_dot_product_attention.
bool has_causal_attention(const at::Tensor& query);
bool has_attention_tiles(at::ScalarType dtype);  ///< the same of a type, on a CPU

/// attention() of many queries on a CPU. Scores, softmax and sums are float32. LibTorch's own kernel
/// multiplies through a BLAS that is slow on AMD; this one takes oneDNN's small products.
at::Tensor causal_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const AttentionMask& mask);

/// Rotary embedding at one position: cos and sin [half]; half 0: none.
struct Rotation {
  const float* cos = nullptr;
  const float* sin = nullptr;
  std::int64_t half = 0;
  bool interleaved = false;
};

/// Whether decode_attention() takes a query [B, T, N, D]: one token on a CPU.
bool has_decode_attention(const at::Tensor& query);

/// attention() of one new token: query [B, 1, N, D], key and value [B, 1, K, D] before rotation, unit stride
/// in D. Key and value are written behind the first `past` tokens of the cache's buffers [B, K, capacity, D].
at::Tensor decode_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const Rotation& rotation, at::Tensor& keys,
                            at::Tensor& values, std::int64_t past, const AttentionMask& mask);

}  // namespace kernels
}  // namespace miq::model
