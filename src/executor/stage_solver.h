// One stage of a block, from its statistics to quantized linears: transform, round, and at the block's
// end fold what can be folded.
#pragma once

#include <functional>

#include "distill.h"
#include "miq/executor/pipeline.h"
#include "rotation.h"
#include "scale_group.h"
#include "scale_search.h"

namespace miq::executor {

class StageSolver {
 public:
  /// rotation: null for none. `report` sees each linear when its block is done.
  StageSolver(const model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const Rotation* rotation,
              std::function<void(const LayerReport&)> report);

  const quantizer::LayerRecipe& recipe_of(const model::Linear& linear) const { return *planned(linear).choice.layer; }
  quantizer::StatisticsNeeds needs(const std::vector<model::Linear*>& stage) const;
  /// Whether a search of that stage looks at sample inputs (AWQ's by its module's output, SmoothQuant's).
  bool wants_sample(model::Block& block, std::int64_t stage) const;

  /// A new block begins; rotates it where the model is rotated.
  void begin_block(model::Block& block);
  /// The float32 weight of a linear of the current block, as the model has it (rotated).
  at::Tensor float_weight(const model::Linear& linear) const;
  /// Trains the block's weights (distill.h); float_weight() gives the trained ones from then on.
  DistillResult distill(model::Block& block, const std::vector<at::Tensor>& inputs, const model::RopeTable& rope, const quantizer::Distillation& options);
  /// Rounds the linears of a stage. statistics: null when nothing needs any; sample: null unless
  /// wants_sample. Afterwards each computes with its quantized weight.
  void solve(model::Block& block, std::int64_t stage, const quantizer::InputStatistics* statistics, const ModuleSample* sample,
             at::ScalarType compute_dtype);
  /// Folds transforms, gives the results to the callbacks, installs the final kernels.
  void finish_block(model::Block& block, const PipelineOptions& options);
  const PlannedLinear& planned(const model::Linear& linear) const { return *by_name_.at(linear.name); }

 private:
  at::Tensor fit_divisor(model::Block& block, std::int64_t stage, const at::Tensor& divisor_I, bool folded) const;
  quantizer::OnlineTransform choose_transform(model::Block& block, std::int64_t stage, std::vector<model::Linear*>& group, bool folded,
                                              const quantizer::InputStatistics* statistics, const at::Tensor& hessian_II,
                                              const ModuleSample* sample) const;
  void round(model::Linear& linear, const quantizer::OnlineTransform& shared, quantizer::StageHessian* hessian,
             const quantizer::InputStatistics* statistics, at::ScalarType compute_dtype);
  void fold(model::Block& block, std::int64_t stage);

  const model::LanguageModel& model_;
  const Rotation* rotation_;
  std::function<void(const LayerReport&)> report_;
  std::map<std::string, const PlannedLinear*> by_name_;
  std::map<std::string, at::Tensor> weights_;  // of the current block, where they are not the checkpoint's
  QuantizedLinears finished_;                  // of the current block
  std::map<std::int64_t, at::Tensor> to_fold_; // divisor of a stage of the current block
};

}  // namespace miq::executor
