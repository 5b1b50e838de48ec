// AWQ's choice of scales for a stage: by the Hessian alone, and for q,k,v and gate,up by the output of
// their module at the best few of these.
#pragma once

#include "miq/model/block.h"
#include "miq/quantizer/transform.h"

namespace miq::executor {

/// A linear of a scale group, its float32 weight and the grid it will have. `group`: the input it reads, of
/// those of its stage.
struct ScaledLinear {
  model::Linear* linear;
  at::Tensor weight_OI;
  quantizer::Grid grid;
  size_t group = 0;
};

/// The state of some calibration samples at the stage's start, for the module's own output.
struct ModuleSample {
  const model::Block* block = nullptr;
  std::int64_t stage = 0;
  const model::RopeTable* rope = nullptr;
  std::vector<model::BlockState> states;
};

/// Scales [I] of the group. `hessians`: by ScaledLinear::group. `prepare` makes a candidate's scales fit to
/// be folded (identity if not). `module`: null to decide by the Hessians alone. The linears' weights are
/// left as they were.
at::Tensor search_awq_scales(const quantizer::Transform& transform, std::vector<ScaledLinear>& group, const std::vector<at::Tensor>& hessians,
                             const at::Tensor& mean_abs_I, const std::function<at::Tensor(const at::Tensor&)>& prepare,
                             const ModuleSample* module);

/// SmoothQuant's scales at the alpha of 0.3, 0.4 .. 0.9 (or no scales) with the least error of the
/// linears' outputs, weights and `activation` quantized, for the sample's inputs.
at::Tensor search_smoothquant_scales(std::vector<ScaledLinear>& group, const at::Tensor& max_abs_I, const quantizer::Activation& activation,
                                     const ModuleSample& sample, const std::function<at::Tensor(const at::Tensor&)>& prepare);

/// Mean squared difference of the module's output (self_attn, mlp) between its linears as they are and
/// quantized at each of `scales`.
std::vector<double> module_losses(std::vector<ScaledLinear>& group, const std::vector<at::Tensor>& scales, const ModuleSample& module);

}  // namespace miq::executor
