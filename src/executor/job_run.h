// A job on its way: what is opened beforehand, what is done, what is told.
#pragma once

#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cost.h"
#include "export_target.h"
#include "miq/executor/job.h"
#include "miq/executor/pipeline.h"
#include "run_folder.h"
#include "score_store.h"
#include "task_evaluation.h"

namespace miq::executor {

/// What jobs of one process read once.
struct SharedInputs {
  std::map<std::string, std::vector<at::Tensor>> tokens;       ///< calibration samples and token streams, by what they are made of
  std::map<std::string, nlohmann::ordered_json> digests;       ///< of checkpoints, by path
};

/// As the command line says it.
const char* name_of(JobMode mode);

class JobRun {
 public:
  JobRun(const JobConfig& config, JobMode mode, const JobOptions& options, std::shared_ptr<SharedInputs> shared = std::make_shared<SharedInputs>());

  /// Opens everything the job will need, so that what is missing is told before the work. @throws Error
  /// `dry`: nothing is made or taken.
  void prepare(bool dry = false);
  /// What the rest would do (dry_run()). After prepare().
  nlohmann::ordered_json outline();
  /// What a run is a run of: the configuration, digests of the model and the data. After prepare().
  const nlohmann::ordered_json& manifest();
  /// The rest, from where an earlier process left it. @throws Error
  nlohmann::ordered_json run();

  const JobConfig& config() const { return config_; }
  model::LanguageModel& model() { return *model_; }
  const std::vector<PlannedLinear>& plan() const { return plan_; }
  /// Of the calibration pass; without callbacks.
  PipelineOptions pipeline_options() const;
  /// Takes the output folder and finds out how far its run has come; done by run() where it was not before.
  RunState begin();
  /// The results of a complete run, with the gates of this call. After begin().
  nlohmann::ordered_json tell_again();
  /// Of the finished blocks, once begun.
  std::filesystem::path journal_folder() const { return folder_->resume() / "blocks"; }
  bool is_calibrated() const { return !calibration_ids_.empty(); }
  /// Keeps the unquantized model's scores there, for other jobs too.
  void set_baseline_folder(std::filesystem::path folder) { baseline_folder_ = std::move(folder); }

 private:
  struct Scores {
    std::vector<evaluator::Perplexity> perplexity;
    std::vector<std::optional<evaluator::Divergence>> divergences;
    std::vector<TaskOutcome> tasks;
  };

  bool quantizes() const { return mode_ != JobMode::evaluate; }
  bool evaluates() const { return mode_ != JobMode::quantize; }
  bool writes() const { return !config_.output.empty(); }
  bool has_evaluation() const { return !streams_.empty() || !tasks_.empty(); }
  bool keeps_blocks() const;
  quantizer::Transform rotation() const;
  at::ScalarType calibration_dtype() const;
  const dataset::Tokenizer& need_tokenizer();
  void open_model(const std::string& path);
  void check_output() const;
  nlohmann::ordered_json judged(nlohmann::ordered_json results) const;
  void prepare_evaluation();
  void read_calibration();
  void check_memory();
  std::filesystem::path resume(const char* part) const;
  const std::vector<at::Tensor>& tokens_of(const std::string& what, const std::function<std::vector<at::Tensor>()>& read);
  evaluator::ReferenceDistributions new_references() const;
  Scores score(bool baseline);
  void allocate(const PipelineOptions& options);
  std::unique_ptr<format::ExportWriter> open_writer(const std::filesystem::path& folder) const;
  void quantize_head(PipelineResult& done, format::ExportWriter* writer);
  void quantize();
  void tell_start();
  void tell_quantization(const PipelineResult& done, double seconds, double cpu, std::int64_t peak_anonymous_bytes);
  void tell_perplexity(const Scores& scores, const Scores& baselines);

  JobConfig config_;
  JobMode mode_;
  JobOptions options_;
  std::shared_ptr<SharedInputs> shared_;
  std::filesystem::path baseline_folder_;
  std::unique_ptr<RunFolder> folder_;
  nlohmann::ordered_json manifest_;  // null until it is asked for
  std::optional<RunState> state_;
  std::optional<model::LanguageModel> model_;
  std::unique_ptr<dataset::Tokenizer> tokenizer_;
  ExportTarget target_;
  std::vector<PlannedLinear> plan_;
  std::optional<PlannedLinear> head_;            // where it is quantized too
  std::deque<quantizer::LayerRecipe> allocated_; // recipes of layers with bits of their own
  std::vector<at::Tensor> calibration_ids_;
  Memory quantization_memory_;                   // what quantizing is expected to take
  std::vector<at::Tensor> streams_;              // token streams of evaluation.perplexity
  std::vector<PlannedTask> tasks_;
  std::optional<dataset::ChatKind> chat_;        // of tasks that ask a chat model
  std::vector<evaluator::ReferenceDistributions> references_;  // the baseline's, for each stream
  nlohmann::ordered_json results_, events_ = nlohmann::ordered_json::array();
};

}  // namespace miq::executor
