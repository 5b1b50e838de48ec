// `sweep` of a configuration as variants, each with a whole configuration of its own.
#include <algorithm>
#include <set>

#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/text.h"
#include "miq/dataset/calibration.h"
#include "miq/dataset/task.h"
#include "miq/executor/sweep.h"
#include "task_evaluation.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostVariants = 10000;

// A value of an axis: what it sets, and what it is called.
struct Value {
  Json shown;
  std::vector<std::pair<std::string, YAML::Node>> settings;
};
struct Axis {
  std::string key;
  std::vector<Value> values;
};

// A scalar as what it means in YAML.
Json scalar(const YAML::Node& node) {
  std::int64_t whole = 0;
  double real = 0;
  bool flag = false;
  if (node.Tag() == "!") return node.Scalar();  // in quotes
  if (YAML::convert<std::int64_t>::decode(node, whole)) return whole;
  if (YAML::convert<double>::decode(node, real)) return number_or_null(real);
  if (YAML::convert<bool>::decode(node, flag)) return flag;
  return node.IsNull() ? Json() : Json(node.Scalar());
}

std::string text_of(const Json& value) { return value.is_string() ? value.get<std::string>() : value.is_null() ? "null" : value.dump(); }

// As a part of a folder's name.
std::string plain(const std::string& text) {
  std::string name;
  for (const char c : text) name += std::isalnum(static_cast<unsigned char>(c)) || std::string("._+-").find(c) != std::string::npos ? c : '_';
  return name.empty() || name[0] == '.' ? "_" + name : name;
}

class SweepReader {
 public:
  explicit SweepReader(const ConfigSource& source) : source_(source), node_(source.root()["sweep"]) {}

  Sweep read() {
    if (!node_.IsMap()) fail("sweep", node_, "must be a mapping of keys to lists of values", "write sweep: {recipe.preset: [rtn, gptq], recipe.grid.bits: [4, 3]}");
    read_words();
    for (const auto& entry : node_) {
      const std::string key = entry.first.Scalar();
      if (key == "kind" || key == "title" || key == "command" || key == "missing" || key == "limit") continue;
      if (is_study() && (key == "test" || key == "shots")) continue;
      read_axes(key, entry.second);
    }
    if (is_study() && std::none_of(axes_.begin(), axes_.end(), [](const Axis& axis) { return axis.key.starts_with("calibration"); }))
      fail("sweep", node_, "of kind ood lists no calibration sets", "write calibration: [{name: a, dataset: ...}, {name: b, dataset: ...}]");
    if (axes_.empty()) fail("sweep", node_, "lists no values", "write for example sweep: {recipe.grid.bits: [4, 3]}");
    common_ = source_.clone();
    common_.put("sweep", YAML::Node(YAML::NodeType::Map), "sweep");
    base_ = read_job_config(common_);
    sweep_.output = base_.output;
    if (sweep_.output.empty()) throw Error(ErrorKind::config, "a sweep needs a folder for its variants", "output", "set output, or give --output DIR");
    if (is_study()) read_tests();
    if (skips_missing_) leave_out_calibrations();
    settle_tasks();
    make_variants();
    if (is_study()) find_records();
    return std::move(sweep_);
  }

 private:
  bool is_study() const { return sweep_.kind == "ood"; }
  [[noreturn]] void fail(const std::string& path, const YAML::Node& node, const std::string& what, const std::string& fix = "") const {
    throw Error(ErrorKind::config, path + " " + what, source_.where(path == "sweep" ? path : "sweep." + path, node), fix);
  }

  void read_words() {
    const auto word = [&](const char* key, const std::string& fallback) {
      const YAML::Node found = node_[key];
      if (!found) return fallback;
      if (!found.IsScalar()) fail(key, found, "must be a word");
      return found.Scalar();
    };
    sweep_.kind = word("kind", "grid");
    if (sweep_.kind != "grid" && sweep_.kind != "ood") fail("kind", node_["kind"], "cannot be '" + sweep_.kind + "'", "use grid, or ood: calibration sets against test sets");
    sweep_.title = word("title", "");
    const std::string missing = word("missing", "error");
    if (missing != "error" && missing != "skip") fail("missing", node_["missing"], "cannot be '" + missing + "'", "use error, or skip: sets whose data are not there are left out");
    skips_missing_ = missing == "skip";
    const std::string command = word("command", "run");
    if (command == "quantize") sweep_.mode = JobMode::quantize;
    else if (command == "eval") sweep_.mode = JobMode::evaluate;
    else if (command != "run") fail("command", node_["command"], "cannot be '" + command + "'", "use run, quantize or eval");
  }

  // Leaves of a mapping under `path`, which `variants` does not stand in.
  void flatten(const std::string& path, const YAML::Node& node, std::vector<std::pair<std::string, YAML::Node>>& settings) const {
    if (!node.IsMap()) {
      settings.emplace_back(path, node);
      return;
    }
    for (const auto& entry : node) flatten(path.empty() ? entry.first.Scalar() : path + "." + entry.first.Scalar(), entry.second, settings);
  }

  Value read_value(const std::string& key, const YAML::Node& node, size_t index) const {
    Value value;
    const std::string root = key == "variants" ? "" : key;
    if (node.IsMap()) {
      const YAML::Node name = node["name"];
      YAML::Node rest = YAML::Clone(node);
      rest.remove("name");
      flatten(root, rest, value.settings);
      if (value.settings.empty()) fail(key, node, "has an element that sets nothing", "give it keys with values");
      value.shown = name && name.IsScalar() ? Json(name.Scalar()) : Json(default_name(node, index));
      return value;
    }
    if (root.empty()) fail(key, node, "has an element that is no mapping", "write variants: [{name: w4, recipe.grid.bits: 4}]");
    if (node.IsSequence()) {  // a list of methods is a combination
      std::string joined;
      for (const auto& part : node) {
        if (!part.IsScalar()) fail(key, node, "has an element that is a list of more than words");
        joined += (joined.empty() ? "" : "+") + part.Scalar();
      }
      value.shown = joined;
    } else {
      value.shown = scalar(node);
    }
    value.settings.emplace_back(root, node);
    return value;
  }

  // A calibration set is known by its subjects or its set.
  static std::string default_name(const YAML::Node& node, size_t index) {
    for (const char* key : {"subjects", "dataset", "preset"})
      if (node[key] && node[key].IsScalar()) {
        const std::string text = node[key].Scalar();
        return text.substr(text.rfind('/') + 1);
      }
    return std::to_string(index + 1);
  }

  void read_axes(const std::string& key, const YAML::Node& node) {
    for (const char* fixed : {"output", "sweep", "expect"})
      if (key == fixed || key.starts_with(std::string(fixed) + ".")) fail(key, node, "is the same for all variants", std::string("set ") + fixed + " beside sweep, not in it");
    if (node.IsMap()) {
      for (const auto& entry : node) read_axes(key + "." + entry.first.Scalar(), entry.second);
      return;
    }
    if (std::any_of(axes_.begin(), axes_.end(), [&](const Axis& other) { return other.key == key; })) fail(key, node, "stands twice", "list its values once");
    if (!node.IsSequence()) fail(key, node, "must be a list of values", "write [" + (node.IsScalar() ? node.Scalar() : std::string("...")) + "]");
    Axis axis{key, {}};
    for (size_t i = 0; i < node.size(); ++i) axis.values.push_back(read_value(key, node[i], i));
    if (axis.values.empty()) fail(key, node, "is an empty list");
    SweepAxis told{key, {}};
    for (const Value& value : axis.values) {
      if (std::find(told.values.begin(), told.values.end(), value.shown) != told.values.end()) fail(key, node, "has '" + text_of(value.shown) + "' twice", "leave one out, or give mappings names of their own");
      told.values.push_back(value.shown);
    }
    sweep_.axes.push_back(std::move(told));
    axes_.push_back(std::move(axis));
  }

  // The columns of a study, each asked with each number of shots.
  void read_tests() {
    const YAML::Node tests = node_["test"], shots = node_["shots"];
    if (!tests || !tests.IsSequence() || tests.size() == 0)
      fail("test", tests ? tests : node_, "must be a list of test sets", "write test: [{name: STEM, task: ceval_mi, subjects: STEM}]");
    if (shots && !shots.IsSequence()) fail("shots", shots, "must be a list of numbers", "write shots: [0, 5]");
    const std::string origin = "sweep.test";
    YAML::Node tasks(YAML::NodeType::Sequence), corpora(YAML::NodeType::Sequence);
    for (const auto& item : tests) {
      YAML::Node keys = item.IsScalar() ? YAML::Node(YAML::NodeType::Map) : YAML::Clone(item);
      if (item.IsScalar()) keys["task"] = item.Scalar();
      if (!keys.IsMap() || (!keys["task"] && !keys["corpus"])) fail("test", item, "has an element that names neither a task nor a corpus", "write {task: hellaswag} or {corpus: c4}");
      const bool corpus = static_cast<bool>(keys["corpus"]);
      if (!corpus && dataset::expand_tasks(keys["task"].Scalar()).size() != 1) fail("test", item, "'" + keys["task"].Scalar() + "' is several tasks", "name each");
      const std::string name = keys["name"] ? keys["name"].Scalar() : corpus ? keys["corpus"].Scalar() : keys["subjects"] ? keys["subjects"].Scalar() : keys["task"].Scalar();
      keys.remove("name");
      if (skips_missing_ && !has_test_data(keys, name)) continue;
      if (corpus) {
        sweep_.tests.push_back({name, true, corpora.size()});
        corpora.push_back(keys);
        continue;
      }
      if (!shots || keys["shots"]) {
        sweep_.tests.push_back({name, false, tasks.size()});
        tasks.push_back(keys);
        continue;
      }
      for (size_t s = 0; s < shots.size(); ++s) {
        YAML::Node one = YAML::Clone(keys);
        one["shots"] = YAML::Clone(shots[s]);
        sweep_.tests.push_back({name, false, tasks.size()});
        tasks.push_back(one);
      }
    }
    if (sweep_.tests.empty()) throw Error(ErrorKind::io, "the data of no test set are there: " + sweep_.left_out.front(), base_.data_dir, "see miq list tasks; tools/miq_data.py gets them");
    for (const auto& [path, list] : {std::pair{"evaluation.tasks", tasks}, {"evaluation.perplexity", corpora}}) {
      if (list.size() == 0) continue;
      const YAML::Node evaluation = source_.root()["evaluation"];
      if (evaluation && evaluation.IsMap() && evaluation[path + 11]) fail("test", tests, std::string("stands beside ") + path, "list all of them in sweep.test");
      common_.put(path, list, origin);
    }
  }

  // Whether what `read` reads is there; a set that is not is told.
  template <class Read>
  bool is_there(const std::string& name, const Read& read) {
    try {
      read();
      return true;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::io) throw;
      const std::string told = name + ": " + error.message() + " (" + error.where() + ")";
      if (std::find(sweep_.left_out.begin(), sweep_.left_out.end(), told) != sweep_.left_out.end()) return false;
      sweep_.left_out.push_back(told);
      log_warning("left out, for its data are not there: " + sweep_.left_out.back());
      return false;
    }
  }

  bool has_test_data(const YAML::Node& keys, const std::string& name) {
    return is_there("test set " + name, [&] {
      ConfigSource probe = common_.clone();
      YAML::Node list(YAML::NodeType::Sequence);
      list.push_back(keys);
      probe.put(keys["corpus"] ? "evaluation.perplexity" : "evaluation.tasks", list, "sweep.test");
      const EvaluationConfig evaluation = read_job_config(probe).evaluation;
      if (keys["corpus"]) {
        dataset::load_corpus(evaluation.perplexity.front().corpus, evaluation.perplexity.front().split, base_.data_dir);
        return;
      }
      dataset::TaskOptions options = evaluation.tasks.front().options;
      options.limit = 1;
      const dataset::Task task = dataset::load_task(dataset::expand_tasks(evaluation.tasks.front().task).front(), &options);
      dataset::load_documents(task, options, base_.data_dir);
    });
  }

  bool has_calibration_data(const Value& value) {
    return is_there("calibration set " + text_of(value.shown), [&] {
      ConfigSource probe = common_.clone();
      for (const auto& [path, node] : value.settings) probe.put(path, YAML::Clone(node), "sweep, " + text_of(value.shown) + ": " + path);
      const dataset::CalibrationConfig config = read_job_config(probe).calibration;
      if (!config.ids.empty()) dataset::read_calibration_ids(config.ids);
      else if (dataset::is_task_calibration(config.dataset)) dataset::task_samples(config, base_.data_dir);
      else dataset::load_corpus(config.dataset, config.split, base_.data_dir);
    });
  }

  void leave_out_calibrations() {
    for (size_t a = 0; a < axes_.size(); ++a) {
      if (!axes_[a].key.starts_with("calibration")) continue;
      std::vector<Value> there;
      for (Value& value : axes_[a].values)
        if (has_calibration_data(value)) there.push_back(std::move(value));
      if (there.empty()) throw Error(ErrorKind::io, "the data of no calibration set are there: " + sweep_.left_out.back(), base_.data_dir, "tools/miq_data.py gets them");
      axes_[a].values = std::move(there);
      sweep_.axes[a].values.clear();
      for (const Value& value : axes_[a].values) sweep_.axes[a].values.push_back(value.shown);
    }
  }

  // The tasks of `evaluation`: suites taken apart where what is missing of them is left out; `limit` for those that state none of their own.
  void settle_tasks() {
    const YAML::Node evaluation = common_.root()["evaluation"], limit = node_["limit"];
    if (!evaluation || !evaluation.IsMap() || !evaluation["tasks"] || !evaluation["tasks"].IsSequence()) return;
    YAML::Node tasks(YAML::NodeType::Sequence);
    for (const auto& item : evaluation["tasks"]) {
      YAML::Node keys = item.IsScalar() ? YAML::Node(YAML::NodeType::Map) : YAML::Clone(item);
      if (item.IsScalar()) keys["task"] = item.Scalar();
      if (limit && !keys["limit"]) keys["limit"] = limit;
      if (!skips_missing_ || is_study()) {
        tasks.push_back(keys);
        continue;
      }
      for (const std::string& task : dataset::expand_tasks(keys["task"].Scalar())) {
        YAML::Node one = YAML::Clone(keys);
        one["task"] = task;
        if (has_test_data(one, one["shots"] ? task + " with " + one["shots"].Scalar() + " shots" : task)) tasks.push_back(one);
      }
    }
    if (evaluation["tasks"].size() > 0 && tasks.size() == 0)
      throw Error(ErrorKind::io, "the data of no task are there: " + sweep_.left_out.front(), base_.data_dir, "see miq list tasks; tools/miq_data.py gets them");
    common_.put("evaluation.tasks", tasks, "evaluation.tasks");
  }

  // The end of each axis's key that no other has: bits, or grid.bits beside activation.bits.
  std::vector<std::string> short_keys() const {
    std::vector<std::string> names;
    for (const Axis& axis : axes_) {
      size_t from = axis.key.rfind('.') == std::string::npos ? 0 : axis.key.rfind('.') + 1;
      const auto shared = [&](size_t at) {
        const std::string end = axis.key.substr(at);
        return std::count_if(axes_.begin(), axes_.end(), [&](const Axis& other) { return other.key == end || other.key.ends_with("." + end); }) > 1;
      };
      while (from > 1 && shared(from)) from = axis.key.rfind('.', from - 2) == std::string::npos ? 0 : axis.key.rfind('.', from - 2) + 1;
      names.push_back(axis.key.substr(from));
    }
    return names;
  }

  void make_variants() {
    size_t count = 1;
    for (const Axis& axis : axes_) {
      count *= axis.values.size();
      if (count > kMostVariants) fail("sweep", node_, "makes more than " + std::to_string(kMostVariants) + " variants");
    }
    const std::vector<std::string> keys = short_keys();
    std::set<std::string> names;
    for (size_t v = 0; v < count; ++v) {
      SweepVariant variant;
      ConfigSource source = common_.clone();
      std::vector<std::pair<const Value*, std::string>> chosen;
      size_t rest = v;
      for (size_t a = axes_.size(); a-- > 0;) {  // the last axis turns fastest
        chosen.insert(chosen.begin(), {&axes_[a].values[rest % axes_[a].values.size()], keys[a]});
        rest /= axes_[a].values.size();
      }
      for (size_t a = 0; a < axes_.size(); ++a) {
        const Value& value = *chosen[a].first;
        variant.settings[axes_[a].key] = value.shown;
        const std::string part = axes_[a].key == "variants" ? plain(text_of(value.shown)) : plain(chosen[a].second) + "=" + plain(text_of(value.shown));
        variant.name += (variant.name.empty() ? "" : ",") + part;
      }
      if (!names.insert(variant.name).second) fail("sweep", node_, "makes two variants that are called " + variant.name, "give mappings names of their own");
      for (const auto& [value, key] : chosen)
        for (const auto& [path, node] : value->settings) source.put(path, YAML::Clone(node), "sweep, variant " + variant.name + ": " + path);
      source.put("output", YAML::Node(sweep_.output + "/" + variant.name), "sweep");
      variant.config = read_job_config(source);
      variant.config.sweeps = false;
      sweep_.variants.push_back(std::move(variant));
    }
  }

  // By their records, tasks that differ in subjects, split or shots alone are told apart.
  void find_records() {
    EvaluationConfig until;
    size_t count = 0;
    for (const TaskItem& item : sweep_.variants.front().config.evaluation.tasks) {
      until.tasks.push_back(item);
      const std::vector<PlannedTask> planned = list_tasks(until);
      if (planned.size() == count) fail("test", node_["test"], "asks '" + item.task + "' twice in the same way", "leave one out");
      count = planned.size();
      for (SweepTest& test : sweep_.tests)
        if (!test.perplexity && test.item + 1 == until.tasks.size()) test.records = planned.back().records;
    }
  }

  const ConfigSource& source_;
  const YAML::Node node_;
  ConfigSource common_ = ConfigSource::empty();  // what all variants have
  JobConfig base_;
  bool skips_missing_ = false;
  std::vector<Axis> axes_;
  Sweep sweep_;
};

}  // namespace

bool has_sweep(const ConfigSource& source) { return source.root()["sweep"] && !source.root()["sweep"].IsNull(); }

Sweep read_sweep(const ConfigSource& source) {
  if (!has_sweep(source)) throw Error(ErrorKind::config, "the configuration has no sweep", source.name(), "add for example sweep: {recipe.preset: [rtn, gptq], recipe.grid.bits: [4, 3]}");
  return SweepReader(source).read();
}

}  // namespace miq::executor
