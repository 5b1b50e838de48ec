#include "miq/executor/pipeline.h"

#include <chrono>
#include <cmath>

#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/memory.h"
#include "miq/core/progress.h"
#include "miq/model/footprint.h"
#include "miq/quantizer/statistics.h"
#include "resting_place.h"
#include "stage_solver.h"

namespace miq::executor {
namespace {

using model::Block;
using model::BlockState;

// Adds the time until it goes out of scope to a phase.
class PhaseTimer {
 public:
  PhaseTimer(std::map<std::string, double>& phases, const char* phase)
      : total_(phases[phase]), start_(std::chrono::steady_clock::now()) {}
  ~PhaseTimer() { total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  double& total_;
  std::chrono::steady_clock::time_point start_;
};

class Pipeline {
 public:
  Pipeline(model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const PipelineOptions& options)
      : model_(model),
        plan_(plan),
        options_(options),
        rotation_(options.rotation.kind == quantizer::TransformKind::rotation ? std::make_unique<Rotation>(model.architecture(), options.rotation) : nullptr),
        solver_(model, plan, rotation_.get(), [this](const LayerReport& layer) { report(layer); }),
        resting_(options.config.offload, model.device(), options.folder) {
    for (const char* phase : {"read", "forward", "statistics", "solve", "write"}) result_.seconds_by_phase[phase] = 0;
    last_calibrated_ = last_calibrated_block();
  }

  PipelineResult run() {
    const std::int64_t blocks = model_.architecture().num_layers;
    if (rotation_) rotate_ends();
    if (last_calibrated_ >= 0) embed_samples();
    Progress progress("quantizing", blocks, "block");
    for (std::int64_t l = 0; l < blocks; ++l) {
      model_.prefetch_block(l + 1);
      Block block = read_block(l);
      if (options_.survey) {
        survey_block(block);
        progress.advance();
        continue;
      }
      if (options_.distillation.steps > 0) distill(block);
      if (l > last_calibrated_)
        for (std::int64_t s = 0; s < block.num_stages(); ++s) solve_stage(block, s, statistics_for(block, s));
      else if (options_.config.order == Order::stage)
        quantize_by_stages(block);
      else
        quantize_whole(block);
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

  void rotate_ends() {
    const PhaseTimer timer(result_.seconds_by_phase, "solve");
    rotation_->rotate_ends(model_);
    if (!options_.on_tensor) return;
    const model::Architecture& a = model_.architecture();
    options_.on_tensor(a.embedding + ".weight", model_.embedding_VH());
    options_.on_tensor(a.final_norm + ".weight", model_.final_norm_H());
    options_.on_tensor(a.head + ".weight", model_.head_VH());
  }

  // Microbatches: as many samples as the activations of one stage leave room for.
  void embed_samples() {
    const PhaseTimer timer(result_.seconds_by_phase, "forward");
    std::int64_t longest = 0;
    for (const at::Tensor& ids : options_.calibration_ids) {
      const std::int64_t sample_bytes = ids.size(1) * model::activation_bytes_per_token(model_.architecture());
      const std::int64_t batch = std::clamp<std::int64_t>(microbatch_bytes(options_.config.memory) / sample_bytes, 1, ids.size(0));
      for (std::int64_t s = 0; s < ids.size(0); s += batch)
        states_.push_back({rest(model_.embed(ids.narrow(0, s, std::min(batch, ids.size(0) - s)))), {}, {}});
      longest = std::max(longest, ids.size(1));
    }
    rope_ = &model_.rope(longest);
  }

  at::Tensor rest(const at::Tensor& t) const { return resting_.rest(t); }
  void wake(BlockState& state) const { resting_.wake(state); }
  void put_to_rest(BlockState& state) const { resting_.rest(state); }

  Block read_block(std::int64_t layer) {
    const PhaseTimer timer(result_.seconds_by_phase, "read");
    Block block = model_.load_block(layer, /*convert=*/false);
    solver_.begin_block(block);
    if (layer <= last_calibrated_)
      for (model::Linear* linear : block.linears()) linear->weight_OI = linear->weight_OI.to(options_.compute_dtype);
    return block;
  }

  void begin(const Block& block, std::int64_t stage, BlockState& state) {
    const PhaseTimer timer(result_.seconds_by_phase, "forward");
    block.begin_stage(stage, state, options_.compute_dtype);
  }
  void end(const Block& block, std::int64_t stage, BlockState& state) {
    const PhaseTimer timer(result_.seconds_by_phase, "forward");
    block.end_stage(stage, state, *rope_);
  }
  void gather(const StageStatistics& statistics, const BlockState& state) {
    const PhaseTimer timer(result_.seconds_by_phase, "statistics");
    for (size_t g = 0; g < statistics.size(); ++g)
      if (statistics[g]) statistics[g]->add(state.x[g], state.hidden_BTH.size(0));
  }

  // One for each group, of what any linear of the stage needs: groups are merged where they share a transform.
  StageStatistics make_statistics(Block& block, std::int64_t stage, const quantizer::StatisticsNeeds& needs) const {
    StageStatistics statistics;
    for (const auto& group : block.groups(stage))
      statistics.push_back(needs.any() ? std::make_unique<quantizer::InputStatistics>(group.front()->in_features, model_.device(), needs) : nullptr);
    return statistics;
  }
  StageStatistics statistics_for(Block& block, std::int64_t stage) const { return make_statistics(block, stage, solver_.needs(block.stage(stage))); }

  at::Tensor forward_block(const Block& block, const at::Tensor& hidden) {
    const PhaseTimer timer(result_.seconds_by_phase, "forward");
    return rest(block.forward(hidden.to(model_.device()), options_.compute_dtype, *rope_));
  }

  // The first samples' state at the start of a stage, for searches that look at more than statistics.
  void take_sample(Block& block, std::int64_t stage, const BlockState& state) {
    constexpr std::int64_t kTokens = 512;
    if (!solver_.wants_sample(block, stage)) return;
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

  // True sequential: every stage sees the stages before it quantized; one forward pass in all.
  void quantize_by_stages(Block& block) {
    std::vector<at::Tensor> float_outputs;
    if (options_.config.propagate == Propagate::floating)
      for (const BlockState& state : states_) float_outputs.push_back(forward_block(block, state.hidden_BTH));
    for (std::int64_t s = 0; s < block.num_stages(); ++s) {
      const auto statistics = statistics_for(block, s);
      for (BlockState& state : states_) {
        wake(state);
        if (s > 0) end(block, s - 1, state);
        begin(block, s, state);
        gather(statistics, state);
        take_sample(block, s, state);
        put_to_rest(state);
      }
      solve_stage(block, s, statistics);
    }
    for (size_t i = 0; i < states_.size(); ++i) {
      wake(states_[i]);
      if (float_outputs.empty())
        end(block, block.num_stages() - 1, states_[i]);
      else
        states_[i] = {float_outputs[i], {}, {}};
      put_to_rest(states_[i]);
    }
  }

  // All statistics from one pass over the unquantized block; a second one where the next block is to
  // see the quantized output.
  void quantize_whole(Block& block) {
    std::vector<StageStatistics> statistics;
    for (std::int64_t s = 0; s < block.num_stages(); ++s) statistics.push_back(statistics_for(block, s));
    const bool again = options_.config.propagate == Propagate::quantized;
    std::vector<at::Tensor> inputs;
    for (BlockState& state : states_) {
      wake(state);
      if (again) inputs.push_back(rest(state.hidden_BTH.clone()));
      for (std::int64_t s = 0; s < block.num_stages(); ++s) {
        begin(block, s, state);
        gather(statistics[static_cast<size_t>(s)], state);
        take_sample(block, s, state);
        end(block, s, state);
      }
      put_to_rest(state);
    }
    for (std::int64_t s = 0; s < block.num_stages(); ++s) solve_stage(block, s, statistics[static_cast<size_t>(s)]);
    for (size_t i = 0; i < inputs.size(); ++i) states_[i] = {forward_block(block, inputs[i]), {}, {}};
  }

  // Looks at all linears of the float block, and goes on with its float output.
  void survey_block(Block& block) {
    std::vector<StageStatistics> statistics;
    for (std::int64_t s = 0; s < block.num_stages(); ++s) statistics.push_back(make_statistics(block, s, {.hessian = true}));
    for (BlockState& state : states_) {
      wake(state);
      for (std::int64_t s = 0; s < block.num_stages(); ++s) {
        begin(block, s, state);
        gather(statistics[static_cast<size_t>(s)], state);
        end(block, s, state);
      }
      put_to_rest(state);
    }
    const PhaseTimer timer(result_.seconds_by_phase, "solve");
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
    const PhaseTimer timer(result_.seconds_by_phase, "solve");
    std::vector<at::Tensor> inputs;
    for (BlockState& state : states_) {
      wake(state);
      inputs.push_back(state.hidden_BTH);
    }
    const DistillResult done = solver_.distill(block, inputs, *rope_, options_.distillation);
    log_info("block " + std::to_string(block.layer()) + ": distilled, mean squared error " + std::to_string(done.loss_before) + " -> " + std::to_string(done.loss_after));
    for (BlockState& state : states_) put_to_rest(state);
  }

  // Rounds the linears of a stage and puts their values in place.
  void solve_stage(Block& block, std::int64_t stage, const StageStatistics& statistics) {
    const PhaseTimer timer(result_.seconds_by_phase, "solve");
    const auto sample = samples_.find(stage);
    solver_.solve(block, stage, statistics, sample == samples_.end() ? nullptr : &sample->second,
                  block.layer() <= last_calibrated_ ? options_.compute_dtype : at::ScalarType::Undefined);
    samples_.erase(stage);
  }

  void report(const LayerReport& layer) {
    result_.layers.push_back(layer);
    for (const quantizer::Event& event : layer.events) {
      if (options_.strict)
        throw Error(ErrorKind::numeric, event.code + ": " + event.detail, layer.planned.name, "strict is set; without it this is a warning");
      log_warning(layer.planned.name + ": " + event.code + ": " + event.detail);
    }
  }

  void finish_block(Block block) {
    const PhaseTimer timer(result_.seconds_by_phase, "write");
    solver_.finish_block(block, options_);
    model_.release_block(block.layer());
    if (options_.keep_blocks) result_.blocks.push_back(std::move(block));
  }

  model::LanguageModel& model_;
  const std::vector<PlannedLinear>& plan_;
  const PipelineOptions& options_;
  std::unique_ptr<Rotation> rotation_;
  StageSolver solver_;
  RestingPlace resting_;
  std::int64_t last_calibrated_ = -1;
  std::vector<BlockState> states_;
  const model::RopeTable* rope_ = nullptr;
  std::map<std::int64_t, ModuleSample> samples_;  // by stage, of the current block
  PipelineResult result_;
};

}  // namespace

std::int64_t microbatch_bytes(std::int64_t memory) {
  constexpr std::int64_t kUsual = std::int64_t{128} << 20;
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
