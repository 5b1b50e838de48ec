#include "distill.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "miq/quantizer/range.h"

namespace miq::executor {
namespace {

using Weights = std::map<std::string, at::Tensor>;

// Nearest values of a weight on its grid.
at::Tensor rounded(const at::Tensor& weight_OI, const quantizer::LayerRecipe& recipe) {
  quantizer::Range range = recipe.range;
  if (range.kind == quantizer::RangeKind::awq_clip) range.kind = quantizer::RangeKind::min_max;
  const at::Tensor plain = weight_OI.detach().contiguous();
  const quantizer::GridParams params = fit_grid(plain, recipe.grid, range);
  return values_of_codes(nearest_codes(plain, recipe.grid, params), recipe.grid, params);
}

at::Tensor straight_through(const at::Tensor& x, const at::Tensor& value) { return x + (value - x).detach(); }

// The decoder block in LibTorch's own operations, which autograd follows; model::Block's fused ones do
// not. Weights by name; rounds weights and inputs of linears that have a recipe when `quantized`.
class Differentiable {
 public:
  Differentiable(const model::Block& block, const model::Architecture& a, const std::vector<TrainedLinear>& linears, const model::RopeTable& rope)
      : block_(block), a_(a), interleaved_(rope.interleaved()) {
    if (rope.cos_PD().defined()) {
      cos_ = rope.cos_PD().clone();
      sin_ = rope.sin_PD().clone();
    }
    if (rope.alibi_slopes_N().defined()) slopes_ = rope.alibi_slopes_N().clone();
    for (const TrainedLinear& entry : linears) recipes_[entry.linear->name] = entry.recipe;
  }

  at::Tensor forward(const at::Tensor& hidden, const Weights& weights, bool quantized) const {
    const auto linear = [&](const model::Linear& l, const at::Tensor& x) {
      const quantizer::LayerRecipe* recipe = quantized ? recipes_.at(l.name) : nullptr;
      at::Tensor weight = weights.at(l.name), input = x;
      if (recipe != nullptr) {
        weight = straight_through(weight, rounded(weight, *recipe));
        quantizer::Activation activation = recipe->activation;
        activation.dynamic = true;  // a static range is not known yet
        if (activation.enabled()) input = straight_through(x, fake_quantize(x.detach(), activation, {}));
      }
      const at::Tensor y = at::matmul(input, weight.t());
      return l.bias_O.defined() ? y + l.bias_O.to(at::kFloat).clone() : y;
    };
    const at::Tensor x = norm(hidden, block_.input_norm_H);
    const std::int64_t q = a_.q_size(), kv = a_.kv_size();
    std::vector<at::Tensor> qkv;
    if (block_.qkv.exists()) qkv = linear(block_.qkv, x).split_with_sizes({q, kv, kv}, -1);
    else qkv = {linear(block_.q, x), linear(block_.k, x), linear(block_.v, x)};
    const at::Tensor context = attend(heads(qkv[0], a_.num_heads, block_.q_norm_D), heads(qkv[1], a_.num_kv_heads, block_.k_norm_D), heads(qkv[2], a_.num_kv_heads, {}));
    const at::Tensor middle = hidden + out_norm(linear(block_.o, context), block_.attention_out_norm_H);
    const at::Tensor y = norm(middle, block_.post_attention_norm_H);
    const auto run = [&](const model::Mlp& mlp, const at::Tensor& input) {
      if (!mlp.gate_up.exists()) return linear(mlp.down, at::silu(linear(mlp.gate, input)) * linear(mlp.up, input));
      const auto both = linear(mlp.gate_up, input).chunk(2, -1);
      return linear(mlp.down, at::silu(both[0]) * both[1]);
    };
    if (!block_.router_EH.defined()) return middle + out_norm(run(block_.mlps.front(), y), block_.mlp_out_norm_H);
    const at::Tensor rows = y.reshape({-1, y.size(-1)});
    // Which expert a token goes to is not trained.
    const model::Routing routing = model::route(rows.detach(), block_.router_EH.clone(), a_.experts);
    at::Tensor sum = at::zeros_like(rows);
    for (size_t e = 0; e < block_.mlps.size(); ++e)
      if (routing.tokens[e].numel() > 0)
        sum = sum.index_add(0, routing.tokens[e], run(block_.mlps[e], rows.index_select(0, routing.tokens[e])) * routing.weights[e].unsqueeze(1));
    return middle + out_norm(sum.view(y.sizes()), block_.mlp_out_norm_H);
  }

 private:
  at::Tensor norm(const at::Tensor& x, const at::Tensor& weight) const {
    return x * (x.square().mean(-1, true) + a_.rms_norm_eps).rsqrt() * weight.clone();
  }
  at::Tensor out_norm(const at::Tensor& y, const at::Tensor& weight) const { return weight.defined() ? norm(y, weight) : y; }
  at::Tensor heads(const at::Tensor& x, std::int64_t count, const at::Tensor& norm_D) const {
    at::Tensor split = x.reshape({x.size(0), x.size(1), count, a_.head_dim});
    if (norm_D.defined()) split = norm(split, norm_D);
    return split.transpose(1, 2);
  }
  at::Tensor rotate(const at::Tensor& x) const {
    if (!cos_.defined()) return x;
    const std::int64_t half = cos_.size(1), tokens = x.size(2);
    const at::Tensor cos = cos_.narrow(0, 0, tokens), sin = sin_.narrow(0, 0, tokens), turned = x.narrow(3, 0, 2 * half);
    const auto pairs = interleaved_ ? turned.unflatten(3, {half, 2}).unbind(4) : turned.chunk(2, 3);
    const at::Tensor first = pairs[0] * cos - pairs[1] * sin, second = pairs[1] * cos + pairs[0] * sin;
    const at::Tensor back = interleaved_ ? at::stack({first, second}, 4).flatten(3) : at::cat({first, second}, 3);
    return at::cat({back, x.narrow(3, 2 * half, x.size(3) - 2 * half)}, 3);
  }
  at::Tensor attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) const {
    const std::int64_t repeats = a_.num_heads / a_.num_kv_heads, tokens = query.size(2);
    const at::Tensor k = rotate(key).repeat_interleave(repeats, 1), v = value.repeat_interleave(repeats, 1);
    at::Tensor scores = at::matmul(rotate(query), k.transpose(2, 3)) / std::sqrt(static_cast<double>(a_.head_dim));
    if (slopes_.defined()) {
      const at::Tensor at = at::arange(tokens, at::kFloat);
      scores = scores + slopes_.view({-1, 1, 1}) * (at.unsqueeze(0) - at.unsqueeze(1));
    }
    at::Tensor blocked = at::ones({tokens, tokens}, at::kBool).triu(1);
    const std::int64_t window = a_.sliding_window.empty() ? 0 : a_.sliding_window[static_cast<size_t>(block_.layer())];
    if (window > 0) blocked = blocked.logical_or(at::ones({tokens, tokens}, at::kBool).tril(-window));
    const at::Tensor weights = scores.masked_fill(blocked, -INFINITY).softmax(-1);
    return at::matmul(weights, v).transpose(1, 2).reshape({query.size(0), tokens, a_.num_heads * a_.head_dim});
  }

  const model::Block& block_;
  const model::Architecture& a_;
  bool interleaved_;
  at::Tensor cos_, sin_, slopes_;
  std::map<std::string, const quantizer::LayerRecipe*> recipes_;
};

struct Moments {
  at::Tensor first, second;
};

void adam_step(at::Tensor& weight, const at::Tensor& gradient, Moments& m, int step, double learning_rate) {
  m.first.mul_(0.9).add_(gradient, 0.1);
  m.second.mul_(0.999).addcmul_(gradient, gradient, 0.001);
  const double bias1 = 1 - std::pow(0.9, step), bias2 = 1 - std::pow(0.999, step);
  weight.sub_(learning_rate / bias1 * m.first / ((m.second / bias2).sqrt() + 1e-8));
}

Weights copies(const Weights& weights) {
  Weights result;
  for (const auto& [name, weight] : weights) result[name] = weight.detach().clone();
  return result;
}

}  // namespace

DistillResult distill_block(const model::Block& block, const model::Architecture& architecture, const std::vector<TrainedLinear>& linears,
                            const std::vector<at::Tensor>& inputs, const model::RopeTable& rope, const quantizer::Distillation& options) {
  // Tensors made in inference mode take no part in autograd: everything is copied.
  const c10::InferenceMode training(false);
  Weights weights;
  for (const TrainedLinear& entry : linears) weights[entry.linear->name] = entry.weight_OI.clone();
  std::vector<at::Tensor> batches, targets;
  const Differentiable student(block, architecture, linears, rope);
  {
    const at::AutoGradMode no_gradient(false);
    for (const at::Tensor& input : inputs)
      for (std::int64_t s = 0; s < input.size(0); s += options.batch)
        batches.push_back(input.narrow(0, s, std::min<std::int64_t>(options.batch, input.size(0) - s)).to(at::kFloat).clone());
    for (const at::Tensor& batch : batches) targets.push_back(student.forward(batch, weights, /*quantized=*/false));
  }
  const size_t checks = std::min<size_t>(batches.size(), 8);  // batches whose loss decides
  const auto measure = [&] {
    const at::AutoGradMode no_gradient(false);
    double loss = 0;
    for (size_t i = 0; i < checks; ++i) loss += at::mse_loss(student.forward(batches[i], weights, true), targets[i]).item<double>();
    return loss / static_cast<double>(checks);
  };
  DistillResult result;
  result.loss_before = result.loss_after = measure();
  result.weights = copies(weights);
  std::map<std::string, Moments> moments;
  for (const TrainedLinear& entry : linears)
    if (entry.recipe != nullptr) {
      at::Tensor& weight = weights[entry.linear->name];
      weight.set_requires_grad(true);
      moments[entry.linear->name] = {at::zeros_like(weight), at::zeros_like(weight)};
    }
  for (int step = 1; step <= options.steps; ++step) {
    const size_t index = static_cast<size_t>(step - 1) % batches.size();
    std::vector<at::Tensor> parameters;
    for (const auto& [name, unused] : moments) parameters.push_back(weights[name]);
    std::vector<at::Tensor> gradients;
    {
      const at::AutoGradMode gradient(true);
      gradients = torch::autograd::grad({at::mse_loss(student.forward(batches[index], weights, true), targets[index])}, parameters);
    }
    const at::AutoGradMode no_gradient(false);
    size_t k = 0;
    for (auto& [name, m] : moments) adam_step(weights[name], gradients[k++], m, step, options.learning_rate);
    if (step % 10 != 0 && step != options.steps) continue;
    if (const double loss = measure(); loss < result.loss_after) {
      result.loss_after = loss;
      result.weights = copies(weights);
    }
  }
  return result;
}

}  // namespace miq::executor
