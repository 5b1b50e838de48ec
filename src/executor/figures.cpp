#include "figures.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <set>

#include "miq/core/error.h"
#include "task_evaluation.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;
using Traits = std::vector<std::pair<std::string, std::string>>;

Figure make_entry(const std::string& name, Traits traits, const std::string& list, int index = -1, Json match = Json()) {
  Figure entry;
  entry.entry = name;
  entry.traits = std::move(traits);
  entry.list = list;
  entry.index = index;
  entry.match = std::move(match);
  return entry;
}

// Whether, and if not why not.
struct Known {
  std::string reason, fix;  // empty: it is
};

struct Lister {
  const JobConfig& config;
  JobMode mode;
  std::vector<Figure> figures;

  bool evaluates() const { return mode != JobMode::quantize; }
  const char* command() const { return mode == JobMode::quantize ? "miq quantize" : mode == JobMode::evaluate ? "miq eval" : "miq run"; }

  Known has_evaluation() const { return evaluates() ? Known() : Known{"miq quantize evaluates nothing", "use miq run, or leave it out"}; }
  Known has_baseline() const {
    if (mode == JobMode::evaluate) return {"miq eval scores one model", "use miq run, or give a number alone"};
    return config.evaluation.baseline ? Known() : Known{"evaluation.baseline is false", "set evaluation.baseline: true"};
  }
  Known has_task_baseline() const {
    if (!config.evaluation.against.empty()) return {};
    Known known = has_baseline();
    if (mode == JobMode::evaluate) known.fix = "use miq run, name an earlier run in evaluation.against, or give a number alone";
    return known;
  }

  void add(const Figure& entry, const std::string& path, const std::string& value, const std::string& baseline, const Known& is_known, const Known& is_compared) {
    Figure figure = entry;
    figure.name = entry.entry + path;
    figure.value = value;
    figure.baseline = baseline;
    figure.unknown = is_known.reason;
    figure.unknown_fix = is_known.fix;
    figure.no_baseline = is_compared.reason;
    figure.no_baseline_fix = is_compared.fix;
    figures.push_back(std::move(figure));
  }

  void add_quantization() {
    const Known known = mode == JobMode::evaluate ? Known{"miq eval quantizes nothing", "use miq run or miq quantize, or leave it out"} : Known();
    const Figure entry = make_entry("quantization", {}, "quantization");
    for (const char* key : {"seconds", "cpu_seconds", "peak_rss_bytes", "peak_anonymous_bytes", "bits_per_weight", "bytes"}) add(entry, std::string(".") + key, std::string("/") + key, "", known, {});
    for (const char* phase : {"read", "forward", "statistics", "solve", "write"})
      add(entry, std::string(".seconds_by_phase.") + phase, std::string("/seconds_by_phase/") + phase, "", known, {});
    add(make_entry("events", {}, "events"), "", "", "", known, {});
  }

  void add_perplexity() {
    const Known known = has_evaluation(), compared = has_baseline();
    for (size_t i = 0; i < config.evaluation.perplexity.size(); ++i) {
      const evaluator::PerplexityConfig& item = config.evaluation.perplexity[i];
      std::set<std::string> names = {item.corpus};
      if (const std::filesystem::path path = item.corpus; path.has_extension()) names.insert(path.stem().string());  // a file, also by its name alone
      for (const std::string& name : names) {
        const Figure entry = make_entry("perplexity." + name,
                                        {{"split", item.split}, {"protocol", item.protocol == evaluator::Protocol::gptq ? "gptq" : "mi"},
                                         {"seqlen", std::to_string(item.seqlen)}, {"windows", std::to_string(item.windows)}},
                                        "perplexity", static_cast<int>(i));
        add(entry, "", "/value", "/baseline", known, compared);
        for (const char* key : {"kl_divergence", "top1_agreement"}) add(entry, std::string(".") + key, std::string("/") + key, "", known.reason.empty() ? compared : known, {});
        for (const char* key : {"windows", "tokens", "seconds"}) add(entry, std::string(".") + key, std::string("/") + key, "", known, {});
      }
    }
  }

  // Each metric and what stands beside it. `holm`: whether the first one's p-value is corrected.
  void add_metrics(const Figure& entry, const dataset::Task& task, const Known& holm) {
    const Known known = has_evaluation(), compared = has_task_baseline();
    bool is_first = true;
    for (const std::string& name : evaluator::figure_names(task)) {
      const std::string path = "." + name, pointer = "/metrics/" + name;
      add(entry, path, pointer + "/value", pointer + "/baseline", known, compared);
      add(entry, path + ".stderr", pointer + "/stderr", "", known, {});
      add(entry, path + ".p_value", pointer + "/p_value", "", known.reason.empty() ? compared : known, {});
      if (is_first) add(entry, path + ".p_value_holm", pointer + "/p_value_holm", "", known.reason.empty() ? holm : known, {});
      is_first = false;
    }
    for (const char* key : {"flips", "agreement", "kl_divergence"}) add(entry, std::string(".") + key, std::string("/") + key, "", known.reason.empty() ? compared : known, {});
    add(entry, ".documents", "/documents", "", known, {});
  }

  void add_tasks(const std::vector<PlannedTask>& tasks) {
    const Known known = has_evaluation(), compared = has_task_baseline();
    const auto different = std::count_if(tasks.begin(), tasks.end(), [](const PlannedTask& planned) { return !planned.twin; });
    const Known holm = !compared.reason.empty() || different > 1 ? compared : Known{"one test needs no correction", "take its p_value"};
    for (size_t t = 0; t < tasks.size(); ++t) {
      const PlannedTask& planned = tasks[t];
      if (planned.twin) continue;
      const Figure entry = make_entry("tasks." + planned.name,
                                      {{"shots", std::to_string(planned.shots)}, {"split", split_of(planned)}, {"subjects", planned.options.subjects},
                                       {"limit", std::to_string(planned.options.limit)}, {"seed", std::to_string(planned.options.seed)}},
                                      "tasks", static_cast<int>(t));
      add_metrics(entry, planned.task, holm);
      add(entry, ".seconds", "/seconds", "", known, {});
      if (planned.task.set.find("{{SUBJECT}}") == std::string::npos) continue;
      for (const std::string& name : evaluator::figure_names(planned.task)) add(entry, ".macro." + name, "/macro/" + name + "/value", "/macro/" + name + "/baseline", known, compared);
    }
  }

  // Totals of tasks that belong together, and means over sets.
  void add_totals(const std::vector<PlannedTask>& tasks) {
    const Known known = has_evaluation(), compared = has_task_baseline();
    const std::vector<std::vector<size_t>> sets = sets_of(tasks);
    int group = 0;
    std::vector<std::pair<std::int64_t, std::vector<std::string>>> categories;  // of sets, for each number of shots that was asked for
    for (const std::vector<size_t>& set : sets) {
      const PlannedTask& first = tasks[set.front()];
      if (set.size() > 1)
        add_metrics(make_entry("groups." + first.task.group, {{"shots", std::to_string(first.shots)}}, "groups", group++), first.task,
                    {"a total's p-value is not corrected", "take its p_value"});
      if (first.task.category.empty() || evaluator::better_of(evaluator::figure_names(first.task).front()) != evaluator::Better::higher) continue;
      const std::int64_t shots = first.options.shots;
      auto found = std::find_if(categories.begin(), categories.end(), [&](const auto& entry) { return entry.first == shots; });
      if (found == categories.end()) found = categories.insert(categories.end(), {shots, {}});
      found->second.push_back(first.task.category);
    }
    for (auto& [shots, names] : categories) {
      if (names.size() < 2) continue;
      names.emplace_back("all");
      for (const std::string& name : std::set<std::string>(names.begin(), names.end()))
        add(make_entry("categories." + name, {{"shots", shots < 0 ? "own" : std::to_string(shots)}}, "categories", -1, {{"category", name}, {"shots", shots < 0 ? Json() : Json(shots)}}), "",
            "/value", "/baseline", known, compared);
    }
  }
};

// "tasks.x[shots=5].acc" -> ("tasks.x.acc", {{"shots", "5"}}, "tasks.x"). Brackets without '=' belong to the name.
struct Name {
  std::string bare, entry;
  Traits traits;
};

Name parse_name(const std::string& what) {
  for (size_t open = what.find('['); open != std::string::npos; open = what.find('[', open + 1)) {
    const size_t close = what.find(']', open);
    const std::string inside = close == std::string::npos ? "" : what.substr(open + 1, close - open - 1);
    if (inside.find('=') == std::string::npos) continue;
    Name name{what.substr(0, open) + what.substr(close + 1), what.substr(0, open), {}};
    for (size_t at = 0; at <= inside.size();) {
      const size_t comma = std::min(inside.find(',', at), inside.size()), equals = inside.find('=', at);
      const auto trim = [](std::string text) {
        text.erase(0, text.find_first_not_of(' '));
        return text.erase(text.find_last_not_of(' ') + 1);
      };
      if (equals < comma) name.traits.emplace_back(trim(inside.substr(at, equals - at)), trim(inside.substr(equals + 1, comma - equals - 1)));
      else if (!name.traits.empty()) name.traits.back().second += "," + inside.substr(at, comma - at);  // a list of subjects
      at = comma + 1;
    }
    return name;
  }
  return {what, "", {}};
}

std::string written(const Traits& traits, const std::set<std::string>& keys) {
  std::string text;
  for (const auto& [key, value] : traits)
    if (keys.count(key)) text += (text.empty() ? "" : ", ") + key + "=" + value;
  return text;
}

// The traits by which the entries differ, of each.
std::string differences(const std::vector<const Figure*>& figures) {
  std::set<std::string> keys;
  for (const Figure* figure : figures)
    for (size_t i = 0; i < figure->traits.size(); ++i)
      if (figure->traits[i] != figures.front()->traits[i]) keys.insert(figure->traits[i].first);
  std::string text;
  for (const Figure* figure : figures) text += (text.empty() ? "" : " or ") + figure->entry + "[" + written(figure->traits, keys) + "]";
  return text;
}

bool fits(const Figure& figure, const Name& name) {
  if (!name.entry.empty() && name.entry != figure.entry) return false;
  return std::all_of(name.traits.begin(), name.traits.end(), [&](const auto& trait) { return std::find(figure.traits.begin(), figure.traits.end(), trait) != figure.traits.end(); });
}

// What a name that is none may have meant, of the figures that the job will have.
std::string meant(const std::vector<Figure>& figures, const std::string& bare) {
  std::vector<std::string> names;
  std::string list;
  for (const Figure& figure : figures) {
    if (!figure.unknown.empty() || std::find(names.begin(), names.end(), figure.name) != names.end()) continue;
    names.push_back(figure.name);
    if (names.size() <= 12) list += (list.empty() ? "" : ", ") + figure.name;
  }
  if (names.empty()) return "nothing is evaluated: add evaluation.perplexity or evaluation.tasks";
  if (const std::string nearest = nearest_name(bare, names); !nearest.empty()) return "did you mean " + nearest + "?";
  return "there are " + list + (names.size() > 12 ? " and more" : "") + "; what is to be expected must be evaluated";
}

}  // namespace

std::vector<Figure> list_figures(const JobConfig& config, JobMode mode) {
  Lister lister{config, mode, {}};
  const std::vector<PlannedTask> tasks = list_tasks(config.evaluation);
  lister.add_perplexity();
  lister.add_tasks(tasks);
  lister.add_totals(tasks);
  lister.add_quantization();
  return std::move(lister.figures);
}

Figure find_figure(const std::vector<Figure>& figures, const std::string& what, const std::string& where) {
  const Name name = parse_name(what);
  std::vector<const Figure*> named, found;
  for (const Figure& figure : figures) {
    if (figure.name != name.bare) continue;
    named.push_back(&figure);
    // Two names of one corpus are no two entries.
    const auto same = [&](const Figure* other) { return other->list == figure.list && other->index == figure.index && other->match == figure.match; };
    if (fits(figure, name) && std::none_of(found.begin(), found.end(), same)) found.push_back(&figure);
  }
  if (named.empty()) throw Error(ErrorKind::config, "'" + what + "' is no figure of this job's results", where, meant(figures, name.bare));
  if (found.empty()) {
    std::string there;
    std::set<std::string> keys;
    for (const auto& trait : named.front()->traits) keys.insert(trait.first);
    for (const Figure* figure : named) there += (there.empty() ? "" : "; ") + written(figure->traits, keys);
    throw Error(ErrorKind::config, "'" + what + "' fits no entry", where, there.empty() ? "leave the brackets out" : "there is " + there);
  }
  if (found.size() > 1) throw Error(ErrorKind::config, "'" + what + "' may be one of " + std::to_string(found.size()) + " entries", where, "write " + differences(found));
  if (!found.front()->unknown.empty()) throw Error(ErrorKind::config, "'" + what + "' will not be known: " + found.front()->unknown, where, found.front()->unknown_fix);
  return *found.front();
}

double value_of(const Figure& figure, const std::string& pointer, const Json& results) {
  const auto list = results.find(figure.list);
  if (list == results.end()) return std::nan("");
  const Json* entry = &*list;
  if (figure.index >= 0) {
    if (!list->is_array() || static_cast<size_t>(figure.index) >= list->size()) return std::nan("");
    entry = &(*list)[static_cast<size_t>(figure.index)];
  } else if (!figure.match.is_null()) {
    const auto found = std::find_if(list->begin(), list->end(), [&](const Json& item) {
      for (const auto& [key, value] : figure.match.items())
        if (!item.contains(key) || item[key] != value) return false;
      return true;
    });
    if (found == list->end()) return std::nan("");
    entry = &*found;
  }
  const Json::json_pointer at(pointer);
  if (!entry->contains(at)) return std::nan("");
  const Json& value = (*entry)[at];
  if (value.is_array()) return static_cast<double>(value.size());
  return value.is_number() ? value.get<double>() : std::nan("");
}

Unit unit_of(const std::string& name) {
  if (name.ends_with("bytes")) return Unit::bytes;
  return name.ends_with("seconds") || name.find(".seconds_by_phase.") != std::string::npos ? Unit::seconds : Unit::none;
}

}  // namespace miq::executor
