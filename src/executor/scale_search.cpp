#include "scale_search.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <set>

#include "miq/core/device.h"
#include "scale_group.h"

namespace miq::executor {
namespace {

at::Tensor quantized_at(const ScaledLinear& member, const at::Tensor& scales) {
  return scaled_rounding_error(member.weight_OI, scales, member.grid).add_(member.weight_OI);
}

// What attention or MLP adds to the residual.
std::vector<at::Tensor> module_outputs(const ModuleSample& module) {
  std::vector<at::Tensor> outputs;
  for (const model::BlockState& sample : module.states) {
    model::BlockState state = sample;
    state.hidden_BTH = at::zeros_like(sample.hidden_BTH);
    module.block->end_stage(module.stage, state, *module.rope);
    module.block->end_stage(module.stage + 1, state, *module.rope);
    outputs.push_back(state.hidden_BTH);
  }
  return outputs;
}

size_t least(const std::vector<double>& losses) {
  return static_cast<size_t>(std::min_element(losses.begin(), losses.end()) - losses.begin());
}

// Every other candidate, then the neighbours of the best: the loss has one valley.
size_t least_by_hessian(const std::vector<at::Tensor>& scales, const std::function<std::vector<double>(const std::vector<at::Tensor>&)>& losses_of) {
  std::vector<double> losses(scales.size(), std::numeric_limits<double>::infinity());
  const auto evaluate = [&](const std::vector<size_t>& indices) {
    std::vector<at::Tensor> some;
    for (const size_t i : indices) some.push_back(scales[i]);
    const std::vector<double> found = losses_of(some);
    for (size_t k = 0; k < indices.size(); ++k) losses[indices[k]] = found[k];
  };
  std::vector<size_t> coarse, fine;
  for (size_t i = 0; i < scales.size(); i += 2) coarse.push_back(i);
  evaluate(coarse);
  const size_t best = least(losses);
  if (best > 0) fine.push_back(best - 1);
  if (best + 1 < scales.size()) fine.push_back(best + 1);
  evaluate(fine);
  return least(losses);
}

}  // namespace

std::vector<double> module_losses(std::vector<ScaledLinear>& group, const std::vector<at::Tensor>& scales, const ModuleSample& module) {
  const std::vector<at::Tensor> wanted = module_outputs(module);
  std::vector<at::Tensor> kept;
  for (const ScaledLinear& member : group) kept.push_back(member.linear->weight_OI);
  std::vector<double> losses;
  for (const at::Tensor& candidate : scales) {
    for (size_t l = 0; l < group.size(); ++l) group[l].linear->weight_OI = quantized_at(group[l], candidate).to(kept[l].scalar_type());
    const std::vector<at::Tensor> outputs = module_outputs(module);
    double sum = 0, count = 0;
    for (size_t i = 0; i < outputs.size(); ++i) {
      sum += (outputs[i] - wanted[i]).square().sum(at::kDouble).item<double>();
      count += static_cast<double>(outputs[i].numel());
    }
    losses.push_back(sum / count);
  }
  for (size_t l = 0; l < group.size(); ++l) group[l].linear->weight_OI = kept[l];
  return losses;
}

at::Tensor search_smoothquant_scales(std::vector<ScaledLinear>& group, const at::Tensor& max_abs_I, const quantizer::Activation& activation,
                                     const ModuleSample& sample, const std::function<at::Tensor(const at::Tensor&)>& prepare) {
  std::vector<at::Tensor> weights, candidates = {at::ones_like(max_abs_I)};
  for (const ScaledLinear& member : group) weights.push_back(member.weight_OI);
  for (int tenths = 3; tenths <= 9; ++tenths) candidates.push_back(prepare(quantizer::smoothquant_scales(max_abs_I, weights, tenths / 10.0)));
  const bool fast = has_fast_bfloat16(max_abs_I.device());
  const auto product = [&](const at::Tensor& input, const at::Tensor& weight) {
    return fast ? at::linear(input.to(at::kBFloat16), weight.to(at::kBFloat16)).to(at::kFloat) : at::linear(input, weight);
  };
  // With dx and dW the errors of both, the output is off by dx W^T + (x + dx) dW^T: small products of
  // small numbers, which bfloat16 does not drown.
  std::vector<double> losses;
  quantizer::Activation dynamic = activation;
  if (!activation.dynamic) dynamic.dynamic = true;
  for (const at::Tensor& scales : candidates) {
    double loss = 0;
    for (const ScaledLinear& member : group) {
      const at::Tensor input = sample.states.front().x[member.group].to(at::kFloat);
      if (input.numel() == 0) continue;
      const at::Tensor quantized = fake_quantize(input / scales, dynamic, {}).mul_(scales), change = quantized - input;
      const at::Tensor error = product(change, member.weight_OI) + product(quantized, scaled_rounding_error(member.weight_OI, scales, member.grid));
      loss += error.square().sum(at::kDouble).item<double>();
    }
    losses.push_back(loss);
  }
  return candidates[least(losses)];
}

at::Tensor search_awq_scales(const quantizer::Transform& transform, std::vector<ScaledLinear>& group, const std::vector<at::Tensor>& hessians,
                             const at::Tensor& mean_abs_I, const std::function<at::Tensor(const at::Tensor&)>& prepare,
                             const ModuleSample* module) {
  std::vector<at::Tensor> weights, scales;
  for (const ScaledLinear& member : group) weights.push_back(member.weight_OI);
  const at::Tensor weight_mean = transform.duo_scaling == quantizer::DuoScaling::none ? at::Tensor() : awq_weight_mean(weights, group.front().grid);
  for (const quantizer::ScaleCandidate& candidate : awq_candidates(transform)) scales.push_back(prepare(awq_scales(mean_abs_I, weight_mean, candidate)));
  const auto losses_of = [&](const std::vector<at::Tensor>& some) {
    std::vector<double> sum(some.size(), 0);
    for (size_t g = 0; g < hessians.size(); ++g) {
      std::vector<at::Tensor> own;
      std::vector<quantizer::Grid> grids;
      for (const ScaledLinear& member : group)
        if (member.group == g) {
          own.push_back(member.weight_OI);
          grids.push_back(member.grid);
        }
      if (own.empty() || !hessians[g].defined()) continue;
      const at::Tensor hessian = has_fast_bfloat16(hessians[g].device()) ? hessians[g].to(at::kBFloat16) : hessians[g];
      const std::vector<double> losses = awq_losses(own, hessian, some, grids, transform.search_rows);
      for (size_t i = 0; i < losses.size(); ++i) sum[i] += losses[i];
    }
    return sum;
  };
  const size_t best = least_by_hessian(scales, losses_of);
  if (module == nullptr) return scales[best];
  // The proxy's best, two on each side, and no scaling.
  std::set<size_t> near = {0};
  for (size_t i = best < 2 ? 0 : best - 2; i <= std::min(best + 2, scales.size() - 1); ++i) near.insert(i);
  std::vector<at::Tensor> candidates;
  for (const size_t i : near) candidates.push_back(scales[i]);
  return candidates[least(module_losses(group, candidates, *module))];
}

}  // namespace miq::executor
