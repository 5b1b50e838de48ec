// One stage of a block, from its statistics to quantized linears: transform, round, and at the block's
// end fold what can be folded.
#pragma once

#include <functional>
#include <set>

#include "block_journal.h"
#include "distill.h"
#include "miq/executor/pipeline.h"
#include "rotation.h"
#include "scale_group.h"
#include "scale_search.h"

namespace miq::executor {

/// Statistics of a stage's inputs, one for each of its groups (null when nothing needs any).
using StageStatistics = std::vector<std::unique_ptr<quantizer::InputStatistics>>;

/// What is the same for several recipes that are solved from the same statistics of a block.
struct SharedSolutions {
  std::map<std::string, at::Tensor> divisors;  ///< that were searched for, by all that the search depends on
  std::map<std::pair<std::int64_t, size_t>, std::shared_ptr<quantizer::StageHessian>> hessians;  ///< with their factors, by stage and group; not transformed
  std::map<std::string, at::Tensor> weights;   ///< of a block on a GPU, as the checkpoint has them
};

class StageSolver {
 public:
  /// rotation: null for none. `report` sees each linear when its block is done.
  StageSolver(const model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const Rotation* rotation,
              std::function<void(const LayerReport&)> report);

  /// What solvers of the same statistics, which therefore stay as they are, find in common. Of one block; outlives what solves it.
  void share(SharedSolutions* shared) { shared_ = shared; }
  /// GPUs that the linears of a stage are shared out to, the model's first; none: the model's device has them all.
  void solve_on(std::vector<at::Device> devices);

  const quantizer::LayerRecipe& recipe_of(const model::Linear& linear) const { return *planned(linear).choice.layer; }
  quantizer::StatisticsNeeds needs(const std::vector<model::Linear*>& linears) const;
  /// Whether a search of that stage looks at sample inputs (AWQ's by its module's output, SmoothQuant's).
  bool wants_sample(model::Block& block, std::int64_t stage) const;

  /// A new block begins; rotates it where the model is rotated.
  void begin_block(model::Block& block);
  /// Of a block as it was loaded, on a GPU: float_weight() has its weights there, instead of reading them once more.
  void keep_weights(model::Block& block);
  /// The float32 weight of a linear of the current block, as the model has it (rotated).
  at::Tensor float_weight(const model::Linear& linear) const;
  /// Trains the block's weights (distill.h); float_weight() gives the trained ones from then on.
  DistillResult distill(model::Block& block, const std::vector<at::Tensor>& inputs, const model::RopeTable& rope, const quantizer::Distillation& options);
  /// Rounds the linears of a stage: of several ranks each does its share, and has the others' after exchange(). sample: null unless
  /// wants_sample. Once exchanged, each linear computes with its quantized weight.
  void solve(model::Block& block, std::int64_t stage, const StageStatistics& statistics, const ModuleSample* sample);
  void exchange(model::Block& block, at::ScalarType compute_dtype);
  /// What solving has settled of the block, before finish_block folds it.
  SolvedBlock solved() const { return {finished_, to_fold_, {}}; }
  /// In place of solving: the linears as they were solved before. @throws Error{io} when one is missing
  void restore(model::Block& block, const SolvedBlock& journal, at::ScalarType compute_dtype);
  /// Folds transforms, gives the results to the callbacks, installs the final kernels.
  void finish_block(model::Block& block, const PipelineOptions& options);
  const PlannedLinear& planned(const model::Linear& linear) const { return *by_name_.at(linear.name); }

 private:
  struct Unit;  // the groups of a stage that share a transform, with their statistics
  Unit make_unit(model::Block& block, std::int64_t stage, size_t begin, size_t end, const StageStatistics& statistics) const;
  at::Tensor stored_weight(const model::Linear& linear) const;  ///< on the device, in the checkpoint's type
  size_t group_in(const Unit& unit, const model::Linear& linear) const;  ///< of the unit's groups
  void solve_unit(model::Block& block, const Unit& unit, const ModuleSample* sample);
  at::Tensor fit_divisor(model::Block& block, const Unit& unit, const at::Tensor& divisor_I) const;
  quantizer::OnlineTransform choose_transform(model::Block& block, const Unit& unit, const std::vector<model::Linear*>& linears,
                                              const ModuleSample* sample);
  at::Tensor search_divisor(model::Block& block, const Unit& unit, std::vector<ScaledLinear>& members, const ModuleSample* sample);
  bool is_own(const model::Linear& linear);
  void solve_linears(const Unit& unit, const std::vector<model::Linear*>& linears, const quantizer::OnlineTransform& shared);
  std::shared_ptr<quantizer::StageHessian> transformed_hessian(const Unit& unit, size_t group, const quantizer::OnlineTransform& transform, const at::Device& device);
  std::shared_ptr<quantizer::QuantizedLinear> round(const model::Linear& linear, const quantizer::OnlineTransform& shared, quantizer::StageHessian* hessian,
                                                    const quantizer::InputStatistics* statistics, const at::Device& device) const;
  void install(model::Linear& linear, std::shared_ptr<quantizer::QuantizedLinear> quantized, at::ScalarType compute_dtype);
  void fold(model::Block& block, std::int64_t stage, size_t group, const at::Tensor& divisor);
  void store_changes(const model::Block& block, const PipelineOptions& options) const;
  void hand_over(model::Block& block, const PipelineOptions& options) const;
  bool norm_changed(std::int64_t stage) const { return rotation_ != nullptr || to_fold_.count({stage, 0}) != 0; }

  const model::LanguageModel& model_;
  const Rotation* rotation_;
  std::function<void(const LayerReport&)> report_;
  std::map<std::string, const PlannedLinear*> by_name_;
  std::vector<at::Device> devices_;            // at least the model's
  std::map<std::string, at::Tensor> weights_;  // of the current block, where they are not the checkpoint's
  std::map<std::string, at::Tensor> stored_;   // of the current block on a GPU, as the checkpoint has them
  QuantizedLinears finished_;                  // of the current block
  std::map<std::pair<std::int64_t, size_t>, at::Tensor> to_fold_;  // divisor of a stage's group (0 for all behind a norm)
  std::set<std::string> folded_biases_;
  SharedSolutions* shared_ = nullptr;
  std::vector<double> load_;   // of each rank, since the last exchange
  QuantizedLinears own_;       // what this rank has solved since
};

}  // namespace miq::executor
