#include "miq/model/block.h"

#include "device_kernels.h"
#include "kernels.h"
#include "miq/core/error.h"

namespace miq::model {
namespace {

Linear make_linear(std::string name, std::int64_t out_features, std::int64_t in_features, bool biased) {
  Linear linear;
  linear.name = std::move(name);
  linear.out_features = out_features;
  linear.in_features = in_features;
  linear.biased = biased;
  return linear;
}

Mlp make_mlp(const Architecture& a, const std::string& prefix, const std::string& gate, const std::string& up,
             const std::string& down, std::int64_t inner) {
  Mlp mlp;
  if (a.fused_gate_up()) {
    mlp.gate_up = make_linear(prefix + a.names.gate_up, 2 * inner, a.hidden_size, a.mlp_bias);
  } else {
    mlp.gate = make_linear(prefix + gate, inner, a.hidden_size, a.mlp_bias);
    mlp.up = make_linear(prefix + up, inner, a.hidden_size, a.mlp_bias);
  }
  mlp.down = make_linear(prefix + down, a.hidden_size, inner, a.mlp_bias);
  return mlp;
}

at::Tensor activate(const Mlp& mlp, const at::Tensor& x) {
  if (!mlp.gate_up.exists()) {
    const std::vector<at::Tensor> both = forward_many({&mlp.gate, &mlp.up}, x);
    return kernels::silu_mul(both[0], both[1]);
  }
  const at::Tensor both = mlp.gate_up.forward(x);
  const std::int64_t inner = mlp.down.in_features;
  return kernels::silu_mul(both.narrow(-1, 0, inner), both.narrow(-1, inner, inner));
}

kernels::Rotation rotation_at(const RopeTable& rope, std::int64_t position) {
  if (!rope.cos_PD().defined()) return {};
  if (position >= rope.positions()) throw Error(ErrorKind::internal, "the rotary table ends at position " + std::to_string(rope.positions()));
  const std::int64_t half = rope.cos_PD().size(1);
  return {rope.cos_PD().const_data_ptr<float>() + position * half, rope.sin_PD().const_data_ptr<float>() + position * half, half, rope.interleaved()};
}

}  // namespace

std::vector<NormPlace> norm_places(const Architecture& a, std::int64_t layer) {
  const BlockNames& n = a.names;
  std::vector<NormPlace> places = {{n.input_norm, &Block::input_norm_H, a.hidden_size},
                                   {n.post_attention_norm, &Block::post_attention_norm_H, a.hidden_size}};
  if (a.qk_norm) {
    places.push_back({n.q_norm, &Block::q_norm_D, a.head_dim});
    places.push_back({n.k_norm, &Block::k_norm_D, a.head_dim});
  }
  if (!n.attention_out_norm.empty())
    places.push_back({n.attention_out_norm, &Block::attention_out_norm_H, a.hidden_size});
  if (!n.mlp_out_norm.empty()) places.push_back({n.mlp_out_norm, &Block::mlp_out_norm_H, a.hidden_size});
  for (NormPlace& place : places) place.name = a.block_name(layer) + place.name + ".weight";
  return places;
}

Block::Block(std::shared_ptr<const Architecture> architecture, std::int64_t layer)
    : architecture_(std::move(architecture)), layer_(layer) {
  const Architecture& a = *architecture_;
  const BlockNames& n = a.names;
  const std::string prefix = a.block_name(layer);
  if (a.fused_qkv()) {
    qkv = make_linear(prefix + n.qkv, a.q_size() + 2 * a.kv_size(), a.hidden_size, a.qkv_bias);
  } else {
    q = make_linear(prefix + n.q, a.q_size(), a.hidden_size, a.qkv_bias);
    k = make_linear(prefix + n.k, a.kv_size(), a.hidden_size, a.qkv_bias);
    v = make_linear(prefix + n.v, a.kv_size(), a.hidden_size, a.qkv_bias);
  }
  o = make_linear(prefix + n.o, a.hidden_size, a.q_size(), a.o_bias);
  if (!a.is_sparse(layer)) {
    mlps.push_back(make_mlp(a, prefix, n.gate, n.up, n.down, a.intermediate_size));
    return;
  }
  for (std::int64_t e = 0; e < a.experts.count; ++e)
    mlps.push_back(make_mlp(a, prefix + n.expert + std::to_string(e) + ".", n.expert_gate, n.expert_up, n.expert_down,
                            a.experts.intermediate_size));
}

std::vector<std::vector<Linear*>> Block::groups(std::int64_t stage) {
  std::vector<std::vector<Linear*>> result;
  const auto add = [&](std::initializer_list<Linear*> linears) {
    result.emplace_back();
    for (Linear* linear : linears)
      if (linear->exists()) result.back().push_back(linear);
  };
  switch (stage) {
    case kQkv:
      add({&q, &k, &v, &qkv});
      break;
    case kOut:
      add({&o});
      break;
    case kGateUp:
      for (Mlp& mlp : mlps) add({&mlp.gate, &mlp.up, &mlp.gate_up});
      break;
    case kDown:
      for (Mlp& mlp : mlps) add({&mlp.down});
      break;
    default:
      throw Error(ErrorKind::internal, "a block has no stage " + std::to_string(stage));
  }
  return result;
}

std::vector<Linear*> Block::stage(std::int64_t stage) {
  std::vector<Linear*> result;
  for (const auto& group : groups(stage)) result.insert(result.end(), group.begin(), group.end());
  return result;
}

std::vector<Linear*> Block::linears() {
  std::vector<Linear*> result;
  for (std::int64_t s = 0; s < num_stages(); ++s)
    for (Linear* linear : stage(s)) result.push_back(linear);
  return result;
}

void Block::begin_stage(std::int64_t stage, BlockState& state, at::ScalarType compute_dtype) const {
  if (!follows_norm(stage)) return;
  const at::Tensor& norm = stage == kQkv ? input_norm_H : post_attention_norm_H;
  const at::Tensor x = kernels::rms_norm(state.hidden_BTH, norm, architecture_->rms_norm_eps, compute_dtype);
  if (stage == kQkv || !router_EH.defined()) {
    state.x = {x};
    return;
  }
  const at::Tensor rows = x.view({-1, x.size(-1)});
  state.routing = route(rows, router_EH, architecture_->experts);
  state.x.clear();
  for (const at::Tensor& tokens : state.routing.tokens) state.x.push_back(rows.index_select(0, tokens));
}

void Block::add_to_residual(at::Tensor& hidden, const at::Tensor& y, const at::Tensor& norm_H) const {
  kernels::add_to(hidden, norm_H.defined() ? kernels::rms_norm(y, norm_H, architecture_->rms_norm_eps, y.scalar_type()) : y);
}

void Block::end_stage(std::int64_t stage, BlockState& state, const RopeTable& rope, KvCache* cache) const {
  switch (stage) {
    case kQkv:
      state.x = {attend(state.x.front(), rope, cache)};
      return;
    case kOut:
      add_to_residual(state.hidden_BTH, o.forward(state.x.front()), attention_out_norm_H);
      break;
    case kGateUp:
    {
      std::vector<at::Tensor> inner;
      for (size_t m = 0; m < mlps.size(); ++m)
        inner.push_back(state.x[m].numel() > 0 ? activate(mlps[m], state.x[m]) : state.x[m].new_empty({0, mlps[m].down.in_features}));
      state.x = std::move(inner);
      return;
    }
    case kDown:
      if (!router_EH.defined()) {
        add_to_residual(state.hidden_BTH, mlps.front().down.forward(state.x.front()), mlp_out_norm_H);
        break;
      }
      {
        at::Tensor sum = at::zeros_like(state.hidden_BTH);
        at::Tensor rows = sum.view({-1, sum.size(-1)});
        for (size_t e = 0; e < mlps.size(); ++e)
          if (state.x[e].numel() > 0)
            rows.index_add_(0, state.routing.tokens[e],
                            mlps[e].down.forward(state.x[e]).narrow(0, 0, state.routing.tokens[e].size(0)).to(at::kFloat) * state.routing.weights[e].unsqueeze(1));
        add_to_residual(state.hidden_BTH, sum, mlp_out_norm_H);
      }
      state.routing = {};
      break;
    default:
      throw Error(ErrorKind::internal, "a block has no stage " + std::to_string(stage));
  }
  state.x.clear();
}

Block::Heads Block::project(const at::Tensor& x) const {
  const Architecture& a = *architecture_;
  const auto heads = [&](const at::Tensor& y, std::int64_t count, const at::Tensor& norm_D) {
    const at::Tensor split = y.view({y.size(0), y.size(1), count, a.head_dim});
    return norm_D.defined() ? kernels::rms_norm(split, norm_D, a.rms_norm_eps, split.scalar_type()) : split;
  };
  if (qkv.exists()) {
    const at::Tensor all = qkv.forward(x);
    return {heads(all.narrow(2, 0, a.q_size()), a.num_heads, q_norm_D), heads(all.narrow(2, a.q_size(), a.kv_size()), a.num_kv_heads, k_norm_D),
            heads(all.narrow(2, a.q_size() + a.kv_size(), a.kv_size()), a.num_kv_heads, {})};
  }
  const std::vector<at::Tensor> all = forward_many({&q, &k, &v}, x);
  return {heads(all[0], a.num_heads, q_norm_D), heads(all[1], a.num_kv_heads, k_norm_D), heads(all[2], a.num_kv_heads, {})};
}

AttentionMask Block::mask(const RopeTable& rope) const {
  const auto& windows = architecture_->sliding_window;
  return {windows.empty() ? 0 : windows[static_cast<size_t>(layer_)], rope.alibi_slopes_N()};
}

at::Tensor Block::attend(const at::Tensor& x, const RopeTable& rope, KvCache* cache) const {
  auto [query, key, value] = project(x);
  const std::int64_t past = cache ? cache->length() : 0;
  if (cache && kernels::has_decode_attention(query)) {
    const auto [keys, values] = cache->reserve(layer_, 1, {key.size(0), key.size(2), key.size(3)}, key.options());
    return kernels::decode_attention(query, key, value, rotation_at(rope, past), keys, values, past, mask(rope));
  }
  if (cache && query.size(1) == 1 && kernels::has_device_kernels(query)) {
    const auto [keys, values] = cache->reserve(layer_, 1, {key.size(0), key.size(2), key.size(3)}, key.options());
    return kernels::device_decode_attention(query, key, value, rope.cos_PD(), rope.sin_PD(), rope.interleaved(), keys, values, cache->length_on(query.device()), mask(rope));
  }
  query = rope.rotate(query.transpose(1, 2), past);
  key = rope.rotate(key.transpose(1, 2), past);
  value = value.transpose(1, 2);
  if (cache) std::tie(key, value) = cache->append(layer_, key, value);
  return attention(query, key, value, mask(rope));
}

at::Tensor Block::attend(const at::Tensor& x, const RopeTable& rope, const std::vector<Segment>& segments, TextCache& cache) const {
  const Heads heads = project(x);
  const at::Tensor positions_N = at::tensor(positions_of(cache, segments, x.size(1)), at::kLong);
  const auto rotated = [&](const at::Tensor& y) { return rope.rotate_at(y.transpose(1, 2), positions_N).squeeze(0).transpose(0, 1); };
  return cache.attend(rotated(heads.query), rotated(heads.key), heads.value.squeeze(0), segments, mask(rope)).unsqueeze(0);
}

at::Tensor Block::forward(const at::Tensor& hidden_BTH, at::ScalarType compute_dtype, const RopeTable& rope,
                          KvCache* cache) const {
  BlockState state{hidden_BTH.clone(), {}, {}};
  for (std::int64_t s = 0; s < num_stages(); ++s) {
    begin_stage(s, state, compute_dtype);
    end_stage(s, state, rope, cache);
  }
  return state.hidden_BTH;
}

at::Tensor Block::forward(at::Tensor hidden_NH, at::ScalarType compute_dtype, const RopeTable& rope, const std::vector<Segment>& segments,
                          TextCache& cache, const at::Tensor& wanted_R, std::int64_t least_rows) const {
  BlockState state{hidden_NH.unsqueeze(0), {}, {}};
  for (std::int64_t s = 0; s < num_stages(); ++s) {
    begin_stage(s, state, compute_dtype);
    if (s == kGateUp && router_EH.defined())
      for (at::Tensor& x : state.x)
        if (const std::int64_t rows = x.size(0); rows > 0 && rows < least_rows) x = at::cat({x, x.new_zeros({least_rows - rows, x.size(1)})});
    if (s != kQkv) {
      end_stage(s, state, rope);
      continue;
    }
    state.x = {attend(state.x.front(), rope, segments, cache)};
    if (!wanted_R.defined()) continue;
    // What follows is row by row.
    state.x.front() = state.x.front().index_select(1, wanted_R);
    state.hidden_BTH = state.hidden_BTH.index_select(1, wanted_R);
  }
  return state.hidden_BTH.squeeze(0);
}

}  // namespace miq::model
