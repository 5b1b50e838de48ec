#include "dry_run.h"

#include <unistd.h>

#include <cerrno>

#include "job_run.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/memory.h"
#include "miq/core/text.h"
#include "miq/executor/plan.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct TaskSize {
  std::int64_t documents = 0, requests = 0, record_bytes = 0;
};

// A record tells its keys and, for each request, a log-likelihood or a text; the requests themselves only where that is asked for.
TaskSize size_of(const PlannedTask& planned, const EvaluationConfig& config, const std::string& data_dir) {
  constexpr std::int64_t kKeys = 160, kLoglikelihood = 22, kTextOfToken = 4;
  TaskSize size;
  for (const dataset::TaskSubject& subject : load_documents(planned.task, planned.options, data_dir))
    for (const dataset::TaskDocument& document : subject.documents) {
      ++size.documents;
      size.requests += static_cast<std::int64_t>(document.requests.size());
      size.record_bytes += kKeys;
      for (const dataset::TaskRequest& request : document.requests) {
        size.record_bytes += planned.task.shape == dataset::Shape::generate ? kTextOfToken * planned.task.max_new_tokens : kLoglikelihood;
        if (config.requests) size.record_bytes += static_cast<std::int64_t>(request.context.size() + request.continuation.size());
      }
    }
  return size;
}

struct Describer {
  const PreparedJob& job;
  Json files = Json::array(), notes = Json::array();
  std::int64_t bytes = 0;

  bool quantizes() const { return job.mode != JobMode::evaluate; }
  bool evaluates() const { return job.mode != JobMode::quantize; }
  bool scores_baseline() const { return job.mode == JobMode::run && job.config.evaluation.baseline; }

  void file(const std::string& path, std::int64_t size) {
    if (job.config.output.empty()) return;
    files.push_back({{"path", path}, {"bytes", size}});
    bytes += size;
  }

  Json calibration() const {
    std::int64_t samples = 0, tokens = 0;
    for (const at::Tensor& batch : job.calibration_ids) {
      samples += batch.size(0);
      tokens += batch.numel();
    }
    const dataset::CalibrationConfig& config = job.config.calibration;
    return {{"dataset", config.ids.empty() ? config.dataset : config.ids}, {"samples", samples}, {"tokens", tokens}};
  }

  Json perplexity() const {
    Json list = Json::array();
    for (size_t i = 0; i < job.streams.size(); ++i) {
      const evaluator::PerplexityConfig& item = job.config.evaluation.perplexity[i];
      list.push_back({{"corpus", item.corpus}, {"split", item.split}, {"seqlen", item.seqlen}, {"windows", evaluator::num_windows(job.streams[i].size(0), item)}, {"corpus_tokens", job.streams[i].size(0)}});
    }
    return list;
  }

  Json tasks() {
    Json list = Json::array();
    for (const PlannedTask& planned : job.tasks) {
      const TaskSize size = size_of(planned, job.config.evaluation, job.config.data_dir);
      list.push_back({{"task", planned.name}, {"shots", planned.shots}, {"split", split_of(planned)}, {"documents", size.documents}, {"requests", size.requests}});
      if (planned.twin) {
        list.back()["same_as"] = job.tasks[*planned.twin].records;
        continue;
      }
      file("tasks/" + planned.records + ".jsonl", size.record_bytes);
      if (scores_baseline() && job.config.evaluation.against.empty()) file("tasks/" + planned.records + ".baseline.jsonl", size.record_bytes);
    }
    return list;
  }

  void note_memory(const Json& plan) {
    const std::int64_t takes = plan.at("total").at("memory_bytes"), available = available_memory_bytes();
    if (takes > available)
      notes.push_back("quantizing takes about " + format_bytes(takes) + " of memory, and " + format_bytes(available) + " are available: lower calibration.samples, or set pipeline.offload: disk");
  }

  Json output() {
    if (job.config.output.empty()) {
      notes.push_back("output is not set: nothing is written, the results are only printed");
      return {};
    }
    constexpr std::int64_t kLog = 4 << 10, kManifest = 6 << 10;
    file("miq.log", kLog);
    file("manifest.json", kManifest);
    const fs::path there = existing_part(job.config.output);
    std::error_code problem;
    const fs::space_info space = fs::space(there, problem);
    const auto free = problem ? std::int64_t{-1} : static_cast<std::int64_t>(space.available);
    if (free >= 0 && bytes > free)
      throw Error(ErrorKind::io, "the job writes about " + format_bytes(bytes) + ", and " + format_bytes(free) + " are free", job.config.output, "free some space, or choose another output");
    static const char* const kStates[] = {"fresh", "interrupted", "finished"};
    if (job.state == RunState::interrupted) notes.push_back("an interrupted run is there: it would go on where it ended");
    if (job.state == RunState::finished) notes.push_back("this run is there and complete: its results would be told again; --overwrite does it anew");
    for (const char* name : {"results.json", "model"})
      if (job.state == RunState::fresh && fs::exists(fs::path(job.config.output) / name, problem) && (std::string(name) != "model" || job.config.export_))
        notes.push_back((fs::path(job.config.output) / name).string() + " is there and would be replaced");
    return {{"folder", job.config.output}, {"state", kStates[static_cast<int>(job.state)]}, {"free_bytes", free < 0 ? Json() : Json(free)}, {"bytes", bytes}, {"files", files}};
  }

  Json describe() {
    constexpr std::int64_t kResults = 4 << 10, kLayer = 310, kTask = 4 << 10;
    Json told = {{"command", name_of(job.mode)},
                 {"model", {{"path", job.config.model.path}, {"family", job.model.architecture().family}, {"parameters", job.model.num_parameters()},
                            {"bytes", job.model.source().bytes()}, {"device", job.model.device().str()}, {"dtype", dtype_name(job.model.compute_dtype())}}}};
    std::int64_t results = kResults + kTask * static_cast<std::int64_t>(job.tasks.size());
    if (quantizes()) {
      told["plan"] = describe_plan(job.config);
      told["calibration"] = calibration();
      results += kLayer * static_cast<std::int64_t>(told["plan"]["layers"].size());
      if (job.config.export_) file("model/", told["plan"]["total"]["disk_bytes"]);
      note_memory(told["plan"]);
    }
    if (evaluates()) {
      told["evaluation"] = {{"baseline", scores_baseline()}, {"perplexity", perplexity()}, {"tasks", tasks()}};
      if (job.streams.empty() && job.tasks.empty()) notes.push_back("nothing is evaluated: evaluation has neither perplexity nor tasks");
    }
    told["expect"] = Json::array();
    for (const Expectation& gate : job.config.expect) told["expect"].push_back({{"what", gate.what}, {"bound", gate.bound}});
    file("results.json", results);
    told["output"] = output();
    told["notes"] = notes;
    return told;
  }
};

std::string count(const Json& number, const std::string& unit) { return std::to_string(number.get<std::int64_t>()) + " " + unit + (number == 1 ? "" : "s"); }

}  // namespace

fs::path existing_part(fs::path folder) {
  folder = fs::absolute(folder);
  std::error_code problem;
  while (!fs::exists(folder, problem) && folder.has_relative_path()) folder = folder.has_filename() ? folder.parent_path() : folder.parent_path().parent_path();
  return folder;
}

void check_writable(const fs::path& folder) {
  const fs::path there = existing_part(folder);
  std::error_code problem;
  if (!fs::is_directory(there, problem)) throw_system_error("create", folder, ENOTDIR);
  if (::access(there.c_str(), W_OK | X_OK) != 0) throw_system_error("create", folder, errno);
}

Json describe_job(const PreparedJob& job) { return Describer{job}.describe(); }

std::string format_dry_run(const Json& job) {
  const Json& model = job.at("model");
  std::string text = "dry run of miq " + job.at("command").get<std::string>() + ": nothing is written\n\nmodel        " + model.at("path").get<std::string>() + ": " + model.at("family").get<std::string>() + ", " +
                     std::to_string(model.at("parameters").get<std::int64_t>()) + " parameters, " + format_bytes(model.at("bytes").get<std::int64_t>()) + "; " + model.at("device").get<std::string>() + ", " +
                     model.at("dtype").get<std::string>() + "\n";
  if (job.contains("plan")) {
    text += "\n" + format_plan(job.at("plan")) + "\n";
    const Json& calibration = job.at("calibration");
    text += "calibration  " + (calibration.at("tokens") == 0 ? std::string("none: no layer needs data")
                                                              : calibration.at("dataset").get<std::string>() + ": " + count(calibration.at("samples"), "sample") + ", " + count(calibration.at("tokens"), "token")) + "\n";
  }
  if (job.contains("evaluation")) {
    const Json& evaluation = job.at("evaluation");
    const std::string models = evaluation.at("baseline").get<bool>() ? ", of both models" : "";
    for (const Json& item : evaluation.at("perplexity"))
      text += "perplexity   " + item.at("corpus").get<std::string>() + " " + item.at("split").get<std::string>() + ": " + count(item.at("windows"), "window") + " of " + std::to_string(item.at("seqlen").get<std::int64_t>()) +
              " tokens" + models + "\n";
    for (const Json& task : evaluation.at("tasks"))
      text += "task         " + task.at("task").get<std::string>() + ", " + count(task.at("shots"), "shot") + ": " + count(task.at("documents"), "document") + ", " + count(task.at("requests"), "request") +
              (task.contains("same_as") ? ", the same questions as " + task.at("same_as").get<std::string>() : models) + "\n";
  }
  for (const Json& gate : job.at("expect")) text += "expected     " + gate.at("what").get<std::string>() + " " + gate.at("bound").get<std::string>() + "\n";
  if (const Json& output = job.at("output"); !output.is_null()) {
    text += "output       " + output.at("folder").get<std::string>() + ": about " + format_bytes(output.at("bytes").get<std::int64_t>()) +
            (output.at("free_bytes").is_number() ? ", " + format_bytes(output.at("free_bytes").get<std::int64_t>()) + " are free" : "") + "\n";
    for (const Json& file : output.at("files")) text += "  " + file.at("path").get<std::string>() + "  " + format_bytes(file.at("bytes").get<std::int64_t>()) + "\n";
  }
  for (const Json& note : job.at("notes")) text += "note         " + note.get<std::string>() + "\n";
  return text;
}

}  // namespace miq::executor
