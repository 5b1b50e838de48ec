// results.json as tables for people.
#include <cmath>

#include "expect.h"
#include "miq/core/memory.h"
#include "miq/core/text.h"
#include "miq/executor/job.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;

double number(const Json& value) { return value.is_number() ? value.get<double>() : std::nan(""); }
std::string shown(const Json& value, int decimals) { return value.is_number() ? format_fixed(value.get<double>(), decimals) : "-"; }

// "model.layers.3.mlp.down_proj" -> "mlp.down_proj".
std::string kind_of(const std::string& name) {
  const size_t digit = name.find_first_of("0123456789");
  const size_t dot = digit == std::string::npos ? std::string::npos : name.find('.', digit);
  return dot == std::string::npos ? name : name.substr(dot + 1);
}

// One row per kind of layer and setting: how many, and their mean and worst relative error.
std::string layer_table(const Json& layers) {
  struct Group {
    int count = 0;
    double bits = 0, error = 0, worst = 0;
    std::string worst_name;
  };
  std::vector<std::string> order;
  std::map<std::string, Group> groups;
  for (const Json& layer : layers) {
    const std::string key = kind_of(layer["name"].get<std::string>()) + "\n" + layer["preset"].get<std::string>() + " W" +
                            std::to_string(layer["bits"].get<int>()) + (layer["group_size"].get<int>() > 0 ? " g" + std::to_string(layer["group_size"].get<int>()) : "");
    if (!groups.count(key)) order.push_back(key);
    Group& group = groups[key];
    const double error = number(layer["relative_error"]);
    ++group.count;
    group.bits += number(layer["bits_per_weight"]);
    group.error += error;
    if (error >= group.worst) {
      group.worst = error;
      group.worst_name = layer["name"].get<std::string>();
    }
  }
  std::vector<std::vector<std::string>> rows = {{"layers", "method", "count", "bits/weight", "mean error", "worst", "in"}};
  for (const std::string& key : order) {
    const Group& group = groups[key];
    const size_t cut = key.find('\n');
    rows.push_back({key.substr(0, cut), key.substr(cut + 1), std::to_string(group.count), format_fixed(group.bits / group.count, 2),
                    format_fixed(group.error / group.count, 4), format_fixed(group.worst, 4), group.worst_name});
  }
  return format_table(rows);
}

std::string totals(const Json& quantization) {
  std::string phases;
  for (const auto& [phase, seconds] : quantization["seconds_by_phase"].items())
    phases += (phases.empty() ? "" : ", ") + phase + " " + format_seconds(seconds.get<double>());
  return "bits per weight  " + shown(quantization["bits_per_weight"], 3) + "\nsize             " +
         format_bytes(quantization["bytes"].get<std::int64_t>()) + " (quantized linears)\ntime             " +
         format_seconds(number(quantization["seconds"])) + ", CPU " + format_seconds(number(quantization["cpu_seconds"])) + " (" + phases +
         ")\npeak memory      " + format_bytes(quantization["peak_rss_bytes"].get<std::int64_t>()) +
         (quantization.contains("peak_device_bytes") ? ", of the GPU " + format_bytes(quantization["peak_device_bytes"].get<std::int64_t>()) : "");
}

std::string perplexity_table(const Json& list) {
  std::vector<std::vector<std::string>> rows = {{"perplexity", "split", "protocol", "windows", "before", "after", "change", "KL", "top 1"}};
  for (const Json& item : list) {
    const double value = number(item["value"]), baseline = number(item["baseline"]);
    const bool both = std::isfinite(value) && std::isfinite(baseline);
    rows.push_back({item["corpus"].get<std::string>(), item["split"].get<std::string>(), item["protocol"].get<std::string>(),
                    std::to_string(item["windows"].get<std::int64_t>()), shown(item["baseline"], 4), shown(item["value"], 4),
                    both ? (value >= baseline ? "+" : "") + format_fixed(100 * (value / baseline - 1), 2) + " %" : "-",
                    shown(item.value("kl_divergence", Json()), 4), item.contains("top1_agreement") ? format_fixed(100 * item["top1_agreement"].get<double>(), 1) + " %" : "-"});
  }
  return format_table(rows);
}

// A probability; what four decimals would make 0 with its magnitude.
std::string chance_of_luck(const Json& p) {
  if (!p.is_number() || p.get<double>() >= 0.0001) return shown(p, 4);
  char text[16];
  std::snprintf(text, sizeof text, "%.0e", p.get<double>());
  return text;
}

// The interval's half width would mislead where it is not symmetric: both ends.
std::string interval(const Json& metric) {
  const Json ends = metric.value("ci95", Json());
  return ends.is_array() && ends.size() == 2 && ends[0].is_number() ? format_fixed(ends[0].get<double>(), 4) + " - " + format_fixed(ends[1].get<double>(), 4) : "-";
}

bool is_compared(const Json& task) { return !task["metrics"].empty() && task["metrics"].begin()->at("baseline").is_number(); }

// "ceval (STEM)", "anli: 3 tasks".
std::string title_of(const Json& task) {
  if (task.contains("group")) return task["group"].get<std::string>() + ": " + std::to_string(task["tasks"].size()) + " tasks";
  const std::string name = task["task"].get<std::string>(), selection = task.value("selection", "");
  const bool told = selection.empty() || (name.size() > selection.size() && name.compare(name.size() - selection.size(), selection.size(), selection) == 0);
  return told ? name : name + " (" + selection + ")";
}

// A row for each metric; what holds for the task stands in its first.
std::string task_table(const Json& tasks, const Json& groups) {
  std::vector<const Json*> all;
  for (const Json& task : tasks) all.push_back(&task);
  for (const Json& group : groups) all.push_back(&group);
  const bool compared = std::any_of(tasks.begin(), tasks.end(), is_compared);
  const bool several = std::any_of(tasks.begin(), tasks.end(), [](const Json& task) { return !task["metrics"].empty() && task["metrics"].begin()->contains("p_value_holm"); });
  std::vector<std::vector<std::string>> rows = {{"task", "shots", "documents", "metric", "value", "stderr", "95 %"}};
  if (compared) rows.front().insert(rows.front().end(), {"before", "change", "p"});
  if (several) rows.front().push_back("p (Holm)");
  if (compared) rows.front().insert(rows.front().end(), {"flips", "same", "KL"});
  for (const Json* task : all)
    for (const auto& [name, metric] : (*task)["metrics"].items()) {
      const bool first = name == (*task)["metrics"].begin().key();
      const auto count = [&](const char* key) { return first && task->contains(key) ? std::to_string((*task)[key].get<std::int64_t>()) : ""; };
      const auto of_task = [&](const char* key, double times, int decimals, const char* unit) {
        return first && task->contains(key) ? format_fixed(times * (*task)[key].get<double>(), decimals) + unit : "";
      };
      rows.push_back({first ? title_of(*task) : "", count("shots"), count("documents"), name, shown(metric["value"], 4), shown(metric["stderr"], 4), interval(metric)});
      if (!compared) continue;
      const double value = number(metric["value"]), baseline = number(metric["baseline"]);
      const bool both = std::isfinite(value) && std::isfinite(baseline);
      rows.back().insert(rows.back().end(), {shown(metric["baseline"], 4), both ? (value >= baseline ? "+" : "") + format_fixed(value - baseline, 4) : "-", chance_of_luck(metric["p_value"])});
      if (several) rows.back().push_back(metric.contains("p_value_holm") ? chance_of_luck(metric["p_value_holm"]) : "");
      rows.back().insert(rows.back().end(), {count("flips"), of_task("agreement", 100, 1, " %"), of_task("kl_divergence", 1, 4, "")});
    }
  return format_table(rows);
}

// Means over sets: "standard" by its categories.
std::string category_table(const Json& categories) {
  const bool compared = std::any_of(categories.begin(), categories.end(), [](const Json& category) { return category["baseline"].is_number(); });
  std::vector<std::vector<std::string>> rows = {{"category", "shots", "sets", "mean", "stderr"}};
  if (compared) rows.front().push_back("before");
  for (const Json& category : categories) {
    rows.push_back({category["category"].get<std::string>(), category["shots"].is_number() ? std::to_string(category["shots"].get<std::int64_t>()) : "own",
                    std::to_string(category["sets"].get<int>()), shown(category["value"], 4), shown(category["stderr"], 4)});
    if (compared) rows.back().push_back(shown(category["baseline"], 4));
  }
  return format_table(rows);
}

// A task's own categories: Humanities, STEM ...
std::string division_table(const Json& task) {
  const bool compared = is_compared(task);
  std::vector<std::vector<std::string>> rows = {{title_of(task), "documents", "metric", "over documents", "over subjects"}};
  if (compared) rows.front().push_back("before");
  Json parts = task["categories"];
  if (parts.size() > 1 && task.contains("macro")) parts.push_back({{"category", "all"}, {"documents", task["documents"]}, {"metrics", task["metrics"]}, {"macro", task["macro"]}});
  for (const Json& category : parts)
    for (const auto& [name, metric] : category["metrics"].items()) {
      const bool first = name == category["metrics"].begin().key();
      rows.push_back({first ? category["category"].get<std::string>() : "", first ? std::to_string(category["documents"].get<std::int64_t>()) : "", name, shown(metric["value"], 4),
                      category.contains("macro") && category["macro"].contains(name) ? shown(category["macro"][name]["value"], 4) : "-"});
      if (compared) rows.back().push_back(shown(metric.value("baseline", Json()), 4));
    }
  return format_table(rows);
}

// Where the tables by subject are, which are too long for here.
std::string tables_beside(const Json& tasks) {
  std::string names;
  for (const Json& task : tasks)
    if (task.contains("subjects") && task.contains("records")) {
      const std::string records = task["records"].get<std::string>();
      names += (names.empty() ? "" : ", ") + records.substr(0, records.rfind('.')) + ".subjects.txt";
    }
  return names.empty() ? "" : "by subject: " + names;
}

}  // namespace

std::string format_report(const Json& results) {
  std::string text;
  const auto section = [&](const std::string& part) { text += (text.empty() ? "" : "\n\n") + part; };
  if (results.contains("quantization")) {
    section(layer_table(results["quantization"]["layers"]));
    section(totals(results["quantization"]));
  }
  if (!results["perplexity"].empty()) section(perplexity_table(results["perplexity"]));
  if (!results["tasks"].empty()) section(task_table(results["tasks"], results.value("groups", Json::array())));
  for (const Json& task : results["tasks"])
    if (task.contains("categories")) section(division_table(task));
  if (results.contains("categories")) section(category_table(results["categories"]));
  if (const std::string beside = tables_beside(results["tasks"]); !beside.empty()) section(beside);
  if (const size_t count = results["events"].size(); count > 0)
    section(std::to_string(count) + (count == 1 ? " event" : " events") + " out of the ordinary (see results.json), the first: " +
            results["events"][0]["layer"].get<std::string>() + ": " + results["events"][0]["code"].get<std::string>());
  if (results.contains("expect")) section(expectation_table(results["expect"]));
  return text;
}

}  // namespace miq::executor
