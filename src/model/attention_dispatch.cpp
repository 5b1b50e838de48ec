// attention() by the number of queries and what the device has.
#include <ATen/ATen.h>

#include <cmath>

#include "attention.h"

namespace miq::model {
namespace {

// Positions of keys minus those of the last T of S positions, int64 [T, S].
at::Tensor distances(std::int64_t tokens, std::int64_t total, const at::Device& device) {
  const auto options = at::TensorOptions().dtype(at::kLong).device(device);
  return at::arange(total, options).unsqueeze(0) - at::arange(total - tokens, total, options).unsqueeze(1);
}

// ALiBi's bias [N, T, S] in the type of `like`.
at::Tensor alibi_bias(const at::Tensor& slopes_N, const at::Tensor& distance_TS, const at::Tensor& like) {
  return (slopes_N.to(like.device()).view({-1, 1, 1}) * distance_TS.to(at::kFloat)).to(like.scalar_type());
}

// Additive mask [T, S] or [N, T, S].
at::Tensor additive_mask(const at::Tensor& query, std::int64_t total, const AttentionMask& mask) {
  const at::Tensor distance = distances(query.size(2), total, query.device());
  at::Tensor blocked = distance > 0;
  if (mask.window > 0) blocked = blocked.logical_or(distance <= -mask.window);
  const at::Tensor bias = mask.alibi_slopes_N.defined() ? alibi_bias(mask.alibi_slopes_N, distance, query)
                                                        : at::zeros(distance.sizes(), query.options());
  return bias.masked_fill(blocked, -INFINITY);
}

// One query [B, N, 1, D] that sees all of the keys and values [B, K, S, D] in the window. The query
// heads of one kv head stand as its rows, so that keys and values are not repeated.
at::Tensor attend_one(const at::Tensor& query, at::Tensor key, at::Tensor value, const AttentionMask& mask) {
  const std::int64_t kv_heads = key.size(1), dim = query.size(3), width = query.size(1) * dim;
  if (const std::int64_t total = key.size(2); mask.window > 0 && total > mask.window) {
    key = key.narrow(2, total - mask.window, mask.window);
    value = value.narrow(2, total - mask.window, mask.window);
  }
  const at::Tensor rows = query.reshape({query.size(0), kv_heads, query.size(1) / kv_heads, dim});
  std::optional<at::Tensor> bias;
  if (mask.alibi_slopes_N.defined())
    bias = alibi_bias(mask.alibi_slopes_N, distances(1, key.size(2), query.device()), query)
               .view({1, kv_heads, query.size(1) / kv_heads, key.size(2)});
  return at::scaled_dot_product_attention(rows, key, value, bias).reshape({query.size(0), 1, width});
}

// Queries [B, N, T, D] at the end of the keys' and values' S positions, on any device.
at::Tensor attend_many(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const AttentionMask& mask) {
  const std::int64_t tokens = query.size(2), total = key.size(2), repeats = query.size(1) / key.size(1);
  const auto repeat = [&](const at::Tensor& t) { return repeats == 1 ? t : t.repeat_interleave(repeats, 1); };
  std::optional<at::Tensor> additive;
  if ((mask.window > 0 && total > mask.window) || total > tokens || mask.alibi_slopes_N.defined())
    additive = additive_mask(query, total, mask);
  const at::Tensor context =
      at::scaled_dot_product_attention(query, repeat(key), repeat(value), additive, 0.0, /*is_causal=*/!additive);
  return context.transpose(1, 2).reshape({query.size(0), tokens, query.size(1) * query.size(3)});
}

}  // namespace

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const AttentionMask& mask) {
  if (query.size(2) == 1) return attend_one(query, key, value, mask);
  if (kernels::has_causal_attention(query)) return kernels::causal_attention(query, key, value, mask);
  return attend_many(query, key, value, mask);
}

}  // namespace miq::model
