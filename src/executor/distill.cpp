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
      : block_(block), a_(a), cos_(rope.cos_PD().clone()), sin_(rope.sin_PD().clone()) {
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
    const at::Tensor context = attend(heads(linear(block_.q, x), a_.num_heads, block_.q_norm_D), heads(linear(block_.k, x), a_.num_kv_heads, block_.k_norm_D),
                                      heads(linear(block_.v, x), a_.num_kv_heads, {}));
    const at::Tensor middle = hidden + linear(block_.o, context);
    const at::Tensor y = norm(middle, block_.post_attention_norm_H);
    return middle + linear(block_.down, at::silu(linear(block_.gate, y)) * linear(block_.up, y));
  }

 private:
  at::Tensor norm(const at::Tensor& x, const at::Tensor& weight) const {
    return x * (x.square().mean(-1, true) + a_.rms_norm_eps).rsqrt() * weight.clone();
  }
  at::Tensor heads(const at::Tensor& x, std::int64_t count, const at::Tensor& norm_D) const {
    at::Tensor split = x.view({x.size(0), x.size(1), count, a_.head_dim});
    if (norm_D.defined()) split = norm(split, norm_D);
    return split.transpose(1, 2);
  }
  at::Tensor rotate(const at::Tensor& x) const {
    const std::int64_t half = a_.head_dim / 2, tokens = x.size(2);
    const at::Tensor first = x.narrow(3, 0, half), second = x.narrow(3, half, half), cos = cos_.narrow(0, 0, tokens), sin = sin_.narrow(0, 0, tokens);
    return at::cat({first * cos - second * sin, second * cos + first * sin}, 3);
  }
  at::Tensor attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value) const {
    const std::int64_t repeats = a_.num_heads / a_.num_kv_heads, tokens = query.size(2);
    const at::Tensor k = rotate(key).repeat_interleave(repeats, 1), v = value.repeat_interleave(repeats, 1);
    at::Tensor scores = at::matmul(rotate(query), k.transpose(2, 3)) / std::sqrt(static_cast<double>(a_.head_dim));
    at::Tensor blocked = at::ones({tokens, tokens}, at::kBool).triu(1);
    const std::int64_t window = a_.sliding_window.empty() ? 0 : a_.sliding_window[static_cast<size_t>(block_.layer())];
    if (window > 0) blocked = blocked.logical_or(at::ones({tokens, tokens}, at::kBool).tril(-window));
    const at::Tensor weights = scores.masked_fill(blocked, -INFINITY).softmax(-1);
    return at::matmul(weights, v).transpose(1, 2).reshape({query.size(0), tokens, a_.num_heads * a_.head_dim});
  }

  const model::Block& block_;
  const model::Architecture& a_;
  at::Tensor cos_, sin_;
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
