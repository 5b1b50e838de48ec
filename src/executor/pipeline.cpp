#include "miq/executor/pipeline.h"

#include <algorithm>

#include "block_journal.h"
#include "calibration_pass.h"
#include "miq/core/device.h"
#include "miq/core/device_memory.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/memory.h"
#include "miq/core/process_group.h"
#include "miq/core/progress.h"

namespace miq::executor {
namespace {

using model::Block;

class Pipeline {
 public:
  Pipeline(model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const PipelineOptions& options)
      : model_(model),
        plan_(plan),
        options_(options),
        rotation_(options.rotation.kind == quantizer::TransformKind::rotation ? std::make_unique<Rotation>(model.architecture(), options.rotation) : nullptr),
        solver_(model, plan, rotation_.get(), [this](const LayerReport& layer) { report(layer); }),
        products_(model.device(), options.config.tf32) {
    solver_.solve_on(options.solve_on);
    for (const char* phase : {"read", "forward", "statistics", "solve", "write"}) phases_[phase] = 0;
    last_calibrated_ = last_calibrated_block();
  }

  PipelineResult run() {
    const std::int64_t blocks = model_.architecture().num_layers, finished = finished_blocks();
    if (rotation_) rotate_ends();
    // Where no block that is left needs data, nothing goes through the finished ones.
    if (last_calibrated_ >= finished) pass_.emplace(model_, options_, resting_place(model_, plan_, options_), phases_);
    Progress progress("quantizing", blocks, "block");
    for (std::int64_t l = 0; l < blocks; ++l) {
      Block block = read_block(l);
      model_.prefetch_block(l + 1);
      if (options_.survey) {
        survey_block(block);
        progress.advance();
        continue;
      }
      if (l < finished) {
        restore_block(block);
      } else {
        solve_block(block);
      }
      finish_block(std::move(block));
      progress.advance();
    }
    return std::move(result_);
  }

 private:
  // Blocks behind the last one that needs data are rounded without a forward pass.
  std::int64_t last_calibrated_block() const {
    if (options_.survey || options_.distillation.steps > 0) return model_.architecture().num_layers - 1;
    std::int64_t last = -1;
    for (const PlannedLinear& planned : plan_)
      if (quantizer::statistics_needs(*planned.choice.layer).any()) last = planned.layer;
    return last;
  }

  // Rank 0 has the journal.
  std::int64_t finished_blocks() const {
    at::Tensor count = at::scalar_tensor(options_.journal != nullptr ? options_.journal->finished_blocks() : 0, at::kLong);
    process_group::broadcast(count);
    return count.item<std::int64_t>();
  }

  SolvedBlock read_journal(std::int64_t layer) const {
    if (process_group::world_size() == 1) return options_.journal->read(layer);
    std::string bytes;
    if (process_group::rank() == 0) bytes = to_bytes(options_.journal->read(layer));
    process_group::broadcast(bytes);
    return solved_block(bytes);
  }

  void rotate_ends() {
    const PhaseTimer timer(phases_, "solve");
    rotation_->rotate_ends(model_);
    if (!options_.on_tensor) return;
    const model::Architecture& a = model_.architecture();
    options_.on_tensor(a.embedding + ".weight", model_.embedding_VH());
    options_.on_tensor(a.final_norm + ".weight", model_.final_norm_H());
    options_.on_tensor(a.head + ".weight", model_.head_VH());
  }

  bool is_calibrated(const Block& block) const { return pass_ && block.layer() <= last_calibrated_; }
  at::ScalarType weight_dtype(const Block& block) const { return is_calibrated(block) ? options_.compute_dtype : at::ScalarType::Undefined; }

  Block read_block(std::int64_t layer) {
    const PhaseTimer timer(phases_, "read");
    Block block = model_.load_block(layer, /*convert=*/false);
    solver_.begin_block(block);
    solver_.keep_weights(block);
    if (is_calibrated(block))
      for (model::Linear* linear : block.linears()) linear->weight_OI = linear->weight_OI.to(options_.compute_dtype);
    return block;
  }

  void solve_block(Block& block) {
    const Stopwatch watch(phases_);
    if (options_.distillation.steps > 0) distill(block);
    if (!is_calibrated(block))
      solve_without_data(block);
    else if (options_.config.order == Order::stage)
      solve_by_stages(block);
    else
      solve_whole(block);
    if (options_.journal == nullptr) return;
    SolvedBlock solved = solver_.solved();
    solved.effort = watch.effort();
    const PhaseTimer timer(phases_, "write");
    options_.journal->write(block.layer(), solved);
  }

  // A block that an earlier process solved: its linears as they were, and the samples through it just as they went then.
  void restore_block(Block& block) {
    const bool propagates_float = options_.config.propagate == Propagate::floating;
    if (is_calibrated(block) && propagates_float) leave_float(block);
    const SolvedBlock solved = read_journal(block.layer());
    result_.earlier += solved.effort;
    solver_.restore(block, solved, weight_dtype(block));
    if (!is_calibrated(block) || propagates_float) return;
    if (options_.config.order == Order::stage)
      pass_->pass_block(block, {}, {});
    else
      pass_->set_hidden(pass_->outputs(block));
  }

  // The float block's outputs, made as solving it makes them.
  void leave_float(Block& block) {
    if (options_.config.order == Order::stage)
      pass_->set_hidden(pass_->outputs(block));
    else
      pass_->pass_block(block, {}, {});
  }

  StageStatistics statistics_for(Block& block, std::int64_t stage) { return pass_->make_statistics(block, stage, solver_.needs(block.stage(stage))); }

  void solve_without_data(Block& block) {
    for (std::int64_t s = 0; s < block.num_stages(); ++s) solve_stage(block, s, StageStatistics(block.groups(s).size()), nullptr);
    exchange(block);
  }

  // True sequential: every stage sees the stages before it quantized; one forward pass in all.
  void solve_by_stages(Block& block) {
    std::vector<at::Tensor> float_outputs;
    if (options_.config.propagate == Propagate::floating) float_outputs = pass_->outputs(block);
    for (std::int64_t s = 0; s < block.num_stages(); ++s) {
      const StageStatistics statistics = statistics_for(block, s);
      pass_->reach_stage(block, s, statistics, solver_.wants_sample(block, s));
      solve_stage(block, s, statistics, pass_->sample(s));
      exchange(block);
      pass_->forget_sample(s);
    }
    if (float_outputs.empty())
      pass_->leave_block(block);
    else
      pass_->set_hidden(float_outputs);
  }

  // All statistics from one pass over the unquantized block; a second one where the next block is to
  // see the quantized output.
  void solve_whole(Block& block) {
    std::vector<StageStatistics> statistics;
    std::vector<bool> samples;
    for (std::int64_t s = 0; s < block.num_stages(); ++s) {
      statistics.push_back(statistics_for(block, s));
      samples.push_back(solver_.wants_sample(block, s));
    }
    const bool again = options_.config.propagate == Propagate::quantized;
    std::vector<at::Tensor> inputs;
    if (again) inputs = pass_->copy_hidden();
    pass_->pass_block(block, statistics, samples);
    for (std::int64_t s = 0; s < block.num_stages(); ++s) solve_stage(block, s, statistics[static_cast<size_t>(s)], pass_->sample(s));
    exchange(block);
    pass_->forget_samples();
    if (!again) return;
    pass_->set_hidden(inputs);
    pass_->set_hidden(pass_->outputs(block));
  }

  // Looks at all linears of the float block, and goes on with its float output.
  void survey_block(Block& block) {
    std::vector<StageStatistics> statistics;
    for (std::int64_t s = 0; s < block.num_stages(); ++s) statistics.push_back(pass_->make_statistics(block, s, {.hessian = true}));
    pass_->pass_block(block, statistics, {});
    const PhaseTimer timer(phases_, "solve");
    for (std::int64_t s = 0; s < block.num_stages(); ++s) {
      const auto groups = block.groups(s);
      for (size_t g = 0; g < groups.size(); ++g) {
        const quantizer::InputStatistics& own = *statistics[static_cast<size_t>(s)][g];
        quantizer::StageHessian hessian(own.hessian(), own.num_tokens());
        for (model::Linear* linear : groups[g])
          if (!solver_.recipe_of(*linear).keep_float) options_.survey(solver_.planned(*linear), solver_.float_weight(*linear), hessian);
      }
    }
    model_.release_block(block.layer());
  }

  // Better weights for the rounding, trained on the hidden states that the block will see.
  void distill(Block& block) {
    const PhaseTimer timer(phases_, "solve");
    const DistillResult done = solver_.distill(block, pass_->wake_hidden(), pass_->rope(), options_.distillation);
    log_info("block " + std::to_string(block.layer()) + ": distilled, mean squared error " + std::to_string(done.loss_before) + " -> " + std::to_string(done.loss_after));
    pass_->rest();
  }

  // Rounds the linears of a stage.
  void solve_stage(Block& block, std::int64_t stage, const StageStatistics& statistics, const ModuleSample* sample) {
    const PhaseTimer timer(phases_, "solve");
    solver_.solve(block, stage, statistics, sample);
  }

  // Puts the rounded values in place, of all ranks.
  void exchange(Block& block) {
    const PhaseTimer timer(phases_, "solve");
    solver_.exchange(block, weight_dtype(block));
  }

  void report(const LayerReport& layer) {
    result_.layers.push_back(layer);
    for (const quantizer::Event& event : layer.events) {
      if (options_.strict)
        throw Error(ErrorKind::numeric, event.code + ": " + event.detail, layer.planned.name, "strict is set; without it this is a warning");
      if (process_group::rank() == 0) log_warning(layer.planned.name + ": " + event.code + ": " + event.detail);
    }
  }

  void finish_block(Block block) {
    const PhaseTimer timer(phases_, "write");
    solver_.finish_block(block, options_);
    model_.release_block(block.layer());
    if (options_.keep_blocks) result_.blocks.push_back(std::move(block));
  }

  model::LanguageModel& model_;
  const std::vector<PlannedLinear>& plan_;
  const PipelineOptions& options_;
  std::unique_ptr<Rotation> rotation_;
  StageSolver solver_;
  Tf32Products products_;
  std::int64_t last_calibrated_ = -1;
  PipelineResult result_;
  std::map<std::string, double>& phases_ = result_.seconds_by_phase;
  std::optional<CalibrationPass> pass_;  // none where nothing needs data
};

}  // namespace

std::int64_t microbatch_bytes(std::int64_t memory, const at::Device& device) {
  constexpr std::int64_t kUsual = std::int64_t{128} << 20, kUsualOfGpu = std::int64_t{4} << 30;  // more rows make no product faster
  if (!device.is_cpu()) return std::min(kUsualOfGpu, device_memory(device).free / 8);
  return memory > 0 ? std::min(kUsual, memory / 16) : std::min(kUsual, available_memory_bytes() / 8);
}

bool needs_calibration(const std::vector<PlannedLinear>& plan, const quantizer::Recipe& recipe) {
  return recipe.allocation.bits > 0 || recipe.distillation.steps > 0 || std::any_of(plan.begin(), plan.end(), [](const PlannedLinear& planned) {
    return quantizer::statistics_needs(*planned.choice.layer).any();
  });
}

PipelineResult run_pipeline(model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const PipelineOptions& options) {
  return Pipeline(model, plan, options).run();
}

}  // namespace miq::executor
