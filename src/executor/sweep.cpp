// Running a sweep: what variants share is done once, the rest variant by variant, each in a run directory of its own.
#include "miq/executor/sweep.h"

#include <c10/core/InferenceMode.h>

#include <map>
#include <memory>
#include <optional>

#include "job_run.h"
#include "miq/core/digest.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/log.h"
#include "miq/core/text.h"
#include "shared_capture.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string digest_of(const Json& value) { return sha256(value.dump()).substr(0, 16); }

class SweepRun {
 public:
  SweepRun(const Sweep& sweep, const JobOptions& options) : sweep_(sweep), options_(options), folder_(sweep.output) {}

  Json run() {
    log_to_file((folder_.path() / "miq.log").string());
    begin_variants();
    capture();
    for (size_t v = 0; v < jobs_.size(); ++v) {
      if (!jobs_[v]) continue;
      log_to_file((folder_.path() / "miq.log").string());
      log_info("variant " + std::to_string(v + 1) + " of " + std::to_string(jobs_.size()) + ": " + sweep_.variants[v].name);
      guarded(v, [&] { jobs_[v]->run(); });
      jobs_[v].reset();
      write_summary();
    }
    log_to_file((folder_.path() / "miq.log").string());
    const Json summary = write_summary();
    if (first_error_)
      throw Error(first_error_->kind(), first_error_->message() + " (" + std::to_string(failures_) + " of " + std::to_string(sweep_.variants.size()) + " variants failed)", first_error_->where(), first_error_->fix());
    std::error_code ignored;
    fs::remove_all(folder_.resume(), ignored);
    return summary;
  }

 private:
  // A variant's failure is told, and the others go on.
  template <class Work>
  void guarded(size_t v, const Work& work) {
    try {
      work();
    } catch (const Error& error) {
      fail(v, error);
    }
  }

  void fail(size_t v, const Error& error) {
    log_warning("variant " + sweep_.variants[v].name + " failed: " + error.message() + (error.where().empty() ? "" : " (" + error.where() + ")"));
    ++failures_;
    if (!first_error_) first_error_.emplace(error.kind(), "variant " + sweep_.variants[v].name + ": " + error.message(), error.where(), error.fix());
    jobs_[v].reset();
  }

  // What can be told of any variant beforehand ends the sweep before the work.
  void begin_variants() {
    for (const SweepVariant& variant : sweep_.variants) {
      auto job = std::make_unique<JobRun>(variant.config, sweep_.mode, options_, shared_);
      try {
        job->prepare();
        if (job->begin() == RunState::finished) {
          job->tell_again();
          job.reset();
        }
      } catch (const Error& error) {
        throw Error(error.kind(), "variant " + variant.name + ": " + error.message(), error.where(), error.fix());
      }
      if (job) job->set_baseline_folder(baseline_folder(*job));
      else ++finished_;
      jobs_.push_back(std::move(job));
    }
    log_info("sweep of " + std::to_string(jobs_.size()) + " variants" + (finished_ > 0 ? ", " + std::to_string(finished_) + " of them complete" : ""));
  }

  // Variants whose unquantized model is asked the same.
  fs::path baseline_folder(JobRun& job) const {
    const Json& manifest = job.manifest();
    const Json& config = manifest["config"];
    Json key = {manifest["model"], manifest["data"], config["evaluation"], config["model"], config["pipeline"]["memory"]};
    key[1].erase("calibration");
    return folder_.resume() / ("baseline-" + digest_of(key));
  }

  // Variants that differ in nothing but recipe, export and evaluation see the same float model, where no block sees another quantized.
  static std::optional<std::string> capture_key(JobRun& job) {
    const JobConfig& config = job.config();
    const quantizer::Recipe& recipe = config.recipe;
    if (!job.is_calibrated() || config.pipeline.order != Order::block || config.pipeline.propagate != Propagate::floating) return std::nullopt;
    if (recipe.otherwise.transform.kind == quantizer::TransformKind::rotation || recipe.distillation.steps > 0 || recipe.allocation.bits > 0) return std::nullopt;
    Json same = job.manifest();
    for (const char* key : {"recipe", "export", "evaluation", "strict"}) same["config"].erase(key);
    return digest_of({same["config"], same["model"], same["data"].value("calibration", Json())});
  }

  void capture() {
    std::map<std::string, std::vector<size_t>> groups;
    for (size_t v = 0; v < jobs_.size(); ++v)
      if (jobs_[v])
        if (const auto key = capture_key(*jobs_[v])) groups[*key].push_back(v);
    for (const auto& [key, members] : groups) {
      if (members.size() < 2) continue;
      std::vector<CapturedRecipe> recipes;
      for (const size_t v : members) recipes.push_back({&jobs_[v]->plan(), jobs_[v]->journal_folder()});
      JobRun& first = *jobs_[members.front()];
      const std::vector<std::optional<Error>> errors = capture_shared(first.model(), recipes, first.pipeline_options());
      for (size_t i = 0; i < members.size(); ++i)
        if (errors[i]) fail(members[i], *errors[i]);
    }
  }

  Json write_summary() const {
    Json summary = summarise_sweep(sweep_);
    write_file_atomically(folder_.path() / "sweep.json", to_text(summary));
    return summary;
  }

  const Sweep& sweep_;
  JobOptions options_;
  RunFolder folder_;
  std::shared_ptr<SharedInputs> shared_ = std::make_shared<SharedInputs>();
  std::vector<std::unique_ptr<JobRun>> jobs_;  // of the variants that are not complete
  std::optional<Error> first_error_;
  int failures_ = 0, finished_ = 0;
};

}  // namespace

Json check_sweep(const Sweep& sweep, const JobOptions& options) {
  const c10::InferenceMode inference;
  const auto shared = std::make_shared<SharedInputs>();
  Json variants = Json::array();
  for (const SweepVariant& variant : sweep.variants) {
    try {
      JobRun job(variant.config, sweep.mode, options, shared);
      job.prepare(/*dry=*/true);
      variants.push_back({{"name", variant.name}, {"settings", variant.settings}, {"state", job.outline()["output"]["state"]}});
    } catch (const Error& error) {
      throw Error(error.kind(), "variant " + variant.name + ": " + error.message(), error.where(), error.fix());
    }
  }
  return {{"output", sweep.output}, {"kind", sweep.kind}, {"variants", variants}, {"left_out", sweep.left_out}};
}

Json run_sweep(const Sweep& sweep, const JobOptions& options) {
  const c10::InferenceMode inference;
  return SweepRun(sweep, options).run();
}

}  // namespace miq::executor
