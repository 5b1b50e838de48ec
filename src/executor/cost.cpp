#include "cost.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <map>
#include <set>
#include <tuple>

#include "miq/core/device.h"
#include "miq/core/device_memory.h"
#include "miq/core/memory.h"
#include "miq/model/footprint.h"
#include "roofline.h"
#include "scale_group.h"

namespace miq::executor {

using quantizer::LayerRecipe;
using quantizer::TransformKind;

namespace {

// The first place that has room for the hidden states. A tenth of a card is left to what its allocator cannot use.
void place_hidden(Memory& memory, std::int64_t hidden, std::int64_t budget, const at::Device& device) {
  if (!memory.on_gpu) {
    const std::int64_t all = memory.total() + hidden;
    if (budget == 0 || all <= budget) return;
    memory.offload = Offload::disk;
    memory.why = "with them the run takes " + format_bytes(all) + ", more than the " + format_bytes(budget) + " it may";
    return;
  }
  const DeviceMemory card = device_memory(device);
  const std::int64_t room = card.free - card.total / 10 - (memory.working() - memory.ends), host = budget > 0 ? budget - memory.total() : available_memory_bytes() / 10 * 8;
  memory.why = "they take " + format_bytes(hidden) + ", and beside the work " + device.str() + " has room for " + format_bytes(std::max<std::int64_t>(0, room));
  if (hidden <= room) return;
  memory.offload = hidden <= host ? Offload::cpu : Offload::disk;
  if (memory.offload == Offload::disk) memory.why += ", the CPU's memory for " + format_bytes(std::max<std::int64_t>(0, host));
}

}  // namespace

Memory expected_memory(const model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const PipelineConfig& pipeline,
                       std::int64_t compute_bytes, std::int64_t tokens) {
  const model::Architecture& a = model.architecture();
  std::map<std::int64_t, std::int64_t> weights_of_block;
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> statistics_of_stage;
  std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t>> counted;
  std::int64_t widest = 0, largest = 0, largest_block = 0, statistics = 0;
  for (const PlannedLinear& planned : plan) {
    const std::int64_t count = planned.out_features * planned.in_features;
    largest_block = std::max(largest_block, weights_of_block[planned.layer] += count);
    if (planned.choice.layer->keep_float) continue;
    largest = std::max(largest, count);
    if (!quantizer::statistics_needs(*planned.choice.layer).hessian) continue;
    widest = std::max(widest, planned.in_features);
    // Of all of a layer's experts at once, where there are experts.
    if (counted.emplace(planned.layer, planned.stage, planned.group).second)
      statistics = std::max(statistics, statistics_of_stage[{planned.layer, planned.stage}] += planned.in_features * planned.in_features * 4);
  }
  Memory memory;
  memory.on_gpu = !model.device().is_cpu();
  memory.program = std::int64_t{90} << 20;
  memory.block = largest_block * ((tokens > 0 ? compute_bytes : 0) + 1);
  if (memory.on_gpu) {
    memory.ahead = largest_block * static_cast<std::int64_t>(model.embedding_VH().element_size());
    memory.block += memory.ahead;
    memory.ends = static_cast<std::int64_t>(model.embedding_VH().nbytes()) * (a.tie_word_embeddings ? 1 : 2);
  }
  memory.statistics = statistics;
  memory.solve = 5 * widest * widest * 4 + 4 * largest * 4;
  memory.offload = pipeline.offload == Offload::automatic ? Offload::none : pipeline.offload;
  if (tokens == 0) return memory;
  // The states themselves, those that are put aside for another pass or for the next block, and a stage's inputs.
  const bool twice = pipeline.order == Order::block ? pipeline.propagate == Propagate::quantized : pipeline.propagate == Propagate::floating;
  const std::int64_t hidden = tokens * (a.hidden_size * 4 * (twice ? 2 : 1) + std::max({a.hidden_size, a.q_size(), model::mlp_width(a)}) * compute_bytes);
  memory.microbatch = std::min(microbatch_bytes(pipeline.memory, model.device()), tokens * model::activation_bytes_per_token(a)) * compute_bytes / 4;
  if (pipeline.offload == Offload::automatic) place_hidden(memory, hidden, pipeline.memory, model.device());
  memory.hidden = memory.offload == Offload::disk ? 0 : hidden;
  return memory;
}

// Operations at the measured rates; the shares of them that are reached were measured at three sizes (docs/scaling.md).
double expected_seconds(const model::LanguageModel& model, const std::vector<PlannedLinear>& plan, std::int64_t tokens) {
  constexpr double kForwardShare = 0.75, kStatisticsShare = 0.80, kSolveShare = 0.53, kSecondsPerPass = 7.3e-9;
  const bool fast = has_fast_bfloat16(model.device());
  const double compute_rate = matrix_rate(fast ? at::kBFloat16 : at::kFloat, model.device()), solve_rate = matrix_rate(at::kFloat, model.device());
  std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t>> counted;
  double forward = 0, statistics = 0, solve = 0, passed = 0;
  for (const PlannedLinear& planned : plan) {
    const LayerRecipe& recipe = *planned.choice.layer;
    const double m = static_cast<double>(planned.out_features), n = static_cast<double>(planned.in_features);
    const model::Experts& experts = model.architecture().experts;
    const bool expert = model.architecture().is_sparse(planned.layer) && planned.stage >= kGateUp;
    const double seen = static_cast<double>(tokens) * (expert ? static_cast<double>(experts.per_token) / static_cast<double>(experts.count) : 1);
    forward += 2 * seen * m * n * (recipe.transform.kind == TransformKind::awq ? 1.4 : 1);
    if (quantizer::statistics_needs(recipe).hessian) {
      solve += m * n * n;
      if (counted.emplace(planned.layer, planned.stage, planned.group).second) {  // once for all linears of an input
        statistics += seen * n * n;
        solve += 2 * n * n * n / 3;
      }
    }
    const double passes = recipe.keep_float ? 0 : recipe.range.kind == quantizer::RangeKind::mse ? 20 : recipe.rounding.kind == "hqq" ? 20 : recipe.rounding.kind == "spqr" ? 30 : 2;
    passed += passes * m * n;
  }
  return forward / (kForwardShare * compute_rate) + statistics / (kStatisticsShare * compute_rate) + solve / (kSolveShare * solve_rate) +
         passed * kSecondsPerPass / at::get_num_threads() + 1;
}

}  // namespace miq::executor
