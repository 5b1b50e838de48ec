#include "stage_solver.h"

#include <ATen/ATen.h>

#include "miq/core/error.h"
#include "quantized_kernel.h"

namespace miq::executor {
namespace {

using quantizer::InputStatistics;
using quantizer::LayerRecipe;
using quantizer::OnlineTransform;
using quantizer::Transform;
using quantizer::TransformKind;

// One seed per matrix, from the recipe's and the linear's name (FNV-1a).
std::uint64_t seed_of(const std::string& name, const char* side, std::int64_t seed) {
  std::uint64_t hash = 14695981039346656037ull ^ static_cast<std::uint64_t>(seed);
  for (const char c : name + side) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return hash;
}

bool is_diagonal(const Transform& transform) { return transform.kind == TransformKind::awq || transform.kind == TransformKind::smoothquant; }

}  // namespace

StageSolver::StageSolver(const model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const Rotation* rotation,
                         std::function<void(const LayerReport&)> report)
    : model_(model), rotation_(rotation), report_(std::move(report)) {
  for (const PlannedLinear& entry : plan) by_name_[entry.name] = &entry;
}

quantizer::StatisticsNeeds StageSolver::needs(const std::vector<model::Linear*>& stage) const {
  quantizer::StatisticsNeeds needs;
  for (const model::Linear* linear : stage) needs = needs | statistics_needs(recipe_of(*linear));
  return needs;
}

bool StageSolver::wants_sample(model::Block& block, std::int64_t stage) const {
  for (const model::Linear* linear : block.stage(stage)) {
    const Transform& transform = recipe_of(*linear).transform;
    if (recipe_of(*linear).keep_float) continue;
    if (transform.kind == TransformKind::smoothquant && transform.alpha == 0) return true;
    if (transform.kind == TransformKind::awq && transform.module_search && follows_norm(stage)) return true;
  }
  return false;
}

void StageSolver::begin_block(model::Block& block) {
  finished_.clear();
  to_fold_.clear();
  weights_.clear();
  if (rotation_ != nullptr) weights_ = rotation_->rotate_block(block);
}

DistillResult StageSolver::distill(model::Block& block, const std::vector<at::Tensor>& inputs, const model::RopeTable& rope,
                                   const quantizer::Distillation& options) {
  std::vector<TrainedLinear> linears;
  for (const model::Linear* linear : block.linears())
    linears.push_back({linear, float_weight(*linear), recipe_of(*linear).keep_float ? nullptr : &recipe_of(*linear)});
  DistillResult done = distill_block(block, model_.architecture(), linears, inputs, rope, options);
  for (const TrainedLinear& entry : linears)
    if (entry.recipe != nullptr) weights_[entry.linear->name] = done.weights.at(entry.linear->name);
  return done;
}

at::Tensor StageSolver::float_weight(const model::Linear& linear) const {
  if (const auto found = weights_.find(linear.name); found != weights_.end()) return found->second;
  return model_.source().tensor(linear.name + ".weight").to(model_.device(), at::kFloat).contiguous();
}

// A divisor that the operation before the stage can take without loss.
at::Tensor StageSolver::fit_divisor(model::Block& block, std::int64_t stage, const at::Tensor& divisor_I, bool folded) const {
  if (!folded) return divisor_I;
  const FoldTarget target = fold_target(model_.architecture(), stage);
  if (target.norm != nullptr) {
    const std::string name = model_.architecture().block_name(block.layer()) + target.name + ".weight";
    return representable_divisor(divisor_I, block.*target.norm, model_.source().tensor(name).scalar_type());
  }
  return stage == kOut ? tie_over_heads(divisor_I, model_.architecture()) : divisor_I;
}

// What x of these linears goes through; U, which is each linear's own, is added by round().
OnlineTransform StageSolver::choose_transform(model::Block& block, std::int64_t stage, std::vector<model::Linear*>& group, bool folded,
                                              const InputStatistics* statistics, const at::Tensor& hessian_II, const ModuleSample* sample) const {
  const Transform& transform = recipe_of(*group.front()).transform;
  const std::int64_t columns = group.front()->in_features;
  OnlineTransform online;
  std::vector<at::Tensor> weights;
  std::vector<ScaledLinear> members;
  if (is_diagonal(transform) || transform.rescale)
    for (model::Linear* linear : group) {
      weights.push_back(float_weight(*linear));
      members.push_back({linear, weights.back(), recipe_of(*linear).grid});
    }
  const auto fit = [&](const at::Tensor& scales) { return fit_divisor(block, stage, scales, folded); };
  if (transform.kind == TransformKind::awq)
    online.divisor_I = search_awq_scales(transform, members, hessian_II, statistics->mean_abs(), fit, follows_norm(stage) ? sample : nullptr);
  // SmoothQuant moves outliers into the weights where the operation before can take the divisor: the paper
  // behind the norms, llm-compressor before down too.
  if (transform.kind == TransformKind::smoothquant && (folded || follows_norm(stage)))
    online.divisor_I = transform.alpha > 0 ? fit(quantizer::smoothquant_scales(statistics->max_abs(), weights, transform.alpha))
                                           : search_smoothquant_scales(members, statistics->max_abs(), recipe_of(*group.front()).activation,
                                                                       sample->states.front().x, fit);
  if (transform.kind == TransformKind::incoherence) {
    if (transform.rescale) online.divisor_I = quantizer::incoherence_rescaling(hessian_II, weights);
    online.input = quantizer::random_orthogonal(transform.orthogonal, columns, seed_of(group.front()->name, ".in", transform.seed));
    online.parameter_bits = 64;
  }
  if (rotation_ != nullptr && rotation_->online_input(stage)) online.input = rotation_->online_input(stage);
  return online;
}

void StageSolver::round(model::Linear& linear, const OnlineTransform& shared, quantizer::StageHessian* hessian,
                        const InputStatistics* statistics, at::ScalarType compute_dtype) {
  const LayerRecipe& layer = recipe_of(linear);
  OnlineTransform own = shared;
  if (layer.transform.kind == TransformKind::incoherence) {
    own.output = quantizer::random_orthogonal(layer.transform.orthogonal, linear.out_features, seed_of(linear.name, ".out", layer.transform.seed));
    own.parameter_bits = 128;
  }
  const quantizer::LinearProblem problem{linear.name, transform_weight(float_weight(linear), own), hessian};
  auto quantized = std::make_shared<quantizer::QuantizedLinear>(round_linear(problem, layer.grid, layer.range, layer.rounding));
  quantized->online = own;
  quantized->activation = layer.activation;
  if (layer.activation.enabled() && !layer.activation.dynamic) {
    const at::Tensor unit = at::ones({linear.in_features}), d = own.divisor_I.defined() ? own.divisor_I : unit;
    quantized->activation_params = quantizer::static_params((statistics->lowest() / d).min().item<float>(),
                                                            (statistics->highest() / d).max().item<float>(), layer.activation);
  }
  if (layer.activation.enabled())
    linear.kernel = make_quantized_kernel(quantized);
  else if (compute_dtype != at::ScalarType::Undefined)
    linear.weight_OI = dequantize(*quantized, compute_dtype);
  finished_[linear.name] = std::move(quantized);
}

void StageSolver::solve(model::Block& block, std::int64_t stage, const InputStatistics* statistics, const ModuleSample* sample,
                        at::ScalarType compute_dtype) {
  const std::vector<model::Linear*> linears = block.stage(stage);
  std::vector<const LayerRecipe*> recipes;
  for (const model::Linear* linear : linears) recipes.push_back(&recipe_of(*linear));
  const FoldTarget target = fold_target(model_.architecture(), stage);
  const bool folded = folds(recipes, target.linear != nullptr ? &recipe_of(block.*target.linear) : nullptr);
  at::Tensor hessian;
  if (needs(linears).hessian) {
    try {
      hessian = statistics->hessian();
    } catch (const Error& error) {
      throw Error(error.kind(), error.message(), linears.front()->name, error.fix());
    }
  }
  // Linears of one transform share x' and its Hessian.
  std::vector<model::Linear*> left;
  for (model::Linear* linear : linears)
    if (!recipe_of(*linear).keep_float) left.push_back(linear);
  while (!left.empty()) {
    const Transform transform = recipe_of(*left.front()).transform;
    std::vector<model::Linear*> group, others;
    for (model::Linear* linear : left) (recipe_of(*linear).transform == transform ? group : others).push_back(linear);
    left = others;
    const OnlineTransform shared = choose_transform(block, stage, group, folded, statistics, hessian, sample);
    std::unique_ptr<quantizer::StageHessian> own;
    if (hessian.defined()) own = std::make_unique<quantizer::StageHessian>(transform_hessian(hessian, shared), statistics->num_tokens());
    for (model::Linear* linear : group) round(*linear, shared, own.get(), statistics, compute_dtype);
    if (folded && is_diagonal(transform) && shared.divisor_I.defined()) to_fold_[stage] = shared.divisor_I;
  }
}

// Until here every divisor stood beside its linear; now the operation before takes it.
void StageSolver::fold(model::Block& block, std::int64_t stage) {
  const auto found = to_fold_.find(stage);
  if (found == to_fold_.end()) return;
  const at::Tensor divisor = found->second;
  const FoldTarget target = fold_target(model_.architecture(), stage);
  if (target.norm != nullptr) {
    // As it is stored: the divisor was chosen so that this rounds to the quotient itself.
    const std::string name = model_.architecture().block_name(block.layer()) + target.name + ".weight";
    block.*target.norm = (block.*target.norm / divisor).to(model_.source().tensor(name).scalar_type()).to(at::kFloat);
  } else {
    model::Linear& before = block.*target.linear;
    divide_rows(*finished_.at(before.name), before, stage == kOut ? rows_of_v(divisor, model_.architecture()) : divisor);
  }
  for (const model::Linear* linear : block.stage(stage)) finished_.at(linear->name)->online.divisor_I = at::Tensor();
}

void StageSolver::finish_block(model::Block& block, const PipelineOptions& options) {
  for (std::int64_t s = 0; s < block.num_stages(); ++s) fold(block, s);
  const model::Architecture& a = model_.architecture();
  const auto store = [&](const std::string& name, const at::Tensor& tensor) {
    if (options.on_tensor) options.on_tensor(name, tensor.to(model_.source().tensor(name).scalar_type()));
  };
  const std::string prefix = a.block_name(block.layer());
  if (rotation_ != nullptr || to_fold_.count(kQkv)) store(prefix + a.names.input_norm + ".weight", block.input_norm_H);
  if (rotation_ != nullptr || to_fold_.count(kGateUp)) store(prefix + a.names.post_attention_norm + ".weight", block.post_attention_norm_H);
  for (model::Linear* linear : block.linears()) {
    const bool biased = linear->bias_O.defined() && (rotation_ != nullptr || (linear == &block.v && to_fold_.count(kOut)) || (linear == &block.up && to_fold_.count(kDown)));
    if (biased) store(linear->name + ".bias", linear->bias_O);
    const auto found = finished_.find(linear->name);
    if (found == finished_.end()) {
      // Kept in float: a view of the file again, not the calibration pass's converted copy.
      if (rotation_ == nullptr) {
        linear->weight_OI = model_.source().tensor(linear->name + ".weight").to(model_.device());
      } else {
        linear->weight_OI = float_weight(*linear).to(model_.source().tensor(linear->name + ".weight").scalar_type());
        store(linear->name + ".weight", linear->weight_OI);
      }
      continue;
    }
    const quantizer::QuantizedLinear& done = *found->second;
    report_({planned(*linear), done.loss, done.relative_error, done.bits_per_weight(), done.bytes(), done.events});
    if (options.on_linear) options.on_linear(linear->name, done);
    linear->weight_OI = at::Tensor();
    linear->kernel = make_quantized_kernel(found->second);
  }
  finished_.clear();
  weights_.clear();
}

}  // namespace miq::executor
