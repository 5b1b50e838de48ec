#include "job_run.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/version.h>

#include <cmath>

#include "dry_run.h"
#include "expect.h"
#include "miq/core/device.h"
#include "miq/core/device_memory.h"
#include "miq/core/digest.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/log.h"
#include "miq/core/memory.h"
#include "miq/core/process_group.h"
#include "miq/core/text.h"
#include "miq/dataset/tokenizer.h"
#include "miq/executor/open_model.h"
#include "rank_checks.h"

namespace miq::executor {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const char* name_of(JobMode mode) {
  switch (mode) {
    case JobMode::quantize: return "quantize";
    case JobMode::evaluate: return "eval";
    default: return "run";
  }
}

static std::string digest_of_all(const std::vector<at::Tensor>& tensors) {
  std::string all;
  for (const at::Tensor& tensor : tensors) all += digest_of(tensor);
  return sha256(all);
}

JobRun::JobRun(const JobConfig& config, JobMode mode, const JobOptions& options, std::shared_ptr<SharedInputs> shared)
    : config_(resolved(config)), mode_(mode), options_(options), shared_(std::move(shared)) {
  if (process_group::rank() > 0) config_.output.clear();  // rank 0 writes
}

const dataset::Tokenizer& JobRun::need_tokenizer() {
  if (!tokenizer_) tokenizer_ = dataset::load_tokenizer(config_.model.path);
  return *tokenizer_;
}

void JobRun::open_model(const std::string& path) {
  const at::Device device = parse_device(config_.device);
  model_ = executor::open_model(path, config_.model.architecture, device);
  model_->set_compute_dtype(model::resolve_compute_dtype(config_.model.dtype, model_->architecture(), device));
  model_->set_memory_budget(config_.pipeline.memory);
}

void JobRun::check_output() const {
  if (!config_.export_ || !quantizes()) return;
  if (process_group::rank() > 0) return;
  if (!writes()) throw Error(ErrorKind::config, "export needs a folder", "output", "set output, or give --output DIR");
  std::error_code differs;
  if (fs::equivalent(config_.model.path, fs::path(config_.output) / "model", differs))
    throw Error(ErrorKind::config, "the export would replace the model it is made from", config_.model.path, "choose another output");
}

void JobRun::prepare(bool dry) {
  check_expectations(config_, mode_);
  check_output();
  if (writes() && dry) {
    check_writable(config_.output);
  } else if (writes()) {
    folder_ = std::make_unique<RunFolder>(config_.output);
    log_to_file((folder_->path() / "miq.log").string());
  }
  open_model(config_.model.path);
  const at::Device device = model_->device();
  log_info(config_.model.path + ": " + model_->architecture().family + ", " + std::to_string(model_->num_parameters()) + " parameters, " +
           format_bytes(model_->source().bytes()) + "; " + miq::describe(device) + ", " + dtype_name(model_->compute_dtype()));
  if (quantizes()) {
    if (config_.export_) {
      target_ = export_target(*config_.export_, model_->architecture());
      fit_recipe(config_.recipe, target_);
    }
    plan_ = make_plan(*model_, config_.recipe);
    head_ = planned_head(*model_, config_.recipe);
    if (config_.export_) check_export(target_, planned_schemes(model_->architecture(), plan_, head_));
    if (needs_calibration(plan_, config_.recipe)) read_calibration();
    check_memory();
  }
  if (evaluates()) prepare_evaluation();
  if (quantizes()) keeps_blocks();  // refuses what cannot be scored
}

const std::vector<at::Tensor>& JobRun::tokens_of(const std::string& what, const std::function<std::vector<at::Tensor>()>& read) {
  const std::string key = what + "\n" + config_.model.path + "\n" + config_.data_dir;
  const auto found = shared_->tokens.find(key);
  return found != shared_->tokens.end() ? found->second : shared_->tokens.emplace(key, read()).first->second;
}

void JobRun::prepare_evaluation() {
  for (const evaluator::PerplexityConfig& item : config_.evaluation.perplexity) {
    streams_.push_back(tokens_of(item.corpus + "\n" + item.split, [&] {
      return std::vector<at::Tensor>{dataset::tokenize(dataset::load_corpus(item.corpus, item.split, config_.data_dir), need_tokenizer())};
    }).front());
    evaluator::num_windows(streams_.back().size(0), item);  // too short a corpus is told now
  }
  tasks_ = plan_tasks(config_.evaluation, config_.data_dir);
  if (!tasks_.empty()) need_tokenizer();
  if (needs_chat(tasks_)) chat_ = dataset::detect_chat_kind(config_.model.path);
}

// The budget is a promise: what will not keep it is refused before the work.
void JobRun::check_memory() {
  std::int64_t tokens = 0;
  for (const at::Tensor& batch : calibration_ids_) tokens += batch.numel();
  const auto element = static_cast<std::int64_t>(c10::elementSize(calibration_dtype()));
  const Memory memory = expected_memory(*model_, plan_, config_.pipeline, element, tokens);
  quantization_memory_ = memory;
  if (config_.pipeline.memory == 0 || memory.total() <= config_.pipeline.memory) return;
  const bool disk_helps = config_.pipeline.offload != Offload::disk && memory.total() - memory.hidden <= config_.pipeline.memory;
  throw Error(ErrorKind::config, "quantizing takes about " + format_bytes(memory.total()) + " of memory, more than the " + format_bytes(config_.pipeline.memory) + " it may",
              "pipeline.memory", disk_helps ? "let hidden states (" + format_bytes(memory.hidden) + ") rest on disk: pipeline.offload: disk"
                                            : "raise it; miq plan --json tells what takes how much (total.memory)");
}

// Whether the quantized model, packed, may stay in memory for its evaluation; else it is scored from what was written.
bool JobRun::keeps_blocks() const {
  if (!evaluates() || !has_evaluation()) return false;
  double packed = 0;
  bool activations = false;
  for (const PlannedLinear& planned : plan_) {
    const quantizer::LayerRecipe& layer = *planned.choice.layer;
    const double bits = layer.keep_float ? 16 : bits_per_weight(layer.grid, planned.out_features, planned.in_features);
    packed += bits / 8 * static_cast<double>(planned.out_features * planned.in_features);
    activations = activations || layer.activation.enabled();
  }
  const auto bytes = static_cast<std::int64_t>(packed);
  const Memory& memory = quantization_memory_;
  const bool on_gpu = !model_->device().is_cpu();
  const std::int64_t taken = on_gpu ? memory.device_total() - memory.ends : memory.total(), room = on_gpu ? device_memory(model_->device()).free : config_.pipeline.memory;
  if ((!on_gpu && room == 0) || bytes + taken <= room) return true;
  const bool written = config_.export_ && process_group::world_size() == 1 && (!activations || target_.format != nullptr);
  if (written) return false;
  const std::string other = on_gpu ? "use a GPU with more memory" : "raise it";
  throw Error(ErrorKind::config, "to be scored, the quantized model takes " + format_bytes(bytes) + " of memory beside the " + format_bytes(taken) + " of quantizing it, together more than the " +
                                     format_bytes(room) + (on_gpu ? " that " + model_->device().str() + " has" : " that may be taken"),
              on_gpu ? "device" : "pipeline.memory", activations ? "set export.format to one that holds quantized activations (miq, compressed-tensors), and it is scored from what was written; or " + other
                                             : "set export, and it is scored from what was written; or " + other);
}

void JobRun::read_calibration() {
  calibration_ids_ = tokens_of(to_json(config_)["calibration"].dump(), [&]() -> std::vector<at::Tensor> {
    if (!config_.calibration.ids.empty()) return {dataset::read_calibration_ids(config_.calibration.ids)};  // needs no tokenizer
    return dataset::calibration_samples(config_.calibration, need_tokenizer(), config_.data_dir);
  });
}

// Where files lie is left out, for their content is there; and what no result depends on.
const Json& JobRun::manifest() {
  if (!manifest_.is_null()) return manifest_;
  Json config = to_json(config_);
  for (const char* key : {"output", "data_dir", "device", "expect"}) config.erase(key);
  config["model"].erase("path");
  config["evaluation"].erase("batch_tokens");
  auto digests = shared_->digests.find(config_.model.path);
  if (digests == shared_->digests.end()) digests = shared_->digests.emplace(config_.model.path, checkpoint_digests(config_.model.path)).first;
  Json data = Json::object();
  if (!calibration_ids_.empty()) data["calibration"] = digest_of_all(calibration_ids_);
  for (size_t i = 0; i < streams_.size(); ++i) data["perplexity." + std::to_string(i)] = digest_of_all({streams_[i]});
  for (const PlannedTask& planned : tasks_) data["tasks." + planned.records] = planned.digest;
  manifest_ = {{"command", name_of(mode_)},
               {"config", config},
               {"model", digests->second},
               {"data", data},
               {"environment", {{"miq", MIQ_VERSION}, {"libtorch", TORCH_VERSION}, {"device", miq::describe(model_->device())}, {"threads", at::get_num_threads()}, {"ranks", process_group::world_size()}}}};
  return manifest_;
}

// Rank 0 has the folder, and says what all do.
RunState JobRun::begin() {
  if (state_) return *state_;
  const RunState own = writes() ? folder_->begin(manifest(), options_.overwrite) : RunState::fresh;
  at::Tensor state = at::scalar_tensor(static_cast<std::int64_t>(own), at::kLong);
  process_group::broadcast(state);
  state_ = static_cast<RunState>(state.item<std::int64_t>());
  return *state_;
}

fs::path JobRun::resume(const char* part) const { return writes() ? folder_->resume() / part : fs::path(); }

evaluator::ReferenceDistributions JobRun::new_references() const {
  return evaluator::ReferenceDistributions(config_.pipeline.memory > 0 ? config_.pipeline.memory / 16 : std::int64_t{256} << 20);
}

// `baseline`: of the model that the other one is compared with.
JobRun::Scores JobRun::score(bool baseline) {
  const ScoreStore store(baseline && !baseline_folder_.empty() ? baseline_folder_ : resume(baseline ? "baseline" : "scores"));
  Scores all;
  for (size_t i = 0; i < streams_.size(); ++i) {
    const evaluator::PerplexityConfig& item = config_.evaluation.perplexity[i];
    if (baseline) references_.push_back(new_references());
    std::optional<ScoreStore::Perplexity> known = store.perplexity(i);
    if (known && baseline) {
      if (auto parts = store.distributions(i)) references_[i].restore(std::move(*parts));
      else known.reset();
    }
    if (!known) {
      std::function<void(const at::Tensor&, std::int64_t)> see;
      if (i < references_.size())
        see = [&, i](const at::Tensor& logits, std::int64_t row) { baseline ? references_[i].keep(logits, row) : references_[i].compare(logits, row); };
      known = {evaluator::perplexity(*model_, streams_[i], item, see), std::nullopt};
      if (baseline) store.put_distributions(i, references_[i].kept());
      else if (i < references_.size()) known->divergence = references_[i].divergence();
      store.put(i, *known);
    }
    log_info("perplexity " + item.corpus + (baseline ? ", not quantized" : "") + ": " + std::to_string(known->score.value));
    all.perplexity.push_back(known->score);
    all.divergences.push_back(known->divergence);
  }
  const bool from_earlier_run = baseline && !config_.evaluation.against.empty();
  if (!tasks_.empty() && !from_earlier_run) all.tasks = run_tasks(*model_, need_tokenizer(), tasks_, config_.evaluation, config_.data_dir, chat_, store);
  return all;
}

void JobRun::tell_start() {
  results_["miq"] = {{"version", MIQ_VERSION}, {"libtorch", TORCH_VERSION}, {"device", miq::describe(model_->device())}, {"threads", at::get_num_threads()}};
  if (process_group::world_size() > 1) results_["miq"]["ranks"] = process_group::world_size();
  results_["config"] = to_json(config_);
  results_["model"] = {{"family", model_->architecture().family}, {"parameters", model_->num_parameters()}, {"bytes", model_->source().bytes()}, {"dtype", dtype_name(model_->compute_dtype())}};
}

void JobRun::tell_perplexity(const Scores& scores, const Scores& baselines) {
  Json list = Json::array();
  for (size_t i = 0; i < scores.perplexity.size(); ++i) {
    const evaluator::PerplexityConfig& item = config_.evaluation.perplexity[i];
    const evaluator::Perplexity& score = scores.perplexity[i];
    list.push_back({{"corpus", item.corpus},
                    {"split", item.split},
                    {"protocol", item.protocol == evaluator::Protocol::gptq ? "gptq" : "mi"},
                    {"seqlen", item.seqlen},
                    {"windows", score.windows},
                    {"tokens", score.tokens},
                    {"value", number_or_null(score.value)},
                    {"baseline", i < baselines.perplexity.size() ? number_or_null(baselines.perplexity[i].value) : Json()},
                    {"seconds", score.seconds}});
    if (const auto& divergence = scores.divergences[i]) {
      list.back()["kl_divergence"] = number_or_null(divergence->kl);
      list.back()["top1_agreement"] = divergence->top1;
      list.back()["compared_tokens"] = divergence->tokens;
    }
  }
  results_["perplexity"] = list;
}

Json JobRun::run() {
  check_ranks(config_, *model_, streams_, calibration_ids_);
  switch (begin()) {
    case RunState::finished:
      if (process_group::rank() > 0) return {};
      log_info(config_.output + ": this run is complete; --overwrite does it anew");
      return tell_again();
    case RunState::interrupted: log_info(config_.output + ": goes on with an interrupted run"); break;
    case RunState::fresh: break;
  }
  if (writes()) log_to_file((folder_->path() / "miq.log").string());
  tell_start();
  Scores baselines, scores;
  if (mode_ == JobMode::run && config_.evaluation.baseline) baselines = score(/*baseline=*/true);
  if (quantizes()) quantize();
  if (evaluates()) scores = score(/*baseline=*/false);
  tell_perplexity(scores, baselines);
  if (process_group::rank() > 0) return {};
  if (!config_.evaluation.against.empty()) baselines.tasks = read_outcomes(tasks_, config_.evaluation.against);
  results_.update(tell_tasks(tasks_, scores.tasks, baselines.tasks, config_.evaluation, config_.output));
  results_["events"] = events_;
  results_ = judged(std::move(results_));
  if (writes()) folder_->finish(results_);
  return std::move(results_);
}

Json JobRun::tell_again() {
  Json results = read_results(fs::path(config_.output) / "results.json");
  if (Json told = judged(results); told != results) folder_->finish(results = std::move(told));
  return results;
}

// With the gates of this call, which may be others than those of the call that made the results.
Json JobRun::judged(Json results) const {
  results.erase("expect");
  if (!config_.expect.empty()) results["expect"] = judge_expectations(config_, mode_, results);
  return results;
}

Json JobRun::outline() {
  const RunState state = writes() && !options_.overwrite ? state_of(config_.output, manifest()) : RunState::fresh;
  return describe_job({config_, mode_, *model_, calibration_ids_, streams_, tasks_, state});
}

nlohmann::ordered_json run_job(const JobConfig& config, JobMode mode, const JobOptions& options) {
  const c10::InferenceMode inference;
  JobRun job(config, mode, options);
  job.prepare();
  return job.run();
}

nlohmann::ordered_json dry_run(const JobConfig& config, JobMode mode, const JobOptions& options) {
  const c10::InferenceMode inference;
  JobRun job(config, mode, options);
  job.prepare(/*dry=*/true);
  return job.outline();
}

}  // namespace miq::executor
