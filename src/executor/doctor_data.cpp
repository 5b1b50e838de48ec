// Of `miq doctor`: corpora and tasks in the data folder, the hub's cache, and one model.
#include "doctor_checks.h"
#include "miq/core/error.h"
#include "miq/core/hub_cache.h"
#include "miq/core/memory.h"
#include "miq/core/text.h"
#include "miq/dataset/chat.h"
#include "miq/dataset/corpus.h"
#include "miq/dataset/task.h"
#include "miq/dataset/tokenizer.h"
#include "miq/executor/inspect.h"
#include "miq/executor/plan.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string joined(const std::vector<std::string>& names, size_t most = 12) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < most; ++i) text += (i > 0 ? ", " : "") + names[i];
  return names.size() > most ? text + " and " + std::to_string(names.size() - most) + " more" : text;
}

Json corpora(const std::string& data_dir) {
  Json facts = {{"corpora", Json::object()}};
  std::string there;
  std::vector<std::string> missing;
  for (const std::string& name : dataset::corpus_names()) {
    const std::vector<std::string> splits = dataset::corpus_splits(name, data_dir);
    facts["corpora"][name] = splits;
    if (splits.empty()) missing.push_back(name);
    else there += (there.empty() ? "" : ", ") + name + " (" + joined(splits) + ")";
  }
  const std::string text = "corpora: " + (there.empty() ? "none" : there) + (missing.empty() ? "" : "; missing " + joined(missing));
  return make_check("data", missing.empty() ? "ok" : "note", text, missing.empty() ? "" : "put them into the data folder as NAME/SPLIT.jsonl, a document a line under \"text\" (ptb/SPLIT.txt, a sentence a line), or name a .txt or .jsonl of your own", facts);
}

Checks tasks(const std::string& data_dir) {
  std::vector<std::string> complete, partial, missing;
  Json facts = {{"tasks", Json::object()}};
  for (const std::string& name : dataset::task_names()) {
    const dataset::TaskPresence presence = dataset::find_data(dataset::load_task(name), data_dir);
    facts["tasks"][name] = presence.complete ? "complete" : (presence.evaluable ? "without " : "missing: ") + presence.missing;
    (presence.complete ? complete : presence.evaluable ? partial : missing).push_back(name);
  }
  const std::string get = "tools/miq_data.py " + std::string("NAME --data-dir ") + data_dir;
  Checks checks;
  checks.push_back(make_check("data", complete.empty() ? "note" : "ok", std::to_string(complete.size()) + " of " + std::to_string(complete.size() + partial.size() + missing.size()) + " tasks have all their data" +
                                  (complete.empty() ? "" : ": " + joined(complete, 100)), complete.empty() ? get : "", facts));
  if (!partial.empty()) checks.push_back(make_check("data", "note", "without data of their shots or of some subjects: " + joined(partial), get + "; miq list tasks tells what each lacks"));
  if (!missing.empty()) checks.push_back(make_check("data", "note", "no data of " + joined(missing), get + "; miq list tasks tells all"));
  return checks;
}

Json hub_cache() {
  const fs::path folder = hub_cache_folder();
  std::vector<std::string> models;
  std::error_code problem;
  for (fs::directory_iterator entry(folder, problem), end; !problem && entry != end; entry.increment(problem)) {
    std::string name = entry->path().filename().string();
    if (name.rfind("models--", 0) != 0) continue;
    name.erase(0, 8);
    for (size_t at; (at = name.find("--")) != std::string::npos;) name.replace(at, 2, "/");
    models.push_back(printable(name));
  }
  std::sort(models.begin(), models.end());
  const std::string text = "Hugging Face cache " + folder.string() + ": " + (models.empty() ? "no models" : joined(models));
  return make_check("models", "ok", text, models.empty() ? "hf download ORG/NAME gets one; or give --model a folder" : "", {{"folder", folder.string()}, {"models", models}});
}

}  // namespace

Checks check_data(const DoctorConfig& config) {
  std::error_code problem;
  Checks checks;
  if (!fs::is_directory(config.data_dir, problem)) {
    checks.push_back(make_check("data", "note", "there is no folder " + config.data_dir + ": no corpus and no task has data", "name it with --data-dir or MIQ_DATA; tools/miq_data.py NAME --data-dir DIR gets tasks"));
  } else {
    checks.push_back(corpora(config.data_dir));
    for (Json& check : tasks(config.data_dir)) checks.push_back(std::move(check));
  }
  checks.push_back(hub_cache());
  return checks;
}

Checks check_model(const DoctorConfig& config) {
  Checks checks;
  const Json found = inspect_model(config.model, config.architecture);
  const std::string name = config.model + ": " + found.at("family").get<std::string>();
  if (!found.at("loads").at("ok").get<bool>()) {
    checks.push_back(make_check("model", "problem", name + " cannot be loaded: " + found.at("loads").at("reason").get<std::string>(), "miq inspect tells more", {{"loads", false}}));
    return checks;
  }
  JobConfig job = read_job_config(ConfigSource::empty());
  job.model.path = config.model;
  job.model.architecture = config.architecture;
  const Json total = describe_plan(job).at("total");
  const std::int64_t available = available_memory_bytes(), bytes = total.at("original_bytes"), takes = total.at("memory_bytes");
  const Json facts = {{"loads", true}, {"bytes", bytes}, {"quantizing_bytes", takes}, {"quantizing_seconds", total.at("seconds")}};
  checks.push_back(make_check("model", "ok", name + ", " + std::to_string(found.at("parameters").at("total").get<std::int64_t>()) + " parameters, " + format_bytes(bytes) + ": can be loaded", "", facts));
  checks.push_back(make_check("model", bytes > available ? "note" : "ok", bytes > available ? "to run it takes more than the " + format_bytes(available) + " of memory that are available" : "it runs from memory",
                              bytes > available ? "its blocks are then read for each pass; give --memory SIZE (docs/scaling.md)" : ""));
  checks.push_back(make_check("model", takes > available ? "note" : "ok", "to quantize it by GPTQ to 4 bits with " + std::to_string(total.at("calibration_tokens").get<std::int64_t>()) + " tokens takes about " + format_bytes(takes) + " of memory and " +
                                  format_seconds(total.at("seconds")) + " here", takes > available ? "lower calibration.samples, or set pipeline.offload: disk" : ""));
  const auto optional_part = [&](const std::string& what, auto part) {
    try {
      part();
      checks.push_back(make_check("model", "ok", what));
    } catch (const Error& error) {
      checks.push_back(make_check("model", "note", what + ": no, " + error.message(), error.fix()));
    }
  };
  optional_part("it has a tokenizer", [&] { dataset::load_tokenizer(resolve_model_path(config.model)); });
  optional_part("it has a chat template that miq knows", [&] { dataset::detect_chat_kind(resolve_model_path(config.model)); });
  return checks;
}

}  // namespace miq::executor
