#include "miq/executor/job.h"

#include <ATen/Parallel.h>
#include <torch/version.h>

#include <chrono>
#include <cmath>
#include <deque>

#include "miq/core/device.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/gguf.h"
#include "miq/core/log.h"
#include "miq/core/memory.h"
#include "miq/core/process_group.h"
#include "miq/core/text.h"
#include "miq/dataset/tokenizer.h"
#include "allocation.h"
#include "cost.h"
#include "export_target.h"
#include "miq/executor/open_model.h"
#include "miq/executor/pipeline.h"
#include "quantized_kernel.h"
#include "rank_checks.h"
#include "task_evaluation.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// JSON has no NaN.
Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

// The compute type of the calibration pass: bfloat16 where that is several times faster and the
// accuracy of the statistics does not suffer (docs/design.md), else the model's.
at::ScalarType calibration_dtype(const JobConfig& config, const model::LanguageModel& model) {
  if (config.calibration_dtype != "auto") return model::resolve_compute_dtype(config.calibration_dtype, model.architecture(), model.device());
  return has_fast_bfloat16(model.device()) ? at::kBFloat16 : at::kFloat;
}

struct Job {
  Job(const JobConfig& c, JobMode m) : config(resolved(c)), mode(m) {
    if (process_group::rank() > 0) config.output.clear();  // rank 0 writes
  }

  JobConfig config;
  JobMode mode;
  std::optional<model::LanguageModel> model;
  std::unique_ptr<dataset::Tokenizer> tokenizer;
  ExportTarget target;
  std::vector<PlannedLinear> plan;
  std::optional<PlannedLinear> head;  // where it is quantized too
  std::deque<quantizer::LayerRecipe> allocated;  // recipes of layers with bits of their own
  std::vector<at::Tensor> calibration_ids;
  std::int64_t quantization_bytes = 0;  // what quantizing is expected to take, where there is a budget
  std::vector<at::Tensor> streams;  // token streams of evaluation.perplexity
  std::vector<PlannedTask> tasks;
  std::optional<dataset::ChatKind> chat;  // of tasks that ask a chat model
  std::vector<evaluator::ReferenceDistributions> references;  // the baseline's, for each stream
  Json results, events = Json::array();

  bool quantizes() const { return mode != JobMode::evaluate; }
  bool evaluates() const { return mode != JobMode::quantize; }
  bool writes() const { return !config.output.empty(); }

  const dataset::Tokenizer& need_tokenizer() {
    if (!tokenizer) tokenizer = dataset::load_tokenizer(config.model.path);
    return *tokenizer;
  }

  void open_model(const std::string& path) {
    const at::Device device = parse_device(config.device);
    model = executor::open_model(path, config.model.architecture, device);
    model->set_compute_dtype(model::resolve_compute_dtype(config.model.dtype, model->architecture(), device));
    model->set_memory_budget(config.pipeline.memory);
  }

  // Opens everything the job will need, so that what is missing is told before the work.
  void prepare() {
    if (writes()) {
      std::error_code problem;
      fs::create_directories(config.output, problem);
      if (problem) throw_system_error("create", config.output, problem.value());
      log_to_file((fs::path(config.output) / "miq.log").string());
    } else if (config.export_ && quantizes()) {
      throw Error(ErrorKind::config, "export needs a folder", "output", "set output, or give --output DIR");
    }
    std::error_code differs;
    if (config.export_ && quantizes() && fs::equivalent(config.model.path, fs::path(config.output) / "model", differs))
      throw Error(ErrorKind::config, "the export would replace the model it is made from", config.model.path, "choose another output");
    open_model(config.model.path);
    const at::Device device = model->device();
    log_info(config.model.path + ": " + model->architecture().family + ", " + std::to_string(model->num_parameters()) + " parameters, " +
             format_bytes(model->source().bytes()) + "; " + describe(device) + ", " + dtype_name(model->compute_dtype()));
    if (quantizes()) {
      if (config.export_) {
        target = export_target(*config.export_, model->architecture());
        fit_recipe(config.recipe, target);
      }
      plan = make_plan(*model, config.recipe);
      head = planned_head(*model, config.recipe);
      if (config.export_) check_export(target, planned_schemes(model->architecture(), plan, head));
      if (needs_calibration(plan, config.recipe)) read_calibration();
      check_memory();
    }
    if (evaluates()) prepare_evaluation();
    if (quantizes()) keeps_blocks();  // refuses what cannot be scored
  }

  void prepare_evaluation() {
    for (const evaluator::PerplexityConfig& item : config.evaluation.perplexity)
      streams.push_back(dataset::tokenize(dataset::load_corpus(item.corpus, item.split, config.data_dir), need_tokenizer()));
    tasks = plan_tasks(config.evaluation, config.data_dir);
    if (!tasks.empty()) need_tokenizer();
    if (needs_chat(tasks)) chat = dataset::detect_chat_kind(config.model.path);
  }
  bool has_evaluation() const { return !streams.empty() || !tasks.empty(); }

  // The budget is a promise: what will not keep it is refused before the work.
  void check_memory() {
    if (config.pipeline.memory == 0) return;
    std::int64_t tokens = 0;
    for (const at::Tensor& batch : calibration_ids) tokens += batch.numel();
    const auto element = static_cast<std::int64_t>(c10::elementSize(calibration_dtype(config, *model)));
    const Memory memory = expected_memory(*model, plan, config.pipeline, element, tokens);
    quantization_bytes = memory.total();
    if (memory.total() <= config.pipeline.memory) return;
    const bool disk_helps = config.pipeline.offload != Offload::disk && memory.total() - memory.hidden <= config.pipeline.memory;
    throw Error(ErrorKind::config, "quantizing takes about " + format_bytes(memory.total()) + " of memory, more than the " + format_bytes(config.pipeline.memory) + " it may",
                "pipeline.memory", disk_helps ? "let hidden states (" + format_bytes(memory.hidden) + ") rest on disk: pipeline.offload: disk"
                                              : "raise it; miq plan --json tells what takes how much (total.memory)");
  }

  // Whether the quantized model, packed, may stay in memory for its evaluation; else it is scored from what was written.
  bool keeps_blocks() const {
    if (!evaluates() || !has_evaluation()) return false;
    double packed = 0;
    bool activations = false;
    for (const PlannedLinear& planned : plan) {
      const quantizer::LayerRecipe& layer = *planned.choice.layer;
      const double bits = layer.keep_float ? 16 : bits_per_weight(layer.grid, planned.out_features, planned.in_features);
      packed += bits / 8 * static_cast<double>(planned.out_features * planned.in_features);
      activations = activations || layer.activation.enabled();
    }
    const auto bytes = static_cast<std::int64_t>(packed);
    if (config.pipeline.memory == 0 || bytes + quantization_bytes <= config.pipeline.memory) return true;
    const bool written = config.export_ && (!activations || target.format != nullptr);
    if (written) return false;
    throw Error(ErrorKind::config, "to be scored, the quantized model takes " + format_bytes(bytes) + " of memory beside the " + format_bytes(quantization_bytes) + " of quantizing it, together more than the " +
                                       format_bytes(config.pipeline.memory) + " that may be taken",
                "pipeline.memory", activations ? "set export.format to one that holds quantized activations (miq, compressed-tensors), and it is scored from what was written; or raise it"
                                               : "set export, and it is scored from what was written; or raise it");
  }

  // Of the residual stream, which is the whole model's.
  quantizer::Transform rotation() const {
    const quantizer::Transform& transform = config.recipe.otherwise.transform;
    return transform.kind == quantizer::TransformKind::rotation ? transform : quantizer::Transform();
  }

  void read_calibration() {
    if (config.calibration.ids.empty())
      calibration_ids = dataset::calibration_samples(config.calibration, need_tokenizer(), config.data_dir);
    else  // needs no tokenizer
      calibration_ids = {dataset::read_calibration_ids(config.calibration.ids)};
  }

  struct Scores {
    std::vector<evaluator::Perplexity> perplexity;
    std::vector<TaskOutcome> tasks;
  };

  // `baseline`: of the model that the other one is compared with.
  Scores score(bool baseline) {
    Scores all;
    std::vector<evaluator::Perplexity>& scores = all.perplexity;
    for (size_t i = 0; i < streams.size(); ++i) {
      if (baseline) references.emplace_back(config.pipeline.memory > 0 ? config.pipeline.memory / 16 : std::int64_t{256} << 20);
      std::function<void(const at::Tensor&, std::int64_t)> see;
      if (i < references.size())
        see = [&, i](const at::Tensor& logits, std::int64_t row) { baseline ? references[i].keep(logits, row) : references[i].compare(logits, row); };
      scores.push_back(evaluator::perplexity(*model, streams[i], config.evaluation.perplexity[i], see));
      log_info("perplexity " + config.evaluation.perplexity[i].corpus + ": " + std::to_string(scores.back().value));
    }
    const bool known = baseline && !config.evaluation.against.empty();  // the earlier run is what tasks are compared with
    if (!tasks.empty() && !known) all.tasks = run_tasks(*model, need_tokenizer(), tasks, config.evaluation, config.data_dir, chat);
    return all;
  }

  // The plan's layers with the bits that the budget gives them.
  void allocate(const PipelineOptions& options) {
    for (const auto& [name, bits] : choose_bits(*model, plan, config.recipe.allocation, options)) {
      const auto planned = std::find_if(plan.begin(), plan.end(), [&](const PlannedLinear& entry) { return entry.name == name; });
      allocated.push_back(*planned->choice.layer);
      allocated.back().grid.bits = bits;
      planned->choice.layer = &allocated.back();
    }
  }

  std::unique_ptr<format::ExportWriter> open_writer(const fs::path& folder) const {
    const model::Architecture& a = model->architecture();
    format::ModelChanges changes;
    const bool rotated = rotation().kind == quantizer::TransformKind::rotation;
    if (rotated && a.normalised_head) changes.config["norm_head"] = false;
    if ((rotated || head) && a.tie_word_embeddings) {
      changes.extra.push_back({a.head + ".weight", model->head_VH().scalar_type(), model->head_VH().sizes().vec()});
      changes.config["tie_word_embeddings"] = false;
    }
    std::vector<std::string> kept;
    for (const PlannedLinear& planned : plan)
      if (planned.choice.layer->keep_float) kept.push_back(planned.name);
    return open_export_writer(target, *model, config.model.path, folder, planned_schemes(a, plan, head), std::move(kept), config.export_->shard_size, std::move(changes));
  }

  // The last linear, of the whole vocabulary: rounded part by part, without data.
  void quantize_head(PipelineResult& done, format::ExportWriter* writer) {
    const quantizer::LayerRecipe& layer = *head->choice.layer;
    const at::Tensor weight = model->function_head_VH();
    const bool by_rows = layer.grid.granularity == quantizer::Granularity::group || layer.grid.granularity == quantizer::Granularity::channel;
    const std::int64_t rows = by_rows ? 8192 : weight.size(0);
    std::vector<at::Tensor> codes, scales, zeros;
    quantizer::QuantizedLinear part;
    double squares = 0, errors = 0;
    for (std::int64_t v = 0; v < weight.size(0); v += rows) {
      const at::Tensor values = weight.narrow(0, v, std::min(rows, weight.size(0) - v)).to(at::kFloat).contiguous();
      part = round_linear({head->name, values, nullptr}, layer.grid, layer.range, layer.rounding);
      codes.push_back(part.codes_OI);
      scales.push_back(part.params.scales_OG);
      zeros.push_back(part.params.zeros_OG);
      const double square = values.square().sum(at::kDouble).item<double>();
      squares += square;
      errors += part.relative_error * part.relative_error * square;
    }
    part.codes_OI = at::cat(codes);
    part.params = {at::cat(scales), at::cat(zeros)};
    part.relative_error = std::sqrt(errors / std::max(squares, 1e-30));
    const auto quantized = std::make_shared<const quantizer::QuantizedLinear>(std::move(part));
    done.layers.push_back({*head, std::nan(""), quantized->relative_error, quantized->bits_per_weight(), quantized->bytes(), {}});
    if (writer != nullptr) writer->put({{head->name, quantized}});
    model->replace_head(make_quantized_kernel(quantized));
  }

  void quantize() {
    reset_peak_rss();
    AnonymousPeak anonymous;
    const auto start = std::chrono::steady_clock::now();
    const double cpu_start = cpu_seconds();
    PipelineOptions options;
    options.calibration_ids = calibration_ids;
    options.compute_dtype = calibration_dtype(config, *model);
    options.config = config.pipeline;
    options.rotation = rotation();
    options.distillation = config.recipe.distillation;
    options.strict = config.strict;
    options.keep_blocks = keeps_blocks();
    options.folder = config.output;
    std::optional<StagedFolder> folder;
    std::unique_ptr<format::ExportWriter> writer;
    if (config.recipe.allocation.bits > 0) {
      allocate(options);
      if (config.export_) check_export(target, planned_schemes(model->architecture(), plan, head));  // of the widths that were chosen
    }
    if (config.export_) {
      folder.emplace(fs::path(config.output) / "model");
      writer = open_writer(folder->path());
      options.on_tensor = [&](const std::string& name, const at::Tensor& tensor) { writer->put(name, tensor); };
      options.on_linears = [&](const std::vector<format::NamedLinear>& fused) { writer->put(fused); };
    }
    PipelineResult done = run_pipeline(*model, plan, options);
    if (head) quantize_head(done, writer.get());
    if (writer) {
      writer->finish();
      folder->commit();
    }
    tell_quantization(done, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), cpu_seconds() - cpu_start, anonymous.bytes());
    if (options.keep_blocks)
      model->replace_blocks(std::move(done.blocks));
    else if (evaluates() && has_evaluation())
      open_model((fs::path(config.output) / "model").string());
  }

  void tell_quantization(const PipelineResult& done, double seconds, double cpu, std::int64_t peak_anonymous_bytes) {
    Json layers = Json::array();
    double bits = 0, weights = 0;
    std::int64_t bytes = 0;
    for (const LayerReport& layer : done.layers) {
      const quantizer::LayerRecipe& recipe = *layer.planned.choice.layer;
      const double count = static_cast<double>(layer.planned.out_features * layer.planned.in_features);
      bits += layer.bits_per_weight * count;
      weights += count;
      bytes += layer.bytes;
      Json own = Json::array();
      for (const quantizer::Event& event : layer.events) {
        own.push_back({{"code", event.code}, {"detail", event.detail}});
        events.push_back({{"layer", layer.planned.name}, {"code", event.code}, {"detail", event.detail}});
      }
      const bool grouped = recipe.grid.granularity == quantizer::Granularity::group;
      layers.push_back({{"name", layer.planned.name},
                        {"rule", layer.planned.choice.rule},
                        {"preset", recipe.preset},
                        {"bits", recipe.grid.bits},
                        {"group_size", grouped ? Json(recipe.grid.group_size) : Json(-1)},
                        {"bits_per_weight", layer.bits_per_weight},
                        {"loss", number_or_null(layer.loss)},
                        {"relative_error", layer.relative_error},
                        {"events", own}});
    }
    results["quantization"] = {{"seconds", seconds},
                               {"cpu_seconds", cpu},
                               {"peak_rss_bytes", peak_rss_bytes()},
                               {"peak_anonymous_bytes", peak_anonymous_bytes},
                               {"seconds_by_phase", done.seconds_by_phase},
                               {"calibration_dtype", dtype_name(calibration_dtype(config, *model))},
                               {"bits_per_weight", weights > 0 ? bits / weights : 0.0},
                               {"bytes", bytes},
                               {"layers", layers}};
  }

  void tell_perplexity(const std::vector<evaluator::Perplexity>& scores, const std::vector<evaluator::Perplexity>& baselines) {
    Json list = Json::array();
    for (size_t i = 0; i < scores.size(); ++i) {
      const evaluator::PerplexityConfig& item = config.evaluation.perplexity[i];
      list.push_back({{"corpus", item.corpus},
                      {"split", item.split},
                      {"protocol", item.protocol == evaluator::Protocol::gptq ? "gptq" : "mi"},
                      {"seqlen", item.seqlen},
                      {"windows", scores[i].windows},
                      {"tokens", scores[i].tokens},
                      {"value", number_or_null(scores[i].value)},
                      {"baseline", i < baselines.size() ? number_or_null(baselines[i].value) : Json()},
                      {"seconds", scores[i].seconds}});
      if (i >= references.size()) continue;
      const evaluator::Divergence divergence = references[i].divergence();
      list.back()["kl_divergence"] = number_or_null(divergence.kl);
      list.back()["top1_agreement"] = divergence.top1;
      list.back()["compared_tokens"] = divergence.tokens;
    }
    results["perplexity"] = list;
  }

  Json run() {
    prepare();
    check_ranks(config, *model, streams);
    results["miq"] = {{"version", MIQ_VERSION}, {"libtorch", TORCH_VERSION}, {"device", describe(model->device())}, {"threads", at::get_num_threads()}};
    if (process_group::world_size() > 1) results["miq"]["ranks"] = process_group::world_size();
    results["config"] = to_json(config);
    results["model"] = {{"family", model->architecture().family}, {"parameters", model->num_parameters()}, {"bytes", model->source().bytes()}, {"dtype", dtype_name(model->compute_dtype())}};
    Scores baselines, scores;
    if (mode == JobMode::run && config.evaluation.baseline) baselines = score(/*baseline=*/true);
    if (quantizes()) quantize();
    if (evaluates()) scores = score(/*baseline=*/false);
    tell_perplexity(scores.perplexity, baselines.perplexity);
    if (process_group::rank() > 0) return {};
    if (!config.evaluation.against.empty()) baselines.tasks = read_outcomes(tasks, config.evaluation.against);
    results.update(tell_tasks(tasks, scores.tasks, baselines.tasks, config.evaluation, config.output));
    results["events"] = events;
    if (writes()) write_file_atomically(fs::path(config.output) / "results.json", to_text(results));
    return std::move(results);
  }
};

}  // namespace

nlohmann::ordered_json run_job(const JobConfig& config, JobMode mode) {
  const c10::InferenceMode inference;
  return Job(config, mode).run();
}

}  // namespace miq::executor
