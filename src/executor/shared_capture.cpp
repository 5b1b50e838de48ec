#include "shared_capture.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "block_journal.h"
#include "calibration_pass.h"
#include "miq/core/device.h"
#include "miq/core/error.h"
#include "miq/core/progress.h"

namespace miq::executor {
namespace {

using model::Block;

struct Recipe {
  BlockJournal journal;
  StageSolver solver;
  std::optional<Error> error;
};

class SharedCapture {
 public:
  SharedCapture(model::LanguageModel& model, const std::vector<CapturedRecipe>& recipes, const PipelineOptions& options)
      : model_(model), options_(options), plan_(*recipes.front().plan), products_(model.device(), options.config.tf32) {
    for (const CapturedRecipe& recipe : recipes) {
      recipes_.push_back({BlockJournal(recipe.journal), StageSolver(model, *recipe.plan, nullptr, [](const LayerReport&) {}), std::nullopt});
      recipes_.back().solver.share(&solutions_);
      recipes_.back().solver.solve_on(options.solve_on);
    }
    for (const CapturedRecipe& recipe : recipes)
      for (const PlannedLinear& planned : *recipe.plan)
        if (quantizer::statistics_needs(*planned.choice.layer).any()) last_calibrated_ = std::max(last_calibrated_, planned.layer);
  }

  std::vector<std::optional<Error>> run() {
    solve_all();
    std::vector<std::optional<Error>> errors;
    for (const Recipe& recipe : recipes_) errors.push_back(recipe.error);
    return errors;
  }

 private:
  void solve_all() {
    const std::int64_t blocks = model_.architecture().num_layers;
    const std::int64_t first = first_unfinished();
    if (first >= blocks) return;
    std::optional<CalibrationPass> pass;
    {
      const Stopwatch watch(phases_);
      if (last_calibrated_ >= first) pass.emplace(model_, options_, resting_place(model_, plan_, options_), phases_);
      shared_ += watch.effort();
    }
    Progress progress("capturing for " + std::to_string(recipes_.size()) + " recipes", blocks, "block");
    for (std::int64_t l = 0; l < blocks; ++l) {
      if (l >= first || (pass && l <= last_calibrated_)) treat_block(l, pass && l <= last_calibrated_ ? &*pass : nullptr, l >= first);
      progress.advance();
    }
  }

  std::int64_t first_unfinished() const {
    std::int64_t first = model_.architecture().num_layers;
    for (const Recipe& recipe : recipes_) first = std::min(first, recipe.journal.finished_blocks());
    return first;
  }

  void treat_block(std::int64_t layer, CalibrationPass* pass, bool solves) {
    std::vector<Recipe*> left;
    for (Recipe& recipe : recipes_)
      if (solves && !recipe.error && recipe.journal.finished_blocks() <= layer) left.push_back(&recipe);
    const Stopwatch watch(phases_);
    Block block = read_block(layer, pass != nullptr);
    std::vector<StageStatistics> statistics;
    if (pass != nullptr) statistics = gather(block, *pass, left);
    shared_ += watch.effort();
    for (Recipe* recipe : left) solve(*recipe, block, pass, statistics, left.size());
    if (!left.empty()) shared_ = {};
    if (pass != nullptr) pass->forget_samples();
    solutions_ = {};
    model_.release_block(layer);
  }

  Block read_block(std::int64_t layer, bool calibrated) {
    const PhaseTimer timer(phases_, "read");
    Block block = model_.load_block(layer, /*convert=*/false);
    model_.prefetch_block(layer + 1);
    if (!model_.device().is_cpu())
      for (const model::Linear* linear : block.linears()) solutions_.weights[linear->name] = linear->weight_OI;
    if (calibrated)
      for (model::Linear* linear : block.linears()) linear->weight_OI = linear->weight_OI.to(options_.compute_dtype);
    return block;
  }

  // Of what any of the recipes needs.
  std::vector<StageStatistics> gather(Block& block, CalibrationPass& pass, const std::vector<Recipe*>& left) {
    std::vector<StageStatistics> statistics;
    std::vector<bool> samples;
    for (std::int64_t s = 0; s < block.num_stages(); ++s) {
      quantizer::StatisticsNeeds needs;
      bool sample = false;
      for (const Recipe* recipe : left) {
        needs = needs | recipe->solver.needs(block.stage(s));
        sample = sample || recipe->solver.wants_sample(block, s);
      }
      statistics.push_back(pass.make_statistics(block, s, needs));
      samples.push_back(sample);
    }
    pass.pass_block(block, statistics, samples);
    return statistics;
  }

  // On a copy of the block, for solving changes it.
  void solve(Recipe& recipe, const Block& block, CalibrationPass* pass, const std::vector<StageStatistics>& statistics, size_t sharers) {
    const Stopwatch watch(phases_);
    Block own = block;
    try {
      const PhaseTimer timer(phases_, "solve");
      recipe.solver.begin_block(own);
      for (std::int64_t s = 0; s < own.num_stages(); ++s) {
        const ModuleSample* const shared = pass != nullptr && recipe.solver.wants_sample(own, s) ? pass->sample(s) : nullptr;
        std::optional<ModuleSample> sample;
        if (shared != nullptr) sample.emplace(*shared).block = &own;
        const StageStatistics none(own.groups(s).size());
        recipe.solver.solve(own, s, statistics.empty() ? none : statistics[static_cast<size_t>(s)], sample ? &*sample : nullptr);
      }
      recipe.solver.exchange(own, at::ScalarType::Undefined);
    } catch (const Error& error) {
      recipe.error = error;
      return;
    }
    SolvedBlock solved = recipe.solver.solved();
    solved.effort = watch.effort();
    solved.effort += shared_ / static_cast<double>(sharers);
    const PhaseTimer timer(phases_, "write");
    recipe.journal.write(block.layer(), solved);
  }

  model::LanguageModel& model_;
  const PipelineOptions& options_;
  const std::vector<PlannedLinear>& plan_;  // of the first recipe: all have the model's linears
  Tf32Products products_;
  std::vector<Recipe> recipes_;
  std::int64_t last_calibrated_ = -1;
  std::map<std::string, double> phases_ = {{"read", 0}, {"forward", 0}, {"statistics", 0}, {"solve", 0}, {"write", 0}};
  SharedSolutions solutions_;  // of the current block
  Effort shared_;  // not yet told of any recipe
};

}  // namespace

std::vector<std::optional<Error>> capture_shared(model::LanguageModel& model, const std::vector<CapturedRecipe>& recipes, const PipelineOptions& options) {
  return SharedCapture(model, recipes, options).run();
}

}  // namespace miq::executor
