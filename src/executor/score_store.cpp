#include "score_store.h"

#include <ATen/ATen.h>

#include <cmath>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/safetensors.h"
#include "miq/core/text.h"
#include "run_folder.h"

namespace miq::executor {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

static double number(const Json& value) { return value.is_number() ? value.get<double>() : std::nan(""); }
static std::string base_of(size_t i) { return "perplexity-" + std::to_string(i); }

ScoreStore::ScoreStore(fs::path folder) : folder_(std::move(folder)) {
  if (folder_.empty()) return;
  std::error_code problem;
  fs::create_directories(folder_ / "tasks", problem);
  if (problem) throw_system_error("create", folder_, problem.value());
}

std::optional<ScoreStore::Perplexity> ScoreStore::perplexity(size_t i) const {
  const fs::path file = folder_ / (base_of(i) + ".json");
  if (folder_.empty() || !fs::exists(file)) return std::nullopt;
  const Json told = read_results(file);
  Perplexity found{{number(told["value"]), told["windows"], told["tokens"], number(told["seconds"])}, std::nullopt};
  if (told.contains("kl_divergence")) found.divergence = {told["compared_tokens"], number(told["kl_divergence"]), number(told["top1_agreement"])};
  return found;
}

void ScoreStore::put(size_t i, const Perplexity& perplexity) const {
  if (folder_.empty()) return;
  const evaluator::Perplexity& score = perplexity.score;
  Json told = {{"value", number_or_null(score.value)}, {"windows", score.windows}, {"tokens", score.tokens}, {"seconds", score.seconds}};
  if (const auto& divergence = perplexity.divergence)
    told.update({{"kl_divergence", number_or_null(divergence->kl)}, {"top1_agreement", divergence->top1}, {"compared_tokens", divergence->tokens}});
  write_file_atomically(folder_ / (base_of(i) + ".json"), to_text(told));
}

std::optional<std::vector<at::Tensor>> ScoreStore::distributions(size_t i) const {
  const fs::path path = folder_ / (base_of(i) + ".safetensors");
  if (folder_.empty() || !fs::exists(path)) return std::nullopt;
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::vector<at::Tensor> parts;
  while (file.has(std::to_string(parts.size()))) parts.push_back(file.tensor(std::to_string(parts.size())));
  return parts;
}

void ScoreStore::put_distributions(size_t i, const std::vector<at::Tensor>& parts) const {
  if (folder_.empty()) return;
  std::map<std::string, at::Tensor> tensors;
  for (size_t p = 0; p < parts.size(); ++p) tensors[std::to_string(p)] = parts[p];
  const fs::path partial = folder_ / "distributions.partial";
  save_safetensors(partial, tensors);
  rename_synced(partial, folder_ / (base_of(i) + ".safetensors"));
}

std::optional<TaskOutcome> ScoreStore::task(const std::string& records) const {
  const fs::path tasks = folder_ / "tasks", file = tasks / (records + ".json");  // written last
  if (folder_.empty() || !fs::exists(file)) return std::nullopt;
  return TaskOutcome{evaluator::read_records(tasks / (records + ".jsonl")), number(read_results(file)["seconds"])};
}

void ScoreStore::put(const std::string& records, const TaskOutcome& outcome) const {
  if (folder_.empty()) return;
  const fs::path tasks = folder_ / "tasks";
  evaluator::write_records(tasks / (records + ".jsonl"), outcome.records);
  write_file_atomically(tasks / (records + ".json"), to_text({{"seconds", outcome.seconds}}));
}

}  // namespace miq::executor
