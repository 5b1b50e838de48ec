#include "stage_solver.h"

#include <ATen/ATen.h>

#include "miq/core/config.h"
#include "miq/core/error.h"
#include "miq/core/process_group.h"
#include "quantized_kernel.h"
#include "work_on_devices.h"

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

// All of a recipe that a search for a divisor depends on, beside the data.
std::string search_key(const LayerRecipe& layer) {
  LayerRecipe copy = layer;
  ConfigDumper dumper;
  dumper.object("grid", copy.grid, "");
  dumper.object("transform", copy.transform, "");
  dumper.object("activation", copy.activation, "");
  return dumper.json().dump() + " " + std::to_string(static_cast<int>(layer.grid.scale_dtype));
}

bool is_diagonal(const Transform& transform) { return transform.kind == TransformKind::awq || transform.kind == TransformKind::smoothquant; }

}  // namespace

StageSolver::StageSolver(const model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const Rotation* rotation,
                         std::function<void(const LayerReport&)> report)
    : model_(model), rotation_(rotation), report_(std::move(report)) {
  for (const PlannedLinear& entry : plan) by_name_[entry.name] = &entry;
  solve_on({});
}

void StageSolver::solve_on(std::vector<at::Device> devices) {
  devices_ = std::move(devices);
  if (devices_.empty()) devices_ = {model_.device()};
}

quantizer::StatisticsNeeds StageSolver::needs(const std::vector<model::Linear*>& linears) const {
  quantizer::StatisticsNeeds needs;
  for (const model::Linear* linear : linears) needs = needs | statistics_needs(recipe_of(*linear));
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
  folded_biases_.clear();
  weights_.clear();
  stored_.clear();
  if (rotation_ != nullptr) weights_ = rotation_->rotate_block(block);
}

void StageSolver::keep_weights(model::Block& block) {
  if (model_.device().is_cpu()) return;  // there they are views of the file
  for (const model::Linear* linear : block.linears())
    if (!weights_.count(linear->name)) stored_[linear->name] = linear->weight_OI;
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
  return stored_weight(linear).to(at::kFloat).contiguous();
}

at::Tensor StageSolver::stored_weight(const model::Linear& linear) const {
  const std::map<std::string, at::Tensor>& kept = shared_ != nullptr ? shared_->weights : stored_;
  if (const auto found = kept.find(linear.name); found != kept.end()) return found->second;
  return model_.source().tensor(linear.name + ".weight").to(model_.device());
}

// The groups begin .. end of a stage: all of them where they read one norm, else a single one.
struct StageSolver::Unit {
  std::int64_t stage;
  size_t begin;
  std::vector<std::vector<model::Linear*>> groups;
  FoldTarget target;
  bool folded;
  std::vector<const InputStatistics*> statistics;   // of each group; null when nothing needs any
  std::unique_ptr<InputStatistics> merged;          // of several groups together
  std::unique_ptr<InputStatistics> stand_in;        // extremes of all experts, for one that saw nothing
  std::vector<at::Tensor> hessians;                 // of each group, or undefined
  std::vector<std::vector<quantizer::Event>> events;

  const InputStatistics* all() const { return merged ? merged.get() : statistics.front(); }
  std::vector<model::Linear*> linears() const {
    std::vector<model::Linear*> list;
    for (const auto& group : groups) list.insert(list.end(), group.begin(), group.end());
    return list;
  }
};

namespace {

// An expert that saw fewer tokens than it has inputs: what is missing is filled in from the statistics of
// all experts where they read one norm, else by shrinking towards the identity, which is plain rounding.
at::Tensor fill_starved(const at::Tensor& hessian, const InputStatistics& own, const InputStatistics* merged) {
  const std::int64_t inputs = hessian.size(0), missing = inputs - own.num_tokens();
  if (merged != nullptr && merged->num_tokens() > 0)
    return hessian + merged->hessian() * (static_cast<double>(missing) / static_cast<double>(merged->num_tokens()));
  const double share = static_cast<double>(missing) / static_cast<double>(inputs), mean = hessian.diagonal().mean().item<double>();
  at::Tensor filled = hessian * (1 - share);
  filled.diagonal().add_(mean > 0 ? share * mean : 1.0);
  return filled;
}

}  // namespace

size_t StageSolver::group_in(const Unit& unit, const model::Linear& linear) const { return static_cast<size_t>(planned(linear).group) - unit.begin; }

StageSolver::Unit StageSolver::make_unit(model::Block& block, std::int64_t stage, size_t begin, size_t end, const StageStatistics& statistics) const {
  const auto groups = block.groups(stage);
  Unit unit{stage, begin, {groups.begin() + static_cast<std::ptrdiff_t>(begin), groups.begin() + static_cast<std::ptrdiff_t>(end)},
            fold_target(block, model_.architecture(), stage, begin), false, {}, nullptr, nullptr, {}, {}};
  std::vector<const LayerRecipe*> recipes;
  for (const model::Linear* linear : unit.linears()) recipes.push_back(&recipe_of(*linear));
  unit.folded = folds(recipes, unit.target.linear != nullptr ? &recipe_of(*unit.target.linear) : nullptr);
  for (size_t g = begin; g < end; ++g) unit.statistics.push_back(statistics[g].get());
  unit.hessians.resize(unit.groups.size());
  unit.events.resize(unit.groups.size());
  const quantizer::StatisticsNeeds needs = this->needs(unit.linears());
  if (!needs.any()) return unit;
  const std::int64_t inputs = unit.groups.front().front()->in_features;
  if (unit.groups.size() > 1) {
    unit.merged = std::make_unique<InputStatistics>(inputs, model_.device(), needs);
    for (const InputStatistics* own : unit.statistics) unit.merged->merge(*own);
  }
  for (size_t g = 0; g < unit.groups.size(); ++g) {
    InputStatistics& own = *statistics[begin + g];
    try {
      if (needs.hessian) unit.hessians[g] = shared_ != nullptr ? own.hessian() : own.take_hessian();
    } catch (const Error& error) {
      throw Error(error.kind(), error.message(), unit.groups[g].front()->name, error.fix());
    }
    const bool expert = groups.size() > 1;
    if (!expert || own.num_tokens() >= inputs) continue;
    if (needs.extremes && !unit.merged && own.num_tokens() == 0) {
      unit.stand_in = std::make_unique<InputStatistics>(inputs, model_.device(), quantizer::StatisticsNeeds{.extremes = true});
      for (const auto& other : statistics) unit.stand_in->merge(*other);
    }
    if (needs.hessian) unit.hessians[g] = fill_starved(unit.hessians[g], own, unit.merged.get());
    unit.events[g].push_back({"starved_expert", "the router sent " + std::to_string(own.num_tokens()) + " calibration tokens to this expert of " + std::to_string(inputs) +
                                                    " inputs: " + (unit.merged ? "those of all experts fill in" : "rounded nearer to plain rounding")});
  }
  return unit;
}

// A divisor that the operation before the stage can take without loss.
at::Tensor StageSolver::fit_divisor(model::Block& block, const Unit& unit, const at::Tensor& divisor_I) const {
  if (!unit.folded) return divisor_I;
  if (unit.target.norm != nullptr)
    return representable_divisor(divisor_I, block.*unit.target.norm, model_.source().tensor(unit.target.name + ".weight").scalar_type());
  return unit.stage == kOut ? tie_over_heads(divisor_I, model_.architecture()) : divisor_I;
}

// The search that the members' transform asks for. Rank 0 has the samples that one process would look at, and tells what it found.
at::Tensor StageSolver::search_divisor(model::Block& block, const Unit& unit, std::vector<ScaledLinear>& members, const ModuleSample* sample) {
  const LayerRecipe& recipe = recipe_of(*members.front().linear);
  const auto fit = [&](const at::Tensor& scales) { return fit_divisor(block, unit, scales); };
  std::string key = std::to_string(unit.stage) + " " + std::to_string(unit.begin) + (unit.folded ? " folded" : "");
  for (const ScaledLinear& member : members) key += "\n" + member.linear->name + " " + search_key(recipe_of(*member.linear));
  if (shared_ != nullptr)
    if (const auto found = shared_->divisors.find(key); found != shared_->divisors.end()) return found->second;
  at::Tensor divisor = at::empty({members.front().linear->in_features}, at::TensorOptions(at::kFloat).device(model_.device()));
  if (process_group::rank() == 0)
    divisor = recipe.transform.kind == TransformKind::awq ? search_awq_scales(recipe.transform, members, unit.hessians, unit.all()->mean_abs(), fit, sample)
                                                          : search_smoothquant_scales(members, unit.all()->max_abs(), recipe.activation, *sample, fit);
  divisor = divisor.to(at::kFloat).contiguous();
  process_group::broadcast(divisor);
  if (shared_ != nullptr) shared_->divisors.emplace(key, divisor);
  return divisor;
}

// What x of these linears goes through; U, which is each linear's own, is added by round().
OnlineTransform StageSolver::choose_transform(model::Block& block, const Unit& unit, const std::vector<model::Linear*>& linears,
                                              const ModuleSample* sample) {
  const model::Linear& first = *linears.front();
  const Transform& transform = recipe_of(first).transform;
  OnlineTransform online;
  std::vector<at::Tensor> weights;
  std::vector<ScaledLinear> members;
  if (is_diagonal(transform) || transform.rescale)
    for (model::Linear* linear : linears) {
      weights.push_back(float_weight(*linear));
      members.push_back({linear, weights.back(), recipe_of(*linear).grid, group_in(unit, *linear)});
    }
  const auto fit = [&](const at::Tensor& scales) { return fit_divisor(block, unit, scales); };
  // An expert that saw nothing is left as it is.
  const bool seen = !is_diagonal(transform) || unit.all()->num_tokens() > 0;
  if (transform.kind == TransformKind::awq && seen) online.divisor_I = search_divisor(block, unit, members, follows_norm(unit.stage) ? sample : nullptr);
  // SmoothQuant moves outliers into the weights where the operation before can take the divisor: the paper
  // behind the norms, llm-compressor before down too.
  if (transform.kind == TransformKind::smoothquant && seen && (unit.folded || follows_norm(unit.stage))) {
    for (ScaledLinear& member : members) member.group += unit.begin;  // as the sample counts
    online.divisor_I = transform.alpha > 0 ? fit(quantizer::smoothquant_scales(unit.all()->max_abs(), weights, transform.alpha)) : search_divisor(block, unit, members, sample);
  }
  if (transform.kind == TransformKind::incoherence) {
    if (transform.rescale)
      online.divisor_I = quantizer::incoherence_rescaling(unit.merged && unit.merged->num_tokens() > 0 ? unit.merged->hessian() : unit.hessians.front(), weights);
    online.input = quantizer::random_orthogonal(transform.orthogonal, first.in_features, seed_of(first.name, ".in", transform.seed));
    online.parameter_bits = 64;
  }
  if (rotation_ != nullptr && rotation_->online_input(unit.stage, first.in_features)) online.input = rotation_->online_input(unit.stage, first.in_features);
  return online;
}

std::shared_ptr<quantizer::QuantizedLinear> StageSolver::round(const model::Linear& linear, const OnlineTransform& shared, quantizer::StageHessian* hessian,
                                                               const InputStatistics* statistics, const at::Device& device) const {
  const LayerRecipe& layer = recipe_of(linear);
  OnlineTransform own = shared;
  if (layer.transform.kind == TransformKind::incoherence) {
    own.output = quantizer::random_orthogonal(layer.transform.orthogonal, linear.out_features, seed_of(linear.name, ".out", layer.transform.seed));
    own.parameter_bits = 128;
  }
  const quantizer::LinearProblem problem{linear.name, transform_weight(float_weight(linear).to(device), to_device(own, device)), hessian};
  auto quantized = std::make_shared<quantizer::QuantizedLinear>(to_device(round_linear(problem, layer.grid, layer.range, layer.rounding), model_.device()));
  quantized->online = own;
  quantized->activation = layer.activation;
  if (layer.activation.enabled() && !layer.activation.dynamic) {
    const auto divided = [&](const at::Tensor& x_I) { return own.divisor_I.defined() ? x_I / own.divisor_I : x_I; };
    quantized->activation_params = quantizer::static_params(divided(statistics->lowest()).min().item<float>(), divided(statistics->highest()).max().item<float>(), layer.activation);
    at::Tensor& scale = quantized->activation_params.scale;
    scale = quantizer::stored_numbers(scale, layer.grid.scale_dtype);
  }
  return quantized;
}

// Each linear goes to the rank that has least to do. Every rank counts alike.
bool StageSolver::is_own(const model::Linear& linear) {
  load_.resize(static_cast<size_t>(process_group::world_size()), 0);
  const auto least = std::min_element(load_.begin(), load_.end());
  *least += static_cast<double>(linear.out_features) * static_cast<double>(linear.in_features) * static_cast<double>(linear.in_features);
  return least - load_.begin() == process_group::rank();
}

void StageSolver::exchange(model::Block& block, at::ScalarType compute_dtype) {
  load_.clear();
  if (process_group::world_size() > 1)
    for (const std::string& part : process_group::all_gather(to_bytes({std::exchange(own_, {}), {}, {}}))) own_.merge(to_device(solved_block(part), model_.device()).linears);
  for (model::Linear* linear : block.linears()) {
    const auto found = own_.find(linear->name);
    if (found == own_.end()) continue;
    found->second->grid = recipe_of(*linear).grid;
    found->second->activation = recipe_of(*linear).activation;
    install(*linear, found->second, compute_dtype);
  }
  own_.clear();
}

// The Hessian of what the unit's group becomes under the transform; without one it is the same for every recipe.
std::shared_ptr<quantizer::StageHessian> StageSolver::transformed_hessian(const Unit& unit, size_t group, const OnlineTransform& transform, const at::Device& device) {
  if (!unit.hessians[group].defined()) return nullptr;
  const bool filled = !unit.events[group].empty(), plain = !transform.divisor_I.defined() && transform.input == nullptr;
  const auto make = [&] {
    return std::make_shared<quantizer::StageHessian>(transform_hessian(unit.hessians[group].to(device), to_device(transform, device)),
                                                     filled ? unit.hessians[group].size(0) : unit.statistics[group]->num_tokens());
  };
  if (shared_ == nullptr || !plain || filled || device != model_.device()) return make();
  std::shared_ptr<quantizer::StageHessian>& common = shared_->hessians[{unit.stage, unit.begin + group}];
  if (!common) common = make();
  return common;
}

// The linear computes with its quantized weight from now on. compute_dtype: undefined where nothing goes through it.
void StageSolver::install(model::Linear& linear, std::shared_ptr<quantizer::QuantizedLinear> quantized, at::ScalarType compute_dtype) {
  if (quantized->activation.enabled())
    linear.kernel = make_quantized_kernel(quantized);
  else if (compute_dtype != at::ScalarType::Undefined)
    linear.weight_OI = dequantize(*quantized, compute_dtype);
  finished_[linear.name] = std::move(quantized);
  stored_.erase(linear.name);
}

void StageSolver::restore(model::Block& block, const SolvedBlock& journal, at::ScalarType compute_dtype) {
  const SolvedBlock solved = to_device(journal, model_.device());
  for (model::Linear* linear : block.linears()) {
    const LayerRecipe& layer = recipe_of(*linear);
    if (layer.keep_float) continue;
    const auto found = solved.linears.find(linear->name);
    if (found == solved.linears.end() || found->second->codes_OI.sizes() != at::IntArrayRef({linear->out_features, linear->in_features}))
      throw Error(ErrorKind::io, "the record of the finished block lacks this linear", linear->name, "start anew with --overwrite");
    found->second->grid = layer.grid;
    found->second->activation = layer.activation;
    install(*linear, found->second, compute_dtype);
  }
  to_fold_ = solved.divisors;
}

// Linears of one input and one transform share x' and its Hessian: a device makes its factor once for all that it has of them.
void StageSolver::solve_linears(const Unit& unit, const std::vector<model::Linear*>& linears, const OnlineTransform& shared) {
  struct Held {
    size_t group = 0;
    std::shared_ptr<quantizer::StageHessian> hessian;
  };
  std::vector<Held> held(devices_.size());
  std::vector<DeviceTask> tasks;
  std::vector<std::shared_ptr<quantizer::QuantizedLinear>> done(linears.size());
  for (size_t g = 0; g < unit.groups.size(); ++g) {
    const InputStatistics* seen = unit.statistics[g];
    if (seen != nullptr && seen->num_tokens() == 0) seen = unit.stand_in ? unit.stand_in.get() : unit.all();
    for (size_t l = 0; l < linears.size(); ++l) {
      if (group_in(unit, *linears[l]) != g || !is_own(*linears[l])) continue;
      const auto m = static_cast<double>(linears[l]->out_features), n = static_cast<double>(linears[l]->in_features);
      tasks.push_back({g, m * n * n, unit.hessians[g].defined() ? 2 * n * n * n / 3 : 0, [&, g, l, seen](size_t device) {
                         if (!held[device].hessian || held[device].group != g) {
                           held[device] = {};  // before the next one takes its memory
                           held[device] = {g, transformed_hessian(unit, g, shared, devices_[device])};
                         }
                         done[l] = round(*linears[l], shared, held[device].hessian.get(), seen, devices_[device]);
                       }});
    }
  }
  work_on_devices(devices_, tasks);
  for (size_t l = 0; l < linears.size(); ++l) {
    if (!done[l]) continue;
    const auto& events = unit.events[group_in(unit, *linears[l])];
    done[l]->events.insert(done[l]->events.begin(), events.begin(), events.end());
    own_[linears[l]->name] = std::move(done[l]);
  }
}

void StageSolver::solve_unit(model::Block& block, const Unit& unit, const ModuleSample* sample) {
  std::vector<model::Linear*> left;
  for (model::Linear* linear : unit.linears())
    if (!recipe_of(*linear).keep_float) left.push_back(linear);
  while (!left.empty()) {
    const Transform transform = recipe_of(*left.front()).transform;
    std::vector<model::Linear*> same, others;
    for (model::Linear* linear : left) (recipe_of(*linear).transform == transform ? same : others).push_back(linear);
    left = others;
    const OnlineTransform shared = choose_transform(block, unit, same, sample);
    solve_linears(unit, same, shared);
    if (unit.folded && is_diagonal(transform) && shared.divisor_I.defined()) to_fold_[{unit.stage, unit.begin}] = shared.divisor_I;
  }
}

void StageSolver::solve(model::Block& block, std::int64_t stage, const StageStatistics& statistics, const ModuleSample* sample) {
  const size_t groups = block.groups(stage).size();
  if (follows_norm(stage)) return solve_unit(block, make_unit(block, stage, 0, groups, statistics), sample);
  for (size_t g = 0; g < groups; ++g) solve_unit(block, make_unit(block, stage, g, g + 1, statistics), sample);
}

}  // namespace miq::executor
