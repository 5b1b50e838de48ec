// Causal attention of many queries on a CPU.
#pragma once

#include <ATen/core/Tensor.h>

namespace miq::model::kernels {

/// Whether causal_attention() runs on these: a CPU with AVX-512 (for bfloat16 also AVX512_BF16).
/// float16 and other CPUs are left to LibTorch's scaled_dot_product_attention.
bool has_causal_attention(const at::Tensor& query);

/// softmax(q k^T / sqrt(D) + mask) v for query [B, N, T, D] at the last T of the S positions of key
/// and value [B, K, S, D]; query head n reads kv head n / (N / K). Position i sees j <= i and, with a
/// window, i - j < window. Unit stride in D. Scores, softmax and sums are float32.
/// Returns [B, T, N * D], contiguous, in the query's type. LibTorch's own kernel multiplies through a
/// BLAS that is slow on AMD; this one takes oneDNN's small products.
at::Tensor causal_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            std::int64_t window);

}  // namespace miq::model::kernels
