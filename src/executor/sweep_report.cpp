// What a sweep found: sweep.json from the variants' results, and its tables.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "miq/core/memory.h"
#include "miq/core/text.h"
#include "miq/executor/sweep.h"
#include "run_folder.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

double number(const Json& value) { return value.is_number() ? value.get<double>() : std::nan(""); }
std::string text_of(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

// A task's first metric is the one it is known by.
Json score_of_task(const Json& task) {
  const auto metric = task["metrics"].begin();
  const std::string selection = task.value("selection", "");
  Json score = {{"what", "task"}, {"name", task["task"].get<std::string>() + (selection.empty() ? "" : " (" + selection + ")")}, {"shots", task["shots"]}, {"metric", metric.key()}};
  for (const char* key : {"value", "stderr", "baseline", "p_value", "p_value_holm", "better"})
    if (metric->contains(key)) score[key] = (*metric)[key];
  score["records"] = task.value("records", Json());
  return score;
}

Json scores_of(const Json& results) {
  Json scores = Json::array();
  for (const Json& item : results["perplexity"])
    scores.push_back({{"what", "perplexity"}, {"name", item["corpus"]}, {"metric", "perplexity"}, {"value", item["value"]}, {"baseline", item["baseline"]}, {"better", "lower"}});
  for (const Json& task : results["tasks"])
    if (!task["metrics"].empty()) scores.push_back(score_of_task(task));
  return scores;
}

Json tell_variant(const SweepVariant& variant) {
  Json told = {{"name", variant.name}, {"run", variant.name}, {"settings", variant.settings}, {"complete", false}};
  const fs::path file = fs::path(variant.config.output) / "results.json";
  if (!fs::exists(file)) return told;
  const Json results = read_results(file);
  told["complete"] = true;
  if (results.contains("quantization"))
    for (const char* key : {"bits_per_weight", "bytes", "seconds", "cpu_seconds"}) told[key] = results["quantization"][key];
  told["model_bytes"] = results["model"]["bytes"];
  told["scores"] = scores_of(results);
  if (results.contains("expect")) told["expect"] = results["expect"];
  return told;
}

// How good a variant is, the more the better: by its first perplexity, else by the mean of its tasks. NaN: not known.
double quality(const Json& variant) {
  double sum = 0;
  int count = 0;
  for (const Json& score : variant.value("scores", Json::array())) {
    if (score["what"] == "perplexity") return -number(score["value"]);
    sum += score.value("better", "") == "lower" ? -number(score["value"]) : number(score["value"]);
    ++count;
  }
  return count > 0 ? sum / count : std::nan("");
}

// Those that no other one beats in size and quality at once.
void mark_pareto(Json& variants) {
  for (Json& variant : variants) {
    const double size = number(variant.value("bytes", Json())), good = quality(variant);
    variant["pareto"] = std::isfinite(size) && std::isfinite(good) && std::none_of(variants.begin(), variants.end(), [&](const Json& other) {
      const double other_size = number(other.value("bytes", Json())), other_good = quality(other);
      return other_size <= size && other_good >= good && (other_size < size || other_good > good);
    });
  }
}

const SweepAxis* rows_of(const Sweep& sweep) {
  for (const SweepAxis& axis : sweep.axes)
    if (axis.key.starts_with("calibration")) return &axis;
  return nullptr;
}

// A score in a variant's results that a test asked for.
const Json* find_score(const Json& variant, const SweepTest& test) {
  if (!variant.value("complete", false)) return nullptr;
  if (test.perplexity) {
    std::int64_t left = static_cast<std::int64_t>(test.item);
    for (const Json& score : variant["scores"])
      if (score["what"] == "perplexity" && left-- == 0) return &score;
    return nullptr;
  }
  for (const Json& score : variant["scores"])
    if (score["what"] == "task" && score["records"] == "tasks/" + test.records + ".jsonl") return &score;
  return nullptr;
}

// Everything that one matrix holds still: the other axes' values, and the shots.
struct Plane {
  Json settings;
  Json shots;
  bool operator==(const Plane&) const = default;
};

std::string title_of(const Plane& plane) {
  std::string title;
  for (const auto& [key, value] : plane.settings.items()) {
    const std::string end = key.substr(key.rfind('.') + 1);
    title += (title.empty() ? "" : ", ") + (value.is_string() ? text_of(value) : end + " " + text_of(value));
  }
  if (plane.shots == "perplexity") return title + (title.empty() ? "" : ", ") + "perplexity";
  if (plane.shots.is_number() && plane.shots >= 0) title += (title.empty() ? "" : ", ") + plane.shots.dump() + " shots";
  return title;
}

Json matrix_of(const Sweep& sweep, const SweepAxis& rows, const Plane& plane, const Json& variants) {
  std::vector<const SweepTest*> columns;
  const EvaluationConfig& evaluation = sweep.variants.front().config.evaluation;
  for (const SweepTest& test : sweep.tests) {
    const Json shots = test.perplexity ? Json("perplexity") : Json(evaluation.tasks[test.item].options.shots);
    if (shots == plane.shots) columns.push_back(&test);
  }
  Json matrix = {{"title", title_of(plane)}, {"metric", ""}, {"higher_is_better", true}, {"rows_are", "calibrated on"}, {"columns_are", "tested on"}, {"rows", Json::array()}, {"columns", Json::array()},
                 {"values", Json::array()}, {"baseline", Json::array()}, {"p_values", Json::array()}, {"in_distribution", Json::array()}};
  for (const SweepTest* test : columns) {
    matrix["columns"].push_back(test->name);
    matrix["baseline"].push_back(nullptr);
  }
  for (const Json& row : rows.values) {
    const auto variant = std::find_if(variants.begin(), variants.end(), [&](const Json& candidate) {
      Json settings = candidate["settings"];
      if (settings[rows.key] != row) return false;
      settings.erase(rows.key);
      return settings == plane.settings;
    });
    Json values = Json::array(), p_values = Json::array(), same = Json::array();
    for (size_t c = 0; c < columns.size(); ++c) {
      const Json* const score = variant == variants.end() ? nullptr : find_score(*variant, *columns[c]);
      values.push_back(score != nullptr ? (*score)["value"] : Json());
      p_values.push_back(score != nullptr ? score->value("p_value", Json()) : Json());
      same.push_back(columns[c]->name == text_of(row));
      if (score == nullptr) continue;
      matrix["metric"] = (*score)["metric"];
      matrix["higher_is_better"] = score->value("better", "higher") != "lower";
      if (!(*score)["baseline"].is_null()) matrix["baseline"][c] = (*score)["baseline"];
    }
    matrix["rows"].push_back(text_of(row));
    matrix["values"].push_back(values);
    matrix["p_values"].push_back(p_values);
    matrix["in_distribution"].push_back(same);
  }
  return matrix;
}

Json matrices_of(const Sweep& sweep, const Json& variants) {
  Json matrices = Json::array();
  const SweepAxis* const rows = rows_of(sweep);
  if (sweep.kind != "ood" || rows == nullptr) return matrices;
  std::vector<Plane> planes;
  const EvaluationConfig& evaluation = sweep.variants.front().config.evaluation;
  for (const SweepTest& test : sweep.tests) {
    const Json shots = test.perplexity ? Json("perplexity") : Json(evaluation.tasks[test.item].options.shots);
    for (const Json& variant : variants) {
      Plane plane{variant["settings"], shots};
      plane.settings.erase(rows->key);
      if (std::find(planes.begin(), planes.end(), plane) == planes.end()) planes.push_back(std::move(plane));
    }
  }
  for (const Plane& plane : planes) matrices.push_back(matrix_of(sweep, *rows, plane, variants));
  return matrices;
}

std::string shown(const Json& value, int decimals) { return value.is_number() ? format_fixed(value.get<double>(), decimals) : "-"; }

std::string score_title(const Json& score) {
  std::string title = score["name"].get<std::string>();
  if (score["what"] == "perplexity") return title;
  title += " " + score["metric"].get<std::string>();
  return score["shots"].is_number() && score["shots"] != 0 ? title + " (" + score["shots"].dump() + " shots)" : title;
}

std::string variant_table(const Json& summary) {
  const Json* example = nullptr;
  for (const Json& variant : summary["variants"])
    if (variant["complete"] == true && example == nullptr) example = &variant;
  std::vector<std::string> header = {""}, baseline = {""};
  for (const Json& axis : summary["axes"]) {
    const std::string key = axis["key"].get<std::string>();
    header.push_back(key.substr(key.rfind('.') + 1));
    baseline.push_back(header.size() == 2 ? "not quantized" : "");
  }
  for (const char* column : {"bits/weight", "size", "seconds"}) header.push_back(column);
  baseline.insert(baseline.end(), {"", example != nullptr ? format_bytes((*example)["model_bytes"].get<std::int64_t>()) : "", ""});
  if (example != nullptr)
    for (const Json& score : (*example)["scores"]) {
      header.push_back(score_title(score));
      baseline.push_back(shown(score["baseline"], 4));
    }
  std::vector<std::vector<std::string>> rows = {header, baseline};
  for (const Json& variant : summary["variants"]) {
    std::vector<std::string> row = {variant["pareto"] == true ? "*" : ""};
    for (const auto& [key, value] : variant["settings"].items()) row.push_back(text_of(value));
    if (variant["complete"] == true) {
      row.insert(row.end(), {shown(variant.value("bits_per_weight", Json()), 3), variant.contains("bytes") ? format_bytes(variant["bytes"].get<std::int64_t>()) : "-", shown(variant.value("seconds", Json()), 1)});
      for (const Json& score : variant["scores"]) row.push_back(shown(score["value"], 4));
    } else {
      row.push_back("not complete");
    }
    row.resize(header.size());
    rows.push_back(std::move(row));
  }
  return format_table(rows) + "\n* no other variant is both smaller and better";
}

std::string matrix_table(const Json& matrix) {
  std::vector<std::vector<std::string>> rows = {{matrix["rows_are"].get<std::string>() + " \\ " + matrix["columns_are"].get<std::string>()}};
  for (const Json& column : matrix["columns"]) rows.front().push_back(column.get<std::string>());
  for (size_t r = 0; r < matrix["rows"].size(); ++r) {
    rows.push_back({matrix["rows"][r].get<std::string>()});
    for (size_t c = 0; c < matrix["columns"].size(); ++c)
      rows.back().push_back(shown(matrix["values"][r][c], 4) + (matrix["in_distribution"][r][c] == true ? "=" : ""));
  }
  rows.push_back({"not quantized"});
  for (const Json& value : matrix["baseline"]) rows.back().push_back(shown(value, 4));
  return matrix["title"].get<std::string>() + ": " + matrix["metric"].get<std::string>() + "\n" + format_table(rows);
}

}  // namespace

Json summarise_sweep(const Sweep& sweep) {
  Json axes = Json::array(), variants = Json::array();
  for (const SweepAxis& axis : sweep.axes) axes.push_back({{"key", axis.key}, {"values", axis.values}});
  for (const SweepVariant& variant : sweep.variants) variants.push_back(tell_variant(variant));
  mark_pareto(variants);
  Json matrices = matrices_of(sweep, variants);
  return {{"miq", {{"version", MIQ_VERSION}}}, {"kind", sweep.kind}, {"title", sweep.title}, {"axes", axes}, {"variants", variants}, {"matrices", matrices}, {"left_out", sweep.left_out}};
}

std::string format_checked_sweep(const Json& checked) {
  std::vector<std::vector<std::string>> rows = {{"variant", "state"}};
  for (const Json& variant : checked["variants"]) rows.push_back({variant["name"].get<std::string>(), variant["state"].get<std::string>()});
  std::string text = format_table(rows) + "\n\n" + std::to_string(checked["variants"].size()) + " variants, in " + checked["output"].get<std::string>();
  for (const Json& left_out : checked["left_out"]) text += "\nleft out: " + left_out.get<std::string>();
  return text;
}

std::string format_sweep(const Json& summary) {
  std::string text = variant_table(summary);
  for (const Json& matrix : summary["matrices"]) text += "\n\n" + matrix_table(matrix);
  if (!summary["matrices"].empty()) text += "\n= tested on what it was calibrated on";
  return text;
}

}  // namespace miq::executor
