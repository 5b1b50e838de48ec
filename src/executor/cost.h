// What a quantization will take: memory and time, from shapes alone. docs/scaling.md explains and checks it.
#pragma once

#include "miq/executor/pipeline.h"

namespace miq::executor {

struct Memory {
  bool on_gpu = false;           ///< block, ahead, ends, statistics, solve and microbatch lie on a GPU
  std::int64_t program = 0;      ///< LibTorch and the program itself
  std::int64_t block = 0;        ///< the block's weights in the compute type and its codes; on a GPU also as they are stored
  std::int64_t ahead = 0;        ///< of a GPU: the next block, as it is stored; as much again is pinned in the CPU's memory
  std::int64_t ends = 0;         ///< of a GPU: embedding and head
  std::int64_t statistics = 0;   ///< of one stage
  std::int64_t solve = 0;        ///< working copies of one rounding: the Hessian's factor and the weight
  std::int64_t hidden = 0;       ///< hidden states and inputs of a stage, unless they rest on disk
  std::int64_t microbatch = 0;
  Offload offload = Offload::none;  ///< where hidden states rest: as configured, or, where that is automatic, the first place that has room
  std::string why;                  ///< of an automatic place
  std::int64_t working() const { return block + ahead + ends + statistics + solve + microbatch; }
  /// Of the CPU's memory.
  std::int64_t total() const { return program + (on_gpu ? ahead : working()) + (on_gpu && offload == Offload::none ? 0 : hidden); }
  /// Of the GPU's.
  std::int64_t device_total() const { return on_gpu ? working() + (offload == Offload::none ? hidden : 0) : 0; }
};

/// Memory beside the page cache. `compute_bytes`: of an element in the calibration's type; `tokens`: of calibration.
Memory expected_memory(const model::LanguageModel& model, const std::vector<PlannedLinear>& plan, const PipelineConfig& pipeline,
                       std::int64_t compute_bytes, std::int64_t tokens);

/// Seconds on this machine, whose matrix rates are measured for a moment.
double expected_seconds(const model::LanguageModel& model, const std::vector<PlannedLinear>& plan, std::int64_t tokens);

}  // namespace miq::executor
