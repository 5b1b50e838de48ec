// The calibration samples on their way through the blocks, and what is gathered of them.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "miq/core/memory.h"
#include "miq/executor/pipeline.h"
#include "resting_place.h"
#include "scale_search.h"
#include "stage_solver.h"

namespace miq::executor {

/// Adds the time until it goes out of scope to a phase.
class PhaseTimer {
 public:
  PhaseTimer(std::map<std::string, double>& phases, const char* phase) : total_(phases[phase]), start_(std::chrono::steady_clock::now()) {}
  ~PhaseTimer() { total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  double& total_;
  std::chrono::steady_clock::time_point start_;
};

/// What has been spent since its making.
class Stopwatch {
 public:
  explicit Stopwatch(const std::map<std::string, double>& phases) : phases_(phases), before_(phases) {}
  Effort effort() const {
    Effort spent{std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(), cpu_seconds() - cpu_start_, phases_};
    for (const auto& [phase, seconds] : before_) spent.seconds_by_phase[phase] -= seconds;
    return spent;
  }

 private:
  const std::map<std::string, double>& phases_;
  std::map<std::string, double> before_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double cpu_start_ = cpu_seconds();
};

/// Where hidden states rest, as configured or by what there is room for, which a log line says.
Offload resting_place(const model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const PipelineOptions& options);

/// Of several ranks, each has a part of the samples; statistics are of all. Where a GPU has no room for a microbatch, that and all that
/// follow are halved, and what was under way goes on with the halves; @throws Error{unsupported} where it has none for a single sequence.
class CalibrationPass {
 public:
  /// The samples' embeddings, in microbatches: as many samples as the activations of one stage leave room for. `phases` outlives it.
  CalibrationPass(model::LanguageModel& model, const PipelineOptions& options, Offload offload, std::map<std::string, double>& phases);

  const model::RopeTable& rope() const { return *rope_; }

  /// One accumulator for each group of the stage, null when nothing is needed.
  StageStatistics make_statistics(model::Block& block, std::int64_t stage, const quantizer::StatisticsNeeds& needs) const;

  /// Brings every microbatch to the start of the stage (through the linears of the stage before, as they are now) and gathers.
  void reach_stage(model::Block& block, std::int64_t stage, const StageStatistics& statistics, bool sample);
  /// Through the last stage's linears: the next block's input.
  void leave_block(const model::Block& block);
  /// Through all stages of the block as it is, gathering at each. `samples`: the stages of which a sample is wanted.
  void pass_block(model::Block& block, const std::vector<StageStatistics>& statistics, const std::vector<bool>& samples);
  /// The block's outputs for the present states, which stay as they are.
  std::vector<at::Tensor> outputs(const model::Block& block);
  /// Puts the microbatches' hidden states aside, copied, or replaces them.
  std::vector<at::Tensor> copy_hidden();
  void set_hidden(const std::vector<at::Tensor>& hidden);
  /// The hidden states themselves, awake.
  std::vector<at::Tensor> wake_hidden();
  void rest();

  /// What reach_stage and pass_block sampled of a stage, or null; forgotten with take_samples().
  const ModuleSample* sample(std::int64_t stage) const;
  void forget_samples() { samples_.clear(); }
  void forget_sample(std::int64_t stage) { samples_.erase(stage); }

 private:
  /// A part of what is done to a microbatch: done, or, where there was no room for it, not begun.
  using Step = std::function<void(model::BlockState&)>;
  void run(const std::vector<Step>& steps);
  [[noreturn]] void no_room(const std::string& what, const std::string& problem) const;
  void halve(std::int64_t sequences, const std::string& problem);
  void add_stage(std::vector<Step>& steps, model::Block& block, std::int64_t stage, const StageStatistics* statistics, bool sample);
  void begin(const model::Block& block, std::int64_t stage, model::BlockState& state);
  void end(const model::Block& block, std::int64_t stage, model::BlockState& state);
  void gather(const StageStatistics& statistics, const model::BlockState& state);
  void join_ranks(const StageStatistics& statistics);
  void take_sample(const model::Block& block, std::int64_t stage, const model::BlockState& state);

  model::LanguageModel& model_;
  const PipelineOptions& options_;
  std::map<std::string, double>& phases_;
  RestingPlace resting_;
  std::vector<model::BlockState> states_;
  std::int64_t most_sequences_ = 0;  // of a microbatch; 0: as they are
  const model::RopeTable* rope_ = nullptr;
  std::map<std::int64_t, ModuleSample> samples_;  // by stage, of the current block
};

}  // namespace miq::executor
