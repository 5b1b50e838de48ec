#include "score_store.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "miq/core/digest.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/process_group.h"
#include "miq/core/safetensors.h"
#include "miq/core/text.h"

namespace miq::executor {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

static double number(const nlohmann::json& value) { return value.is_number() ? value.get<double>() : std::nan(""); }

// What a file of the store says; where it says something else, it is damaged.
template <class Read>
static auto read_told(const std::string& text, const std::string& where, const Read& read) {
  const nlohmann::json told = parse_json(text, where);
  try {
    return read(told);
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::io, std::string("no record of a finished score: ") + error.what(), where, "the file is damaged: start anew with --overwrite");
  }
}

static std::string base_of(size_t i) { return "perplexity-" + std::to_string(i); }

ScoreStore::ScoreStore(fs::path folder) : folder_(std::move(folder)) {
  if (folder_.empty()) return;
  std::error_code problem;
  fs::create_directories(folder_ / "tasks", problem);
  if (problem) throw_system_error("create", folder_, problem.value());
}

// Of a file, or "" where there is none, on all ranks.
std::string ScoreStore::content(const fs::path& file) const {
  std::string text;
  if (!folder_.empty() && fs::exists(folder_ / file)) text = read_file(folder_ / file);
  process_group::broadcast(text);
  return text;
}

std::optional<ScoreStore::Perplexity> ScoreStore::perplexity(size_t i) const {
  const std::string name = base_of(i) + ".json", text = content(name);
  if (text.empty()) return std::nullopt;
  return read_told(text, (folder_ / name).string(), [](const nlohmann::json& told) {
    Perplexity found{{number(told.at("value")), told.at("windows"), told.at("tokens"), number(told.at("seconds"))}, std::nullopt};
    if (told.contains("kl_divergence")) found.divergence = {told.at("compared_tokens"), number(told.at("kl_divergence")), number(told.at("top1_agreement"))};
    return std::optional<Perplexity>(found);
  });
}

void ScoreStore::put(size_t i, const Perplexity& perplexity) const {
  if (folder_.empty()) return;
  const evaluator::Perplexity& score = perplexity.score;
  Json told = {{"value", number_or_null(score.value)}, {"windows", score.windows}, {"tokens", score.tokens}, {"seconds", score.seconds}};
  if (const auto& divergence = perplexity.divergence)
    told.update({{"kl_divergence", number_or_null(divergence->kl)}, {"top1_agreement", divergence->top1}, {"compared_tokens", divergence->tokens}});
  write_file_atomically(folder_ / (base_of(i) + ".json"), to_text(told));
}

// Each rank keeps its own part of them, so that several ranks make them anew.
std::optional<std::vector<evaluator::ReferenceDistributions::Kept>> ScoreStore::distributions(size_t i) const {
  const fs::path path = folder_ / (base_of(i) + ".safetensors");
  if (folder_.empty() || process_group::world_size() > 1 || !fs::exists(path)) return std::nullopt;
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::vector<evaluator::ReferenceDistributions::Kept> kept;
  for (const auto& [row, spec] : file.specs()) {
    if (row.empty() || row.size() > 18 || row.find_first_not_of("0123456789") != std::string::npos)
      throw Error(ErrorKind::io, "no distributions: a tensor is called '" + row + "'", path.string(), "the file is damaged: start anew with --overwrite");
    kept.push_back({std::stoll(row), file.tensor(row)});
  }
  std::sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.row < b.row; });  // as they were kept, so that sums are the same
  return kept;
}

void ScoreStore::put_distributions(size_t i, const std::vector<evaluator::ReferenceDistributions::Kept>& kept) const {
  if (folder_.empty() || process_group::world_size() > 1) return;
  std::map<std::string, at::Tensor> tensors;
  for (const auto& part : kept) tensors[std::to_string(part.row)] = part.log_probabilities_RV;
  const fs::path partial = folder_ / "distributions.partial";
  save_safetensors(partial, tensors);
  rename_synced(partial, folder_ / (base_of(i) + ".safetensors"));
}

std::optional<TaskOutcome> ScoreStore::task(const std::string& records) const {
  const std::string file = "tasks/" + records, told = content(file + ".json");  // written last
  if (told.empty()) return std::nullopt;
  const std::string where = (folder_ / file).string(), lines = content(file + ".jsonl");
  const auto [seconds, digest] = read_told(told, where + ".json", [](const nlohmann::json& value) { return std::pair(number(value.at("seconds")), value.at("sha256").get<std::string>()); });
  if (sha256(lines) != digest) throw Error(ErrorKind::io, "not the records that were written", where + ".jsonl", "the file is damaged: start anew with --overwrite");
  return TaskOutcome{evaluator::records_from_text(lines, where + ".jsonl"), seconds};
}

void ScoreStore::put(const std::string& records, const TaskOutcome& outcome) const {
  if (folder_.empty()) return;
  const fs::path tasks = folder_ / "tasks";
  evaluator::write_records(tasks / (records + ".jsonl"), outcome.records);
  write_file_atomically(tasks / (records + ".json"), to_text({{"seconds", outcome.seconds}, {"sha256", sha256(read_file(tasks / (records + ".jsonl")))}}));
}

}  // namespace miq::executor
