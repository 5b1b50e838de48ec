// The folders that a report is on: runs, and sweeps with their variants and matrices.
#include <algorithm>
#include <map>
#include <set>

#include "json_reader.h"
#include "miq/core/error.h"
#include "miq/core/text.h"
#include "miq/evaluator/statistics.h"
#include "study.h"

namespace miq::executor::report {
namespace {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string folder_name(const fs::path& folder) {
  std::error_code problem;
  const fs::path whole = fs::weakly_canonical(folder, problem);
  const std::string name = printable((problem ? folder : whole).filename().string());
  return name.empty() ? printable(folder.string()) : name;
}

// [rows][columns], each value there or null. `what` reads one.
template <class T, class Read>
std::vector<std::vector<T>> read_grid(const JsonReader& json, size_t rows, size_t columns, T otherwise, const Read& read) {
  std::vector<std::vector<T>> grid(rows, std::vector<T>(columns, otherwise));
  if (!json.is_known()) return grid;
  const std::vector<JsonReader> lines = json.list();
  if (lines.size() != rows) json.fail("has " + std::to_string(lines.size()) + " rows, where rows names " + std::to_string(rows));
  for (size_t r = 0; r < rows; ++r) {
    const std::vector<JsonReader> cells = lines[r].list();
    if (cells.size() != columns) lines[r].fail("has " + std::to_string(cells.size()) + " values, where columns names " + std::to_string(columns));
    for (size_t c = 0; c < columns; ++c) grid[r][c] = read(cells[c]);
  }
  return grid;
}

// Holm's correction over all tests of the matrix.
void correct(std::vector<std::vector<double>>& p_values) {
  std::vector<double> all;
  for (const auto& row : p_values) all.insert(all.end(), row.begin(), row.end());
  const std::vector<double> corrected = evaluator::holm(all);
  size_t next = 0;
  for (auto& row : p_values)
    for (double& p : row) p = corrected[next++];
}

Matrix read_matrix(const JsonReader& json) {
  Matrix matrix;
  matrix.title = json["title"].text();
  matrix.metric = json["metric"].text();
  matrix.higher_is_better = json["higher_is_better"].flag(true);
  matrix.rows_are = json["rows_are"].text();
  matrix.columns_are = json["columns_are"].text();
  for (const JsonReader& name : json.required("rows").list()) matrix.rows.push_back(name.text());
  for (const JsonReader& name : json.required("columns").list()) matrix.columns.push_back(name.text());
  const size_t rows = matrix.rows.size(), columns = matrix.columns.size();
  const auto number = [](const JsonReader& value) { return value.number(); };
  matrix.values = read_grid(json.required("values"), rows, columns, kUnknown, number);
  matrix.p_values = read_grid(json["p_values"], rows, columns, kUnknown, number);
  correct(matrix.p_values);
  matrix.in_distribution = read_grid(json["in_distribution"], rows, columns, false, [](const JsonReader& value) { return value.flag(false); });
  for (const JsonReader& value : json["baseline"].list()) matrix.baseline.push_back(value.number());
  if (matrix.baseline.empty()) matrix.baseline.assign(columns, kUnknown);
  if (matrix.baseline.size() != columns) json["baseline"].fail("has not a value for each column");
  return matrix;
}

struct StudyReader {
  Study study;
  std::vector<fs::path> folders;  // of study.runs

  void add_run(const fs::path& folder, const std::string& name) {
    study.runs.push_back(read_run(folder, name));
    folders.push_back(folder);
  }

  void add_sweep(const fs::path& folder) {
    const fs::path file = folder / "sweep.json";
    const nlohmann::ordered_json document = read_json_file(file);
    const JsonReader json(document, file);
    if (!document.is_object() || !document.contains("variants"))
      throw Error(ErrorKind::io, "it is not a sweep's: it has no key variants", file.string(), "give a folder that miq sweep --output made");
    if (study.title.empty()) study.title = json["title"].text();
    for (const JsonReader& item : json["axes"].list()) add_axis(item);
    for (const JsonReader& item : json["variants"].list()) {
      const std::string name = item.required("name").text();
      const fs::path run = folder / item.required("run").text();
      if (!is_there(run / "results.json")) {
        study.missing.push_back({name, is_there(run) ? "it did not finish: no results.json" : "it was not run: no folder " + printable(item["run"].text())});
        continue;
      }
      add_run(run, name);
      for (const auto& [key, value] : item["settings"].members()) study.runs.back().settings.emplace_back(printable(key), value.scalar());
      study.runs.back().is_pareto = item["pareto"].flag(false);
    }
    for (const JsonReader& item : json["matrices"].list()) study.matrices.push_back(read_matrix(item));
  }

  void add_axis(const JsonReader& json) {
    const std::string key = json.required("key").text();
    auto axis = std::find_if(study.axes.begin(), study.axes.end(), [&](const Axis& a) { return a.key == key; });
    if (axis == study.axes.end()) axis = study.axes.insert(study.axes.end(), {key, {}});
    for (const JsonReader& item : json["values"].list()) {
      const std::string value = item.scalar();
      if (std::find(axis->values.begin(), axis->values.end(), value) == axis->values.end()) axis->values.push_back(value);
    }
  }

  void add(const fs::path& given, bool alone) {
    std::error_code ignored;
    const bool is_result = !fs::is_directory(given, ignored) && (given.filename() == "results.json" || given.filename() == "sweep.json");
    const fs::path folder = is_result ? given.parent_path() : given;
    if (is_there(folder / "sweep.json")) return add_sweep(folder);
    if (is_there(folder / "results.json")) return add_run(folder, folder_name(folder));
    if (!is_there(folder)) throw Error(ErrorKind::io, "there is no such folder", printable(folder.string()),
        "give a folder that miq run --output or miq sweep --output made");
    const bool is_unfinished = is_there(folder / "miq.log");
    if (!is_unfinished || alone)
      throw Error(ErrorKind::io, std::string("it is not a finished run: it has neither results.json nor sweep.json") + (is_unfinished ? ", only a log" : ""),
          printable(folder.string()),
                  is_unfinished ? "the run failed or still works: miq.log in it says why" : "give a folder that miq run --output or miq sweep --output made");
    study.missing.push_back({folder_name(folder), "it did not finish: no results.json"});
  }

  // Runs of one name get their folders' names before it, or a number.
  void tell_apart() {
    for (int round = 0; round < 2; ++round) {
      std::map<std::string, int> count;
      for (const Run& run : study.runs) ++count[run.name];
      std::map<std::string, int> seen;
      for (size_t r = 0; r < study.runs.size(); ++r) {
        std::string& name = study.runs[r].name;
        if (count[name] < 2) continue;
        if (round == 0) name = folder_name(folders[r].has_filename() ? folders[r].parent_path() : folders[r].parent_path().parent_path()) + "/" + name;
        else if (const int number = ++seen[name]; number > 1) name += " (" + std::to_string(number) + ")";
      }
    }
  }
};

}  // namespace

Study read_study(const std::vector<fs::path>& folders) {
  if (folders.empty()) throw Error(ErrorKind::config, "no run to report on", "", "give folders that miq run --output or miq sweep --output made");
  StudyReader reader;
  for (const fs::path& folder : folders) reader.add(folder, folders.size() == 1);
  if (reader.study.runs.empty())
    throw Error(ErrorKind::io, "no run has finished" + (reader.study.missing.empty() ? std::string(": there is no variant")
        : "; the first, " + reader.study.missing[0].name + ": " + reader.study.missing[0].reason),
                printable(folders[0].string()), "finish one, then make the report");
  reader.tell_apart();
  return std::move(reader.study);
}

int Score::verdict() const {
  if (what != "task" || !is_first || !(corrected() < 0.05) || std::isnan(difference()) || difference() == 0) return 0;
  return (difference() > 0) == higher_is_better ? 1 : -1;
}

double Run::original_linear_bytes() const {
  if (!quantization || !(quantization->bits_per_weight > 0) || !(parameters > 0)) return kUnknown;
  return quantization->bytes * 8 / quantization->bits_per_weight * model_bytes / parameters;
}

double Run::weight_bytes() const {
  if (!quantization) return model_bytes;
  const double all = model_bytes - original_linear_bytes() + quantization->bytes;
  return std::max(all, quantization->bytes);  // a tied head that was quantized counts beside the embedding
}

const Score* Run::find(const std::string& key) const {
  const auto found = std::find_if(scores.begin(), scores.end(), [&](const Score& score) { return score.key() == key; });
  return found == scores.end() ? nullptr : &*found;
}

std::vector<bool> pareto_optimal(const std::vector<std::pair<double, double>>& points) {
  std::vector<bool> optimal;
  for (const auto& [x, y] : points) {
    bool best = !std::isnan(x) && !std::isnan(y);
    for (const auto& [other_x, other_y] : points) best = best && !(other_x <= x && other_y <= y && (other_x < x || other_y < y));
    optimal.push_back(best);
  }
  return optimal;
}

std::vector<const Score*> distinct_scores(const std::vector<Run>& runs, const std::string& kind) {
  std::vector<const Score*> all;
  std::set<std::string> seen;
  for (const Run& run : runs)
    for (const Score& score : run.scores)
      if (score.what == kind && seen.insert(score.key()).second) all.push_back(&score);
  return all;
}

std::vector<std::string> common_tasks(const std::vector<Run>& runs) {
  std::vector<std::string> keys;
  for (const Score* score : distinct_scores(runs, "task")) {
    const auto lacks = [&](const Run& run) {
      const bool has_tasks = std::any_of(run.scores.begin(), run.scores.end(), [](const Score& s) { return s.what == "task"; });
      const Score* own = run.find(score->key());
      return has_tasks && (own == nullptr || std::isnan(own->value));
    };
    if (score->is_first && score->higher_is_better && std::none_of(runs.begin(), runs.end(), lacks)) keys.push_back(score->key());
  }
  return keys;
}

double mean_score(const Run& run, const std::vector<std::string>& tasks, bool baseline) {
  double sum = 0;
  for (const std::string& key : tasks) {
    const Score* score = run.find(key);
    sum += score == nullptr ? kUnknown : baseline ? score->baseline : score->value;
  }
  return tasks.empty() ? kUnknown : sum / static_cast<double>(tasks.size());
}

}  // namespace miq::executor::report
