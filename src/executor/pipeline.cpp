#include "miq/executor/pipeline.h"

#include <chrono>
#include <cmath>

#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/memory.h"
#include "miq/core/progress.h"
#include "miq/quantizer/statistics.h"
#include "quantized_kernel.h"

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
      : model_(model), plan_(plan), options_(options) {
    for (const PlannedLinear& planned : plan) by_name_[planned.name] = &planned;
    for (const char* phase : {"read", "forward", "statistics", "solve", "write"}) result_.seconds_by_phase[phase] = 0;
    last_calibrated_ = last_calibrated_block();
  }

  PipelineResult run() {
    const std::int64_t blocks = model_.architecture().num_layers;
    if (last_calibrated_ >= 0) embed_samples();
    Progress progress("quantizing", blocks, "block");
    for (std::int64_t l = 0; l < blocks; ++l) {
      model_.prefetch_block(l + 1);
      Block block = read_block(l);
      if (l > last_calibrated_)
        for (std::int64_t s = 0; s < block.num_stages(); ++s) solve_stage(block, s, nullptr);
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
  const quantizer::LayerRecipe& recipe_of(const model::Linear& linear) const { return *by_name_.at(linear.name)->choice.layer; }

  bool needs_hessian(const model::Linear& linear) const {
    const quantizer::LayerRecipe& layer = recipe_of(linear);
    return !layer.keep_float && quantizer::needs_hessian(layer.rounding.kind);
  }

  // Blocks behind the last one that needs data are rounded without a forward pass.
  std::int64_t last_calibrated_block() const {
    const auto per_block = static_cast<std::int64_t>(plan_.size()) / model_.architecture().num_layers;
    for (auto i = static_cast<std::int64_t>(plan_.size()) - 1; i >= 0; --i) {
      const quantizer::LayerRecipe& layer = *plan_[static_cast<size_t>(i)].choice.layer;
      if (!layer.keep_float && quantizer::needs_hessian(layer.rounding.kind)) return i / per_block;
    }
    return -1;
  }

  // Microbatches: as many samples as the activations of one stage leave room for.
  void embed_samples() {
    const PhaseTimer timer(result_.seconds_by_phase, "forward");
    const model::Architecture& a = model_.architecture();
    const at::Tensor& ids = options_.calibration_ids;
    const std::int64_t sample_bytes = ids.size(1) * (3 * a.intermediate_size + 6 * a.hidden_size) * 4;
    constexpr std::int64_t kAutoBytes = std::int64_t{128} << 20;
    const std::int64_t budget = options_.config.memory > 0 ? options_.config.memory : std::min(kAutoBytes, available_memory_bytes() / 8);
    const std::int64_t batch = std::clamp<std::int64_t>(budget / sample_bytes, 1, ids.size(0));
    for (std::int64_t s = 0; s < ids.size(0); s += batch)
      states_.push_back({rest(model_.embed(ids.narrow(0, s, std::min(batch, ids.size(0) - s)))), {}});
    rope_ = &model_.rope(ids.size(1));
  }

  // Hidden states between uses: on the device, or in the CPU's memory.
  at::Tensor rest(const at::Tensor& t) const { return options_.config.offload == Offload::cpu ? t.cpu() : t; }
  void wake(BlockState& state) const {
    state.hidden_BTH = state.hidden_BTH.to(model_.device());
    if (state.x.defined()) state.x = state.x.to(model_.device());
  }
  void put_to_rest(BlockState& state) const {
    if (options_.config.offload != Offload::cpu) return;
    state.hidden_BTH = state.hidden_BTH.cpu();
    if (state.x.defined()) state.x = state.x.cpu();
  }

  Block read_block(std::int64_t layer) {
    const PhaseTimer timer(result_.seconds_by_phase, "read");
    Block block = model_.load_block(layer, /*convert=*/false);
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
  void gather(quantizer::InputStatistics& statistics, const BlockState& state) {
    const PhaseTimer timer(result_.seconds_by_phase, "statistics");
    statistics.add(state.x, state.x.size(0));
  }

  std::unique_ptr<quantizer::InputStatistics> statistics_for(Block& block, std::int64_t stage) const {
    for (const model::Linear* linear : block.stage(stage))
      if (needs_hessian(*linear)) return std::make_unique<quantizer::InputStatistics>(linear->in_features, model_.device());
    return nullptr;
  }

  at::Tensor forward_block(const Block& block, const at::Tensor& hidden) {
    const PhaseTimer timer(result_.seconds_by_phase, "forward");
    return rest(block.forward(hidden.to(model_.device()), options_.compute_dtype, *rope_));
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
        if (statistics) gather(*statistics, state);
        put_to_rest(state);
      }
      solve_stage(block, s, statistics.get());
    }
    for (size_t i = 0; i < states_.size(); ++i) {
      wake(states_[i]);
      if (float_outputs.empty())
        end(block, block.num_stages() - 1, states_[i]);
      else
        states_[i] = {float_outputs[i], {}};
      put_to_rest(states_[i]);
    }
  }

  // All statistics from one pass over the unquantized block; a second one where the next block is to
  // see the quantized output.
  void quantize_whole(Block& block) {
    std::vector<std::unique_ptr<quantizer::InputStatistics>> statistics;
    for (std::int64_t s = 0; s < block.num_stages(); ++s) statistics.push_back(statistics_for(block, s));
    const bool again = options_.config.propagate == Propagate::quantized;
    std::vector<at::Tensor> inputs;
    for (BlockState& state : states_) {
      wake(state);
      if (again) inputs.push_back(rest(state.hidden_BTH.clone()));
      for (std::int64_t s = 0; s < block.num_stages(); ++s) {
        begin(block, s, state);
        if (statistics[static_cast<size_t>(s)]) gather(*statistics[static_cast<size_t>(s)], state);
        end(block, s, state);
      }
      put_to_rest(state);
    }
    for (std::int64_t s = 0; s < block.num_stages(); ++s) solve_stage(block, s, statistics[static_cast<size_t>(s)].get());
    for (size_t i = 0; i < inputs.size(); ++i) states_[i] = {forward_block(block, inputs[i]), {}};
  }

  // Rounds the linears of a stage, all with one Hessian, and puts their values in place.
  void solve_stage(Block& block, std::int64_t stage, const quantizer::InputStatistics* statistics) {
    const PhaseTimer timer(result_.seconds_by_phase, "solve");
    std::unique_ptr<quantizer::StageHessian> hessian;
    for (model::Linear* linear : block.stage(stage)) {
      const quantizer::LayerRecipe& layer = recipe_of(*linear);
      if (layer.keep_float) continue;
      if (needs_hessian(*linear) && !hessian) hessian = make_hessian(*statistics, linear->name);
      const at::Tensor weight = model_.source().tensor(linear->name + ".weight").to(model_.device(), at::kFloat).contiguous();
      const quantizer::LinearProblem problem{linear->name, weight, hessian.get()};
      auto quantized = std::make_shared<const quantizer::QuantizedLinear>(
          quantizer::round_linear(problem, layer.grid, layer.range, layer.rounding));
      report(*linear, *quantized);
      if (statistics != nullptr || block.layer() <= last_calibrated_) linear->weight_OI = quantizer::dequantize(*quantized, options_.compute_dtype);
      finished_[linear->name] = std::move(quantized);
    }
  }

  static std::unique_ptr<quantizer::StageHessian> make_hessian(const quantizer::InputStatistics& statistics, const std::string& name) {
    try {
      return std::make_unique<quantizer::StageHessian>(statistics.hessian(), statistics.num_tokens());
    } catch (const Error& error) {
      throw Error(error.kind(), error.message(), name, error.fix());
    }
  }

  void report(const model::Linear& linear, const quantizer::QuantizedLinear& quantized) {
    result_.layers.push_back({*by_name_.at(linear.name), quantized.loss, quantized.relative_error, quantized.bits_per_weight(),
                              quantized.bytes(), quantized.events});
    for (const quantizer::Event& event : quantized.events) log_warning(linear.name + ": " + event.code + ": " + event.detail);
  }

  void finish_block(Block block) {
    const PhaseTimer timer(result_.seconds_by_phase, "write");
    for (model::Linear* linear : block.linears()) {
      const auto found = finished_.find(linear->name);
      if (found == finished_.end()) {
        // Kept in float: a view of the file again, not the calibration pass's converted copy.
        linear->weight_OI = model_.source().tensor(linear->name + ".weight").to(model_.device());
        continue;
      }
      if (options_.on_linear) options_.on_linear(linear->name, *found->second);
      linear->weight_OI = at::Tensor();
      linear->kernel = make_quantized_kernel(found->second);
    }
    finished_.clear();
    model_.release_block(block.layer());
    if (options_.keep_blocks) result_.blocks.push_back(std::move(block));
  }

  model::LanguageModel& model_;
  const std::vector<PlannedLinear>& plan_;
  const PipelineOptions& options_;
  std::map<std::string, const PlannedLinear*> by_name_;
  std::int64_t last_calibrated_ = -1;
  std::vector<BlockState> states_;
  const model::RopeTable* rope_ = nullptr;
  std::map<std::string, std::shared_ptr<const quantizer::QuantizedLinear>> finished_;  // of the current block
  PipelineResult result_;
};

}  // namespace

bool needs_calibration(const std::vector<PlannedLinear>& plan) {
  return std::any_of(plan.begin(), plan.end(), [](const PlannedLinear& planned) {
    return !planned.choice.layer->keep_float && quantizer::needs_hessian(planned.choice.layer->rounding.kind);
  });
}

PipelineResult run_pipeline(model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const PipelineOptions& options) {
  return Pipeline(model, plan, options).run();
}

}  // namespace miq::executor
