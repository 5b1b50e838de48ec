#include "miq/executor/job_config.h"

#include <algorithm>
#include <cstdlib>

#include "miq/core/error.h"
#include "miq/core/hub_cache.h"
#include "miq/format/format.h"
#include "expect.h"
#include "recipe_config.h"

namespace miq::executor {

static void visit_fields(FieldVisitor& v, ModelConfig& config) {
  v.text("path", config.path, "a Hugging Face folder, a .gguf file, or an id in the local Hugging Face cache");
  v.text("dtype", config.dtype, "compute type: auto (the checkpoint's), float32, bfloat16, float16");
  v.text("architecture", config.architecture, "auto, a family's name, or a YAML description (docs/add-a-model.md)");
}

static void visit_fields(FieldVisitor& v, PipelineConfig& config) {
  v.choice<Order>("order", config.order, {{"stage", Order::stage}, {"block", Order::block}}, "stage: later stages of a block see earlier ones quantized; block (usual with propagate: float): none does");
  v.choice<Propagate>("propagate", config.propagate, {{"quantized", Propagate::quantized}, {"float", Propagate::floating}}, "what the next block is fed with");
  v.choice<Offload>("offload", config.offload, {{"auto", Offload::automatic}, {"none", Offload::none}, {"cpu", Offload::cpu}, {"disk", Offload::disk}}, "where hidden states rest between stages: auto (where there is room: on the device, else the CPU's memory, else disk)");
  v.bytes("memory", config.memory, "what the program may take beside the page cache, for example 4GiB (docs/scaling.md)");
  v.flag("tf32", config.tf32, "products of float32 in TF32 (10 bits of mantissa, faster) on GPUs that have it");
}

static void visit_fields(FieldVisitor& v, ExportConfig& config) {
  v.text("format", config.format, "checkpoint layout: gptq, awq, compressed-tensors, fp8, modelopt, gguf, miq or dequantized");
  v.text("variant", config.variant, "gptq: v1 or v2; gguf: a type or mix (q4_0, q4_k_m ...); else none");
  v.bytes("shard_size", config.shard_size, "largest shard");
}

// calibration.dtype stands beside the keys of CalibrationConfig.
struct Calibration {
  dataset::CalibrationConfig* config;
  std::string* dtype;
};
static void visit_fields(FieldVisitor& v, Calibration& calibration) {
  dataset::visit_fields(v, *calibration.config);
  v.text("dtype", *calibration.dtype, "compute type of the calibration pass: auto (bfloat16 where it is fast), float32, bfloat16, float16");
}

namespace {

void visit_top(FieldVisitor& v, JobConfig& config) {
  v.object("model", config.model, "");
  v.text("device", config.device, "cpu, cuda, cuda:N or auto");
  v.text("data_dir", config.data_dir, "folder of the named corpora; $MIQ_DATA, then ~/.cache/miq/data");
  v.text("output", config.output, "run directory: results.json, miq.log, model/");
  v.flag("strict", config.strict, "an event (raised damping, a fallback, dead inputs) is a failure");
  Calibration calibration{&config.calibration, &config.calibration_dtype};
  v.object("calibration", calibration, "");
  v.object("pipeline", config.pipeline, "");
}

std::string default_data_dir() {
  if (const char* folder = std::getenv("MIQ_DATA")) return folder;
  const char* home = std::getenv("HOME");
  return (home ? std::string(home) : std::string(".")) + "/.cache/miq/data";
}

void check_dtype(const ConfigReader& reader, const char* key, const std::string& dtype) {
  static const std::vector<std::string> kKnown = {"auto", "float32", "bfloat16", "float16"};
  if (std::find(kKnown.begin(), kKnown.end(), dtype) != kKnown.end()) return;
  throw Error(ErrorKind::config, "'" + dtype + "' is not a compute type", reader.where(key), "use auto, float32, bfloat16 or float16");
}

void visit_fields(FieldVisitor& v, TaskItem& item) {
  v.text("task", item.task, "a name of `miq list tasks`, a suite of them, or a path that ends in .yaml (docs/add-a-task.md)");
  v.integer("shots", item.options.shots, -1, 1000, "examples before each question; -1 = the task's own number");
  v.integer("limit", item.options.limit, 0, INT64_MAX, "the first so many documents of each subject; 0 = all");
  v.text("subjects", item.options.subjects, "all, a category, or names separated by commas");
  v.text("split", item.options.split, "another split of the set than the task's");
  v.text("fewshot_split", item.options.fewshot_split, "another split for the examples than the task's");
  v.text("fewshot_set", item.options.fewshot_set, "another set for the examples than the task's");
  v.integer("seed", item.options.seed, -1, INT64_MAX, "of the examples; -1 = the task's own");
}

void visit_rest(FieldVisitor& v, EvaluationConfig& config) {
  v.flag("baseline", config.baseline, "also score the unquantized model");
  v.text("against", config.against, "output folder of an earlier run of the same tasks, to compare with document by document");
  v.integer("bootstrap", config.bootstrap, 2, 1 << 20, "resamples of an interval");
  v.integer("batch_tokens", config.batch_tokens, 0, 1 << 24, "run through a block at once; 0 = by the memory budget; no result depends on it");
  v.flag("requests", config.requests, "records also hold what the model was asked: contexts and continuations");
}

// Elements are mappings, or names alone.
void read_tasks(ConfigReader& reader, std::vector<TaskItem>& tasks) {
  const YAML::Node list = reader.take("tasks");
  if (!list.IsDefined() || list.IsNull()) return;
  if (!list.IsSequence()) reader.fail("tasks", "must be a list", "write tasks: [{task: hellaswag, shots: 0}]");
  for (size_t i = 0; i < list.size(); ++i) {
    TaskItem item;
    std::string where = reader.where("tasks");
    if (list[i].IsScalar()) {
      item.task = list[i].Scalar();
    } else {
      ConfigReader keys = reader.nested(("tasks." + std::to_string(i)).c_str(), list[i]);
      visit_fields(keys, item);
      keys.finish();
      where = keys.where("task");
    }
    if (item.task.empty()) throw Error(ErrorKind::config, "an element names no task", where, "write {task: hellaswag}");
    try {
      dataset::expand_tasks(item.task);  // an unknown name is told now
    } catch (const Error& error) {
      throw Error(error.kind(), error.message(), error.where().empty() ? where : error.where() + ", from " + where, error.fix());
    }
    tasks.push_back(std::move(item));
  }
}

EvaluationConfig read_evaluation(ConfigReader& reader) {
  EvaluationConfig evaluation;
  auto keys = reader.child("evaluation");
  if (!keys) return evaluation;
  for (ConfigReader& item : keys->list("perplexity")) {
    evaluator::PerplexityConfig config;
    visit_fields(item, config);
    item.finish();
    evaluation.perplexity.push_back(config);
  }
  read_tasks(*keys, evaluation.tasks);
  visit_rest(*keys, evaluation);
  keys->finish();
  return evaluation;
}

}  // namespace

JobConfig read_job_config(const ConfigSource& source) {
  if (is_mi_optimize(source)) {
    ConfigSource native = source;
    native.replace(translate_mi_optimize(source));
    return read_job_config(native);
  }
  JobConfig config;
  ConfigReader reader(source);
  visit_top(reader, config);
  if (config.data_dir.empty()) config.data_dir = default_data_dir();
  if (auto recipe = reader.child("recipe")) config.recipe = read_recipe(&*recipe);
  else config.recipe = read_recipe(nullptr);
  if (auto keys = reader.child("export")) {
    config.export_.emplace();
    visit_fields(*keys, *config.export_);
    keys->finish();
    const std::vector<std::string> formats = format::export_names();
    if (std::find(formats.begin(), formats.end(), config.export_->format) == formats.end()) {
      std::string known;
      for (const std::string& format : formats) known += (known.empty() ? "" : ", ") + format;
      keys->fail("format", "'" + config.export_->format + "' is no format", "did you mean " + nearest_name(config.export_->format, formats) + "? There are " + known);
    }
    if (config.export_->shard_size == 0) keys->fail("shard_size", "must be a size", "for example 5GiB");
  }
  config.evaluation = read_evaluation(reader);
  const YAML::Node sweep = reader.take("sweep");
  config.sweeps = sweep.IsDefined() && !sweep.IsNull() && !(sweep.IsMap() && sweep.size() == 0);
  config.expect = read_expectations(reader);
  reader.finish();
  if (auto keys = ConfigReader(source).child("pipeline"); keys && !keys->has("order") && config.pipeline.propagate == Propagate::floating)
    config.pipeline.order = Order::block;
  if (auto keys = ConfigReader(source).child("model")) check_dtype(*keys, "dtype", config.model.dtype);
  if (auto keys = ConfigReader(source).child("calibration")) check_dtype(*keys, "dtype", config.calibration_dtype);
  return config;
}

static ConfigDumper dump(JobConfig config) {
  ConfigDumper dumper;
  visit_top(dumper, config);
  dump_recipe(dumper, config.recipe);
  if (config.export_) dumper.object("export", *config.export_, "left out: nothing is written but the results");
  dumper.begin("evaluation", "");
  dumper.begin_list("perplexity", "");
  for (evaluator::PerplexityConfig& item : config.evaluation.perplexity) {
    dumper.begin_item();
    visit_fields(dumper, item);
    dumper.end();
  }
  dumper.end();
  dumper.begin_list("tasks", "");
  for (TaskItem& item : config.evaluation.tasks) {
    dumper.begin_item();
    visit_fields(dumper, item);
    dumper.end();
  }
  dumper.end();
  visit_rest(dumper, config.evaluation);
  dumper.end();
  dumper.begin("expect", "quality gates: a figure and its bounds; one that is missed is exit status 5 (configs/README.md)");
  dump_expectations(dumper, config.expect);
  dumper.end();
  return dumper;
}

JobConfig resolved(JobConfig config) {
  if (config.model.path.empty())
    throw Error(ErrorKind::config, "no model", "model.path", "set model.path in the configuration, or give --model PATH");
  config.model.path = resolve_model_path(config.model.path).string();
  return config;
}

std::string to_yaml(const JobConfig& config) { return dump(config).yaml(); }
nlohmann::ordered_json to_json(const JobConfig& config) { return dump(config).json(); }

}  // namespace miq::executor
