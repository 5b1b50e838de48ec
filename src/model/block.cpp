#include "miq/model/block.h"

#include <cmath>

#include "attention.h"
#include "kernels.h"
#include "miq/core/error.h"

namespace miq::model {
namespace {

enum Stage : std::int64_t { kQkv, kOut, kGateUp, kDown };

// Additive mask [T, S] of the last T of S positions; window 0 = unlimited.
at::Tensor causal_mask(std::int64_t tokens, std::int64_t total, std::int64_t window, const at::TensorOptions& options) {
  const at::Tensor query = at::arange(total - tokens, total, options.dtype(at::kLong)).unsqueeze(1);
  const at::Tensor key = at::arange(total, options.dtype(at::kLong)).unsqueeze(0);
  at::Tensor blocked = key > query;
  if (window > 0) blocked = blocked.logical_or(query - key >= window);
  return at::zeros({tokens, total}, options).masked_fill_(blocked, -INFINITY);
}

// One query [B, N, 1, D] that sees all of the keys and values [B, K, S, D] in the window. The query
// heads of one kv head stand as its rows, so that keys and values are not repeated.
at::Tensor attend_one(const at::Tensor& query, at::Tensor key, at::Tensor value, std::int64_t window) {
  const std::int64_t total = key.size(2), kv_heads = key.size(1), dim = query.size(3), width = query.size(1) * dim;
  if (window > 0 && total > window) {
    key = key.narrow(2, total - window, window);
    value = value.narrow(2, total - window, window);
  }
  const at::Tensor rows = query.reshape({query.size(0), kv_heads, query.size(1) / kv_heads, dim});
  return at::scaled_dot_product_attention(rows, key, value).reshape({query.size(0), 1, width});
}

// Queries [B, N, T, D] at the end of the keys' and values' S positions, on any device.
at::Tensor attend_many(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, std::int64_t window) {
  const std::int64_t tokens = query.size(2), total = key.size(2), repeats = query.size(1) / key.size(1);
  const auto repeat = [&](const at::Tensor& t) { return repeats == 1 ? t : t.repeat_interleave(repeats, 1); };
  std::optional<at::Tensor> mask;
  if ((window > 0 && total > window) || total > tokens) mask = causal_mask(tokens, total, window, query.options());
  const at::Tensor context =
      at::scaled_dot_product_attention(query, repeat(key), repeat(value), mask, 0.0, /*is_causal=*/!mask);
  return context.transpose(1, 2).reshape({query.size(0), tokens, query.size(1) * query.size(3)});
}

}  // namespace

Block::Block(std::shared_ptr<const Architecture> architecture, std::int64_t layer)
    : architecture_(std::move(architecture)),
      layer_(layer),
      stages_{{&Block::q, &Block::k, &Block::v}, {&Block::o}, {&Block::gate, &Block::up}, {&Block::down}} {}

std::vector<Linear*> Block::stage(std::int64_t stage) {
  std::vector<Linear*> result;
  for (Linear Block::*member : stages_.at(static_cast<size_t>(stage))) result.push_back(&(this->*member));
  return result;
}

std::vector<Linear*> Block::linears() {
  std::vector<Linear*> result;
  for (std::int64_t s = 0; s < num_stages(); ++s)
    for (Linear* linear : stage(s)) result.push_back(linear);
  return result;
}

void Block::begin_stage(std::int64_t stage, BlockState& state, at::ScalarType compute_dtype) const {
  if (stage == kQkv)
    state.x = kernels::rms_norm(state.hidden_BTH, input_norm_H, architecture_->rms_norm_eps, compute_dtype);
  if (stage == kGateUp)
    state.x = kernels::rms_norm(state.hidden_BTH, post_attention_norm_H, architecture_->rms_norm_eps, compute_dtype);
}

void Block::end_stage(std::int64_t stage, BlockState& state, const RopeTable& rope, KvCache* cache) const {
  switch (stage) {
    case kQkv:
      state.x = attend(state, rope, cache);
      return;
    case kOut:
      kernels::add_to(state.hidden_BTH, o.forward(state.x));
      break;
    case kGateUp:
      state.x = kernels::silu_mul(gate.forward(state.x), up.forward(state.x));
      return;
    case kDown:
      kernels::add_to(state.hidden_BTH, down.forward(state.x));
      break;
    default:
      throw Error(ErrorKind::internal, "a block has no stage " + std::to_string(stage));
  }
  state.x = at::Tensor();
}

at::Tensor Block::attend(const BlockState& state, const RopeTable& rope, KvCache* cache) const {
  const Architecture& a = *architecture_;
  const auto heads = [&](const Linear& linear, std::int64_t count, const at::Tensor& norm_D) {
    at::Tensor x = linear.forward(state.x).view({state.x.size(0), state.x.size(1), count, a.head_dim});
    if (norm_D.defined()) x = kernels::rms_norm(x, norm_D, a.rms_norm_eps, x.scalar_type());
    return x.transpose(1, 2);
  };
  at::Tensor query = heads(q, a.num_heads, q_norm_D);
  at::Tensor key = heads(k, a.num_kv_heads, k_norm_D);
  at::Tensor value = heads(v, a.num_kv_heads, {});
  const std::int64_t past = cache ? cache->length() : 0, tokens = query.size(2);
  query = rope.rotate(query, past);
  key = rope.rotate(key, past);
  if (cache) std::tie(key, value) = cache->append(layer_, key, value);
  const std::int64_t window = a.sliding_window.empty() ? 0 : a.sliding_window[static_cast<size_t>(layer_)];
  if (tokens == 1) return attend_one(query, key, value, window);
  if (kernels::has_causal_attention(query)) return kernels::causal_attention(query, key, value, window);
  return attend_many(query, key, value, window);
}

at::Tensor Block::forward(const at::Tensor& hidden_BTH, at::ScalarType compute_dtype, const RopeTable& rope,
                          KvCache* cache) const {
  BlockState state{hidden_BTH.clone(), {}};
  for (std::int64_t s = 0; s < num_stages(); ++s) {
    begin_stage(s, state, compute_dtype);
    end_stage(s, state, rope, cache);
  }
  return state.hidden_BTH;
}

}  // namespace miq::model
