// The end of a block: transforms are folded into the operations before them, and what is finished is given away.
#include <ATen/ATen.h>

#include "quantized_kernel.h"
#include "stage_solver.h"

namespace miq::executor {

// Until here every divisor stood beside its linear; now the operation before takes it.
void StageSolver::fold(model::Block& block, std::int64_t stage, size_t group, const at::Tensor& divisor) {
  const FoldTarget target = fold_target(block, model_.architecture(), stage, group);
  const auto groups = block.groups(stage);
  const auto forget = [&](const std::vector<model::Linear*>& linears) {
    for (const model::Linear* linear : linears) finished_.at(linear->name)->online.divisor_I = at::Tensor();
  };
  if (target.norm == nullptr) {
    divide_rows(*finished_.at(target.linear->name), target, stage == kOut ? rows_of_v(divisor, model_.architecture()) : divisor);
    if (target.linear->bias_O.defined()) folded_biases_.insert(target.linear->name);
    return forget(groups[group]);
  }
  // As it is stored: the divisor was chosen so that this rounds to the quotient itself.
  block.*target.norm = (block.*target.norm / divisor).to(model_.source().tensor(target.name + ".weight").scalar_type()).to(at::kFloat);
  if (stage == kGateUp && block.router_EH.defined()) block.router_EH = block.router_EH * divisor;
  for (const auto& linears : groups) forget(linears);
}

// Norms, router and biases that transforms changed.
void StageSolver::store_changes(const model::Block& block, const PipelineOptions& options) const {
  if (!options.on_tensor) return;
  const auto store = [&](const std::string& name, const at::Tensor& tensor) {
    options.on_tensor(name, tensor.to(model_.source().tensor(name).scalar_type()));
  };
  const model::Architecture& a = model_.architecture();
  const std::string prefix = a.block_name(block.layer());
  if (norm_changed(kQkv)) store(prefix + a.names.input_norm + ".weight", block.input_norm_H);
  if (norm_changed(kGateUp)) store(prefix + a.names.post_attention_norm + ".weight", block.post_attention_norm_H);
  if (norm_changed(kGateUp) && block.router_EH.defined()) store(prefix + a.names.router + ".weight", block.router_EH);
}

// Linears of one input together: servers fuse them.
void StageSolver::hand_over(model::Block& block, const PipelineOptions& options) const {
  if (!options.on_linears) return;
  for (std::int64_t stage = 0; stage < block.num_stages(); ++stage)
    for (const auto& group : block.groups(stage)) {
      std::vector<format::NamedLinear> fused;
      for (const model::Linear* linear : group)
        if (const auto found = finished_.find(linear->name); found != finished_.end()) fused.push_back({linear->name, found->second});
      if (!fused.empty()) options.on_linears(fused);
    }
}

void StageSolver::finish_block(model::Block& block, const PipelineOptions& options) {
  for (const auto& [place, divisor] : to_fold_) fold(block, place.first, place.second, divisor);
  store_changes(block, options);
  hand_over(block, options);
  for (model::Linear* linear : block.linears()) {
    const at::ScalarType stored = model_.source().tensor(linear->name + ".weight").scalar_type();
    if (options.on_tensor && linear->bias_O.defined() && (rotation_ != nullptr || folded_biases_.count(linear->name)))
      options.on_tensor(linear->name + ".bias", linear->bias_O.to(model_.source().tensor(linear->name + ".bias").scalar_type()));
    const auto found = finished_.find(linear->name);
    if (found == finished_.end()) {
      // Kept in float: a view of the file again, not the calibration pass's converted copy.
      if (rotation_ == nullptr) {
        linear->weight_OI = stored_weight(*linear);
      } else {
        linear->weight_OI = float_weight(*linear).to(stored);
        if (options.on_tensor) options.on_tensor(linear->name + ".weight", linear->weight_OI);
      }
      continue;
    }
    const quantizer::QuantizedLinear& done = *found->second;
    report_({planned(*linear), done.loss, done.relative_error, done.bits_per_weight(), done.bytes(), done.events});
    linear->weight_OI = at::Tensor();
    linear->kernel = make_quantized_kernel(found->second);
  }
  finished_.clear();
  weights_.clear();
  stored_.clear();
}

}  // namespace miq::executor
