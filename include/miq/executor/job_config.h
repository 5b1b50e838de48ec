// A job: everything one YAML file says. The keys are those of the members' visit_fields.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "miq/core/config.h"
#include "miq/dataset/calibration.h"
#include "miq/dataset/task.h"
#include "miq/evaluator/perplexity.h"
#include "miq/quantizer/recipe.h"

namespace miq::executor {

struct ModelConfig {
  std::string path;                    ///< a Hugging Face folder, a .gguf file, or an id in the cache
  std::string dtype = "auto";          ///< compute type of evaluation and generation
  std::string architecture = "auto";   ///< a family's name instead of config.json's, or a YAML description
};

/// In which order a block's linears are calibrated (DESIGN section 3).
enum class Order {
  stage,  ///< stage by stage: later stages see the earlier ones quantized
  block,  ///< all from one pass over the unquantized block
};
/// What the next block is fed with.
enum class Propagate { quantized, floating };
/// Where hidden states rest between stages: where they are computed, in the CPU's memory, in files. Automatic: the first of these that has room (cost.h).
enum class Offload { automatic, none, cpu, disk };

struct PipelineConfig {
  Order order = Order::stage;
  Propagate propagate = Propagate::quantized;
  Offload offload = Offload::automatic;
  std::int64_t memory = 0;  ///< bytes that the program may take beside the page cache; 0 = auto
  bool tf32 = false;        ///< products of float32 in TF32 on GPUs that have it
};

struct ExportConfig {
  std::string format = "dequantized";  ///< a name of `miq list formats`
  std::string variant;                 ///< of the format; "" = its usual one
  std::int64_t shard_size = std::int64_t{5} << 30;
};

/// A task, or a suite of tasks, and what is asked of it.
struct TaskItem {
  std::string task;
  dataset::TaskOptions options;
};

struct EvaluationConfig {
  std::vector<evaluator::PerplexityConfig> perplexity;
  std::vector<TaskItem> tasks;
  bool baseline = true;          ///< also score the unquantized model
  std::string against;           ///< output folder of an earlier run, whose records the tasks are compared with
  std::int64_t bootstrap = 1000; ///< resamples of an interval
  std::int64_t batch_tokens = 0; ///< through a block at once; 0 = by the memory budget
  bool requests = false;         ///< records also hold what the model was asked
};

/// A quality gate as it was written.
struct Expectation {
  std::string what;   ///< a figure of the results by its path: "perplexity.wikitext2", "tasks.hellaswag[shots=5].acc.p_value"
  std::string bound;  ///< "<= 25", "<= 1.03 x baseline", ">= baseline - 0.02", "<= 4GiB"
  std::string where;  ///< place in the configuration or on the command line, for messages
};

struct JobConfig {
  ModelConfig model;
  std::string device = "auto";
  std::string data_dir;
  std::string output;
  bool strict = false;
  dataset::CalibrationConfig calibration;
  std::string calibration_dtype = "auto";  ///< calibration.dtype: auto, float32, bfloat16, float16
  quantizer::Recipe recipe;
  PipelineConfig pipeline;
  std::optional<ExportConfig> export_;
  EvaluationConfig evaluation;
  std::vector<Expectation> expect;
  bool sweeps = false;  ///< the file describes a sweep (sweep.h), of which this is what its variants have in common
};

/// A gate in one line, "perplexity.wikitext2 <= 1.03 x baseline"; `where` names it in messages.
/// @throws Error{config} where that is none.
Expectation read_expectation(const std::string& text, const std::string& where);

/// Reads a native configuration, or MI-optimize's own (top key quant_config), which is translated
/// first. Checks every key and value. @throws Error{config, unsupported}
JobConfig read_job_config(const ConfigSource& source);

/// With model.path as a path that exists: an id is looked up in the Hugging Face cache.
/// @throws Error{config} without a model, Error{io} where there is none.
JobConfig resolved(JobConfig config);

/// Whether the file is one of MI-optimize's.
bool is_mi_optimize(const ConfigSource& source);
/// MI-optimize's file as a native tree; oddities are logged as warnings with their line.
YAML::Node translate_mi_optimize(const ConfigSource& source);

/// The resolved configuration with each key's meaning, and as JSON for results.json.
std::string to_yaml(const JobConfig& config);
nlohmann::ordered_json to_json(const JobConfig& config);

}  // namespace miq::executor
