#include "calibration_pass.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "cost.h"
#include "miq/core/device_memory.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/process_group.h"
#include "miq/model/footprint.h"
#include "miq/quantizer/statistics.h"

namespace miq::executor {

using model::Block;
using model::BlockState;

namespace {

// Sequences [begin, begin + count) of a microbatch, at whatever place of the block it is: views.
BlockState part_of(const BlockState& state, std::int64_t begin, std::int64_t count) {
  const std::int64_t length = state.hidden_BTH.size(1);
  BlockState part{state.hidden_BTH.narrow(0, begin, count), {}, {}};
  const bool routed = !state.routing.tokens.empty();
  for (size_t e = 0; e < state.x.size(); ++e) {
    if (!routed) {
      part.x.push_back(state.x[e].narrow(0, begin, count));
      continue;
    }
    const at::Tensor& tokens = state.routing.tokens[e];  // ascending
    const std::int64_t first = tokens.lt(begin * length).sum().item<std::int64_t>(), rows = tokens.lt((begin + count) * length).sum().item<std::int64_t>() - first;
    part.x.push_back(state.x[e].narrow(0, first, rows));
    part.routing.tokens.push_back(tokens.narrow(0, first, rows) - begin * length);
    part.routing.weights.push_back(state.routing.weights[e].narrow(0, first, rows));
  }
  return part;
}

}  // namespace

Offload resting_place(const model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const PipelineOptions& options) {
  if (options.config.offload != Offload::automatic) return options.config.offload;
  std::int64_t tokens = 0;
  for (const at::Tensor& batch : options.calibration_ids) tokens += batch.numel();
  const Memory memory = expected_memory(model, plan, options.config, static_cast<std::int64_t>(c10::elementSize(options.compute_dtype)), tokens);
  const char* const place = memory.offload == Offload::none ? "on the device" : memory.offload == Offload::cpu ? "in the CPU's memory" : "on disk";
  if (!memory.why.empty() && process_group::rank() == 0) log_info("hidden states rest " + std::string(place) + ": " + memory.why);
  return memory.offload;
}

CalibrationPass::CalibrationPass(model::LanguageModel& model, const PipelineOptions& options, Offload offload, std::map<std::string, double>& phases)
    : model_(model), options_(options), phases_(phases), resting_(offload, model.device(), options.folder) {
  const PhaseTimer timer(phases_, "forward");
  std::int64_t longest = 0;
  for (const at::Tensor& all : options_.calibration_ids) {
    const auto [first, last] = process_group::own_part(all.size(0));
    longest = std::max(longest, all.size(1));
    if (first == last) continue;
    const at::Tensor ids = all.narrow(0, first, last - first);
    const std::int64_t sample_bytes = ids.size(1) * model::activation_bytes_per_token(model_.architecture());
    const std::int64_t batch = std::clamp<std::int64_t>(microbatch_bytes(options_.config.memory, model_.device()) / sample_bytes, 1, ids.size(0));
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

// What adding up takes is asked for beforehand: half of a sum would be counted twice by another try.
void CalibrationPass::gather(const StageStatistics& statistics, const BlockState& state) {
  const PhaseTimer timer(phases_, "statistics");
  if (!model_.device().is_cpu()) {
    std::int64_t largest = 0;
    for (const at::Tensor& x : state.x) largest = std::max(largest, static_cast<std::int64_t>(x.nbytes()));
    at::empty({2 * largest}, at::TensorOptions(at::kByte).device(model_.device()));
  }
  try {
    for (size_t g = 0; g < statistics.size(); ++g)
      if (statistics[g]) statistics[g]->add(state.x[g], state.hidden_BTH.size(0));
  } catch (const c10::OutOfMemoryError& error) {
    no_room("the statistics", error.what_without_backtrace());
  }
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

void CalibrationPass::no_room(const std::string& what, const std::string& problem) const {
  throw Error(ErrorKind::unsupported, model_.device().str() + " has no room for " + what + ": " + problem.substr(0, problem.find('\n')), "pipeline",
              "lower calibration.seqlen, set pipeline.offload: cpu (or disk), or use a GPU with more memory");
}

void CalibrationPass::halve(std::int64_t sequences, const std::string& problem) {
  const std::string device = model_.device().str();
  if (sequences <= 1) no_room("a single calibration sequence", problem);
  most_sequences_ = sequences / 2;
  log_warning(device + " has no room for " + std::to_string(sequences) + " calibration sequences at once: from here on " + std::to_string(most_sequences_) + " go through a block together");
  empty_device_cache(model_.device());
}

void CalibrationPass::run(const std::vector<Step>& steps) {
  std::vector<size_t> done(states_.size(), 0);
  for (size_t i = 0; i < states_.size();) {
    const std::int64_t sequences = states_[i].hidden_BTH.size(0);
    if (most_sequences_ > 0 && sequences > most_sequences_) {
      BlockState rest = part_of(states_[i], most_sequences_, sequences - most_sequences_);
      states_[i] = part_of(states_[i], 0, most_sequences_);
      states_.insert(states_.begin() + static_cast<std::ptrdiff_t>(i) + 1, std::move(rest));
      done.insert(done.begin() + static_cast<std::ptrdiff_t>(i) + 1, done[i]);
    }
    std::string problem;
    try {
      for (; done[i] < steps.size(); ++done[i]) steps[done[i]](states_[i]);
    } catch (const c10::OutOfMemoryError& error) {
      problem = error.what_without_backtrace();
    }
    if (problem.empty()) ++i;
    else halve(states_[i].hidden_BTH.size(0), problem);
  }
}

// The inputs of a stage that has been reached, and what is taken of them.
void CalibrationPass::add_stage(std::vector<Step>& steps, Block& block, std::int64_t stage, const StageStatistics* statistics, bool sample) {
  steps.push_back([this, &block, stage](BlockState& state) { begin(block, stage, state); });
  if (statistics != nullptr) steps.push_back([this, statistics](BlockState& state) { gather(*statistics, state); });
  if (sample) steps.push_back([this, &block, stage](BlockState& state) { take_sample(block, stage, state); });
}

void CalibrationPass::reach_stage(Block& block, std::int64_t stage, const StageStatistics& statistics, bool sample) {
  std::vector<Step> steps = {[this](BlockState& state) { resting_.wake(state); }};
  if (stage > 0) steps.push_back([this, &block, stage](BlockState& state) { end(block, stage - 1, state); });
  add_stage(steps, block, stage, &statistics, sample);
  steps.push_back([this](BlockState& state) { resting_.rest(state); });
  run(steps);
  join_ranks(statistics);
}

void CalibrationPass::join_ranks(const StageStatistics& statistics) {
  const PhaseTimer timer(phases_, "statistics");
  for (const auto& own : statistics)
    if (own) own->all_reduce();
}

void CalibrationPass::leave_block(const Block& block) {
  run({[this](BlockState& state) { resting_.wake(state); }, [this, &block](BlockState& state) { end(block, block.num_stages() - 1, state); },
       [this](BlockState& state) { resting_.rest(state); }});
}

void CalibrationPass::pass_block(Block& block, const std::vector<StageStatistics>& statistics, const std::vector<bool>& samples) {
  std::vector<Step> steps = {[this](BlockState& state) { resting_.wake(state); }};
  for (std::int64_t s = 0; s < block.num_stages(); ++s) {
    const auto place = static_cast<size_t>(s);
    add_stage(steps, block, s, statistics.empty() ? nullptr : &statistics[place], !samples.empty() && samples[place]);
    steps.push_back([this, &block, s](BlockState& state) { end(block, s, state); });
  }
  steps.push_back([this](BlockState& state) { resting_.rest(state); });
  run(steps);
  for (const StageStatistics& stage : statistics) join_ranks(stage);
}

std::vector<at::Tensor> CalibrationPass::outputs(const Block& block) {
  const PhaseTimer timer(phases_, "forward");
  std::vector<at::Tensor> list;
  run({[&](BlockState& state) { list.push_back(resting_.rest(block.forward(state.hidden_BTH.to(model_.device()), options_.compute_dtype, *rope_))); }});
  return list;
}

std::vector<at::Tensor> CalibrationPass::copy_hidden() {
  std::vector<at::Tensor> list;
  run({[this](BlockState& state) { resting_.wake(state); }, [&](BlockState& state) { list.push_back(resting_.rest(state.hidden_BTH.clone())); },
       [this](BlockState& state) { resting_.rest(state); }});
  return list;
}

void CalibrationPass::set_hidden(const std::vector<at::Tensor>& hidden) {
  states_.clear();  // microbatches may have been larger when these were taken
  for (const at::Tensor& own : hidden) states_.push_back({own, {}, {}});
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
