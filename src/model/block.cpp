#include "miq/model/block.h"

#include <cmath>

#include "kernels.h"
#include "miq/core/error.h"

namespace miq::model {
namespace {

enum Stage : std::int64_t { kQkv, kOut, kGateUp, kDown };

// [B, T, N * D] -> [B, N, T, D], a view.
at::Tensor split_heads(const at::Tensor& x, std::int64_t heads, std::int64_t head_dim) {
  return x.view({x.size(0), x.size(1), heads, head_dim}).transpose(1, 2);
}

// Additive mask [T, S] of the last T of S positions; window 0 = unlimited.
at::Tensor causal_mask(std::int64_t tokens, std::int64_t total, std::int64_t window, const at::TensorOptions& options) {
  const at::Tensor query = at::arange(total - tokens, total, options.dtype(at::kLong)).unsqueeze(1);
  const at::Tensor key = at::arange(total, options.dtype(at::kLong)).unsqueeze(0);
  at::Tensor blocked = key > query;
  if (window > 0) blocked = blocked.logical_or(query - key >= window);
  return at::zeros({tokens, total}, options).masked_fill_(blocked, -INFINITY);
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
  if (stage == kQkv) state.x = kernels::rms_norm(state.hidden_BTH, input_norm_H, architecture_->rms_norm_eps, compute_dtype);
  if (stage == kGateUp)
    state.x = kernels::rms_norm(state.hidden_BTH, post_attention_norm_H, architecture_->rms_norm_eps, compute_dtype);
}

void Block::end_stage(std::int64_t stage, BlockState& state, const RopeTable& rope, KvCache* cache) const {
  switch (stage) {
    case kQkv: state.x = attend(state, rope, cache); return;
    case kOut: kernels::add_to(state.hidden_BTH, o.forward(state.x)); break;
    case kGateUp: state.x = kernels::silu_mul(gate.forward(state.x), up.forward(state.x)); return;
    case kDown: kernels::add_to(state.hidden_BTH, down.forward(state.x)); break;
    default: throw Error(ErrorKind::internal, "a block has no stage " + std::to_string(stage));
  }
  state.x = at::Tensor();
}

at::Tensor Block::attend(const BlockState& state, const RopeTable& rope, KvCache* cache) const {
  const Architecture& a = *architecture_;
  at::Tensor query = split_heads(q.forward(state.x), a.num_heads, a.head_dim);
  at::Tensor key = split_heads(k.forward(state.x), a.num_kv_heads, a.head_dim);
  at::Tensor value = split_heads(v.forward(state.x), a.num_kv_heads, a.head_dim);
  if (a.qk_norm) {
    query = kernels::rms_norm(query, q_norm_D, a.rms_norm_eps, query.scalar_type());
    key = kernels::rms_norm(key, k_norm_D, a.rms_norm_eps, key.scalar_type());
  }
  const std::int64_t past = cache ? cache->length() : 0, tokens = query.size(2);
  query = rope.rotate(query, past);
  key = rope.rotate(key, past);
  if (cache) std::tie(key, value) = cache->append(layer_, key, value);
  const std::int64_t total = key.size(2);
  if (a.num_kv_heads != a.num_heads) {
    // Query head h reads kv head h / repeats: expanded views, the CPU's flash kernel takes strides.
    const std::int64_t repeats = a.num_heads / a.num_kv_heads;
    const auto repeat = [&](const at::Tensor& t) {
      return t.unsqueeze(2).expand({t.size(0), t.size(1), repeats, total, a.head_dim}).reshape({t.size(0), a.num_heads, total, a.head_dim});
    };
    key = repeat(key);
    value = repeat(value);
  }
  const std::int64_t window = a.sliding_window.empty() ? 0 : a.sliding_window[static_cast<size_t>(layer_)];
  const bool windowed = window > 0 && total > window;
  std::optional<at::Tensor> mask;
  if (windowed || (past > 0 && tokens > 1)) mask = causal_mask(tokens, total, window, query.options());
  const at::Tensor context =
      at::scaled_dot_product_attention(query, key, value, mask, 0.0, /*is_causal=*/!mask && tokens > 1);
  return context.transpose(1, 2).reshape({query.size(0), tokens, a.num_heads * a.head_dim});
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
