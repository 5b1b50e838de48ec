// The block pipeline (docs/design.md): block by block, stage by stage - take the stage's input, gather
// its statistics, round its linears, go on with the quantized ones.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "miq/executor/job_config.h"
#include "miq/executor/plan.h"
#include "miq/format/format.h"

namespace miq::executor {

/// What is told of a linear in the results.
struct LayerReport {
  PlannedLinear planned;
  double loss, relative_error, bits_per_weight;
  std::int64_t bytes;
  std::vector<quantizer::Event> events;
};

/// What something took.
struct Effort {
  double seconds = 0, cpu_seconds = 0;
  std::map<std::string, double> seconds_by_phase;  ///< read, forward, statistics, solve, write

  Effort& operator+=(const Effort& other) {
    seconds += other.seconds;
    cpu_seconds += other.cpu_seconds;
    for (const auto& entry : other.seconds_by_phase) seconds_by_phase[entry.first] += entry.second;
    return *this;
  }
  Effort operator/(double parts) const {
    Effort part{seconds / parts, cpu_seconds / parts, seconds_by_phase};
    for (auto& entry : part.seconds_by_phase) entry.second /= parts;
    return part;
  }
};

struct PipelineResult {
  std::vector<LayerReport> layers;            ///< quantized ones only
  std::map<std::string, double> seconds_by_phase;
  Effort earlier;                             ///< of the blocks that the journal had
  std::vector<model::Block> blocks;           ///< with quantized kernels; empty unless kept
};

struct PipelineOptions {
  std::vector<at::Tensor> calibration_ids;    ///< batches of equal length, int64 [S, T]; may be empty when nothing needs data
  at::ScalarType compute_dtype = at::kFloat;  ///< of the calibration pass
  PipelineConfig config;
  quantizer::Transform rotation;              ///< of the whole model; kind rotation, or none
  quantizer::Distillation distillation;
  /// When set, nothing is quantized: sees every linear that would be, with its float32 weight and the
  /// Hessian of its inputs in the float model.
  std::function<void(const PlannedLinear&, const at::Tensor& weight_OI, quantizer::StageHessian&)> survey;
  /// Where finished blocks are kept: those that it has are not solved again. Null: nowhere.
  const class BlockJournal* journal = nullptr;
  /// GPUs that a stage's linears are solved on, the model's first; empty: the model's device alone. The results are the same.
  std::vector<at::Device> solve_on;
  bool keep_blocks = false;
  bool strict = false;                        ///< an event ends the run
  std::filesystem::path folder;               ///< of hidden states that rest on disk; empty: the system's for temporary files
  /// Sees the quantized linears when their block is done: those of one input together (q, k, v; gate, up).
  std::function<void(const std::vector<format::NamedLinear>&)> on_linears;
  /// Sees each other tensor that transforms changed (norms, biases; rotated: the ends), as it is to be stored.
  std::function<void(const std::string& name, const at::Tensor&)> on_tensor;
};

/// Activations of a microbatch: of a budget of `memory` bytes (0: what the machine has), or of the memory of the GPU that computes.
std::int64_t microbatch_bytes(std::int64_t memory, const at::Device& device);

/// Whether any linear of the plan needs calibration data, or the recipe's allocation or distillation.
bool needs_calibration(const std::vector<PlannedLinear>& plan, const quantizer::Recipe& recipe);

/// Quantizes the model's linears as planned. At no time more than one block's weights, its statistics
/// and the hidden states are in memory.
/// @throws Error{numeric} naming the layer; with strict, for the first event too.
PipelineResult run_pipeline(model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const PipelineOptions& options);

}  // namespace miq::executor
