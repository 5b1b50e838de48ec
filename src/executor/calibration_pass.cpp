#include "calibration_pass.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "miq/core/process_group.h"
#include "miq/model/footprint.h"
#include "miq/quantizer/statistics.h"

namespace miq::executor {

using model::Block;
using model::BlockState;

CalibrationPass::CalibrationPass(model::LanguageModel& model, const PipelineOptions& options, std::map<std::string, double>& phases)
    : model_(model), options_(options), phases_(phases), resting_(options.config.offload, model.device(), options.folder) {
  const PhaseTimer timer(phases_, "forward");
  std::int64_t longest = 0;
  for (const at::Tensor& all : options_.calibration_ids) {
    const auto [first, last] = process_group::own_part(all.size(0));
    longest = std::max(longest, all.size(1));
    if (first == last) continue;
    const at::Tensor ids = all.narrow(0, first, last - first);
    const std::int64_t sample_bytes = ids.size(1) * model::activation_bytes_per_token(model_.architecture());
    const std::int64_t batch = std::clamp<std::int64_t>(microbatch_bytes(options_.config.memory) / sample_bytes, 1, ids.size(0));
    for (std::int64_t s = 0; s < ids.size(0); s += batch)
      states_.push_back({resting_.rest(model_.embed(ids.narrow(0, s, std::min(batch, ids.size(0) - s)))), {}, {}});
  }
  rope_ = &model_.rope(longest);
}

void CalibrationPass::begin(const Block& block, std::int64_t stage, BlockState& state) {
  const PhaseTimer timer(phases_, "forward");
  block.begin_stage(stage, state, options_.compute_dtype);
}

void CalibrationPass::end(const Block& block, std::int64_t stage, BlockState& state) {
  const PhaseTimer timer(phases_, "forward");
  block.end_stage(stage, state, *rope_);
}

void CalibrationPass::gather(const StageStatistics& statistics, const BlockState& state) {
  const PhaseTimer timer(phases_, "statistics");
  for (size_t g = 0; g < statistics.size(); ++g)
    if (statistics[g]) statistics[g]->add(state.x[g], state.hidden_BTH.size(0));
}

StageStatistics CalibrationPass::make_statistics(Block& block, std::int64_t stage, const quantizer::StatisticsNeeds& needs) const {
  StageStatistics statistics;
  for (const auto& group : block.groups(stage))
    statistics.push_back(needs.any() ? std::make_unique<quantizer::InputStatistics>(group.front()->in_features, model_.device(), needs) : nullptr);
  return statistics;
}

// The first samples' state at the start of a stage, for searches that look at more than statistics.
void CalibrationPass::take_sample(const Block& block, std::int64_t stage, const BlockState& state) {
  constexpr std::int64_t kTokens = 512;
  ModuleSample& sample = samples_[stage];
  const std::int64_t length = state.hidden_BTH.size(1);
  std::int64_t tokens = 0;
  for (const BlockState& taken : sample.states) tokens += taken.hidden_BTH.size(0) * length;
  const std::int64_t wanted = std::min(state.hidden_BTH.size(0), (kTokens - tokens + length - 1) / length);
  if (tokens >= kTokens || wanted <= 0) return;
  sample.block = &block;
  sample.stage = stage;
  sample.rope = rope_;
  BlockState taken{state.hidden_BTH.narrow(0, 0, wanted).clone(), {}, {}};
  if (follows_norm(stage))
    block.begin_stage(stage, taken, options_.compute_dtype);
  else
    for (const at::Tensor& x : state.x) taken.x.push_back(x.narrow(0, 0, x.dim() == 3 ? wanted : std::min(x.size(0), kTokens)).clone());
  sample.states.push_back(std::move(taken));
}

void CalibrationPass::reach_stage(Block& block, std::int64_t stage, const StageStatistics& statistics, bool sample) {
  for (BlockState& state : states_) {
    resting_.wake(state);
    if (stage > 0) end(block, stage - 1, state);
    begin(block, stage, state);
    gather(statistics, state);
    if (sample) take_sample(block, stage, state);
    resting_.rest(state);
  }
  join_ranks(statistics);
}

void CalibrationPass::join_ranks(const StageStatistics& statistics) {
  const PhaseTimer timer(phases_, "statistics");
  for (const auto& own : statistics)
    if (own) own->all_reduce();
}

void CalibrationPass::leave_block(const Block& block) {
  for (BlockState& state : states_) {
    resting_.wake(state);
    end(block, block.num_stages() - 1, state);
    resting_.rest(state);
  }
}

void CalibrationPass::pass_block(Block& block, const std::vector<StageStatistics>& statistics, const std::vector<bool>& samples) {
  for (BlockState& state : states_) {
    resting_.wake(state);
    for (std::int64_t s = 0; s < block.num_stages(); ++s) {
      begin(block, s, state);
      if (!statistics.empty()) gather(statistics[static_cast<size_t>(s)], state);
      if (!samples.empty() && samples[static_cast<size_t>(s)]) take_sample(block, s, state);
      end(block, s, state);
    }
    resting_.rest(state);
  }
  for (const StageStatistics& stage : statistics) join_ranks(stage);
}

std::vector<at::Tensor> CalibrationPass::outputs(const Block& block) {
  const PhaseTimer timer(phases_, "forward");
  std::vector<at::Tensor> list;
  for (const BlockState& state : states_) list.push_back(resting_.rest(block.forward(state.hidden_BTH.to(model_.device()), options_.compute_dtype, *rope_)));
  return list;
}

std::vector<at::Tensor> CalibrationPass::copy_hidden() {
  std::vector<at::Tensor> list;
  for (BlockState& state : states_) {
    resting_.wake(state);
    list.push_back(resting_.rest(state.hidden_BTH.clone()));
    resting_.rest(state);
  }
  return list;
}

void CalibrationPass::set_hidden(const std::vector<at::Tensor>& hidden) {
  for (size_t i = 0; i < states_.size(); ++i) states_[i] = {hidden[i], {}, {}};
}

std::vector<at::Tensor> CalibrationPass::wake_hidden() {
  std::vector<at::Tensor> list;
  for (BlockState& state : states_) {
    resting_.wake(state);
    list.push_back(state.hidden_BTH);
  }
  return list;
}

void CalibrationPass::rest() {
  for (BlockState& state : states_) resting_.rest(state);
}

const ModuleSample* CalibrationPass::sample(std::int64_t stage) const {
  const auto found = samples_.find(stage);
  return found == samples_.end() ? nullptr : &found->second;
}

}  // namespace miq::executor
