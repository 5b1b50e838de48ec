// A task's documents as calibration samples: of each subject so many, with its answer or as the task file's `calibration` says, with
// shots before it on request. C-Eval, CMMLU and BOSS give the samples of MI-optimize.
#include <utility>

#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/dataset/calibration.h"
#include "python_values.h"
#include "task_prompts.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;

// "name=12" or "name".
struct Counted {
  std::string name;
  std::optional<std::int64_t> count;
};

std::vector<Counted> counted_names(const std::string& text, const char* key) {
  std::vector<Counted> parts;
  for (const std::string& piece : split_at(text, ",")) {
    const size_t equals = piece.find('=');
    Counted part{strip(std::string_view(piece).substr(0, equals)), std::nullopt};
    if (equals != std::string::npos) {
      const std::string number = strip(std::string_view(piece).substr(equals + 1));
      if (number.empty() || number.find_first_not_of("0123456789") != std::string::npos || number.size() > 9)
        throw Error(ErrorKind::config, "'" + number + "' is not a number of samples", key, "write name=12");
      part.count = std::stoll(number);
    }
    parts.push_back(part);
  }
  return parts;
}

struct Wanted {
  ChosenSubject subject;
  std::int64_t count = 0;
};

// One draw of samples from one task.
class Sampler {
 public:
  Sampler(const CalibrationConfig& config, const fs::path& data_dir, PythonRandom& random) : config_(config), data_dir_(data_dir), random_(random) {}

  void sample(const std::string& name, std::optional<std::int64_t> count, std::vector<std::string>& texts) {
    TaskOptions options;
    Task task = load_task(name, &options);
    options.shots = config_.shots;
    options.seed = config_.seed;
    if (task.fewshot.split == config_.split && task.fewshot.set.empty()) task.fewshot.exclude_self = true;
    if (config_.shots > 0 && shots_of(task, options) != config_.shots)
      throw Error(ErrorKind::config, task.name + " takes no shots", "calibration.shots", "leave calibration.shots away");
    const TaskTemplates templates(task);
    std::vector<std::string> missing;
    for (const Wanted& wanted : wanted_subjects(task, options.subjects, count)) {
      const std::optional<std::string> split = split_of(task, wanted.subject.name);
      if (!split) missing.push_back(wanted.subject.name);
      else subject(task, templates, options, wanted, *split, texts);
    }
    if (missing.empty()) return;
    if (texts.empty())
      throw Error(ErrorKind::io, "no sample of the subjects asked for is on disk: " + join(missing, ", "), (data_dir_ / task.set).string(),
                  "name other subjects, a category or all in calibration.subjects, or " + how_to_get(task));
    log_warning(task.name + ": calibrating without subjects that are not on disk: " + join(missing, ", "));
  }

 private:
  std::vector<Wanted> wanted_subjects(const Task& task, const std::string& of_name, std::optional<std::int64_t> count) const {
    const std::vector<ChosenSubject> all = all_subjects(task, data_dir_);
    const bool has_subjects = task.set.find("{{SUBJECT}}") != std::string::npos;
    std::vector<Wanted> wanted;
    if (!has_subjects || of_name != "all") {
      for (const ChosenSubject& subject : all)
        if (!has_subjects || subject.name == of_name) wanted.push_back({subject, count.value_or(config_.samples)});
      if (wanted.empty()) throw Error(ErrorKind::config, "'" + of_name + "' is no subject of " + task.name, "calibration.dataset", "see its subjects in " + task.file);
      return wanted;
    }
    std::vector<std::string> known;
    for (const ChosenSubject& subject : all) {
      known.push_back(subject.name);
      const std::string& category = subject.note.category;
      if (config_.subjects == "all" || (!category.empty() && plain_category(category) == plain_category(config_.subjects))) wanted.push_back({subject, count.value_or(config_.per_subject)});
    }
    if (!wanted.empty()) return wanted;
    for (const Counted& part : counted_names(config_.subjects, "calibration.subjects")) {
      const auto found = std::find(known.begin(), known.end(), part.name);
      if (found == known.end()) {
        const std::string nearest = nearest_name(part.name, known);
        throw Error(ErrorKind::config, "'" + part.name + "' is neither a subject nor a category of " + task.name, "calibration.subjects",
                    (nearest.empty() ? "" : "did you mean " + nearest + "? ") + std::string("write all, a category, or subjects such as \"arts=12, law\""));
      }
      wanted.push_back({all[static_cast<size_t>(found - known.begin())], part.count.value_or(count.value_or(config_.per_subject))});
    }
    return wanted;
  }

  // The split to read; nothing where the subject is not on disk at all.
  std::optional<std::string> split_of(const Task& task, const std::string& subject) {
    const auto file = [&](const std::string& split) { return split_file(task, task.set, subject, split, data_dir_); };
    if (fs::exists(file(config_.split))) return config_.split;
    // CMMLU is published without val: what MI-optimize calls so was taken from its test questions.
    for (const char* other : {"test", "dev"})
      if (config_.split == "val" && fs::exists(file(other))) {
        if (!std::exchange(told_, true))
          log_warning(task.name + " has no split val" + (subject.empty() ? "" : " of " + subject) + ": its samples come from " + other + " (the same holds for other subjects)");
        return other;
      }
    if (!subject.empty() && !fs::exists(file(config_.split).parent_path())) return std::nullopt;
    return config_.split;  // read_split says what is missing
  }

  void subject(const Task& task, const TaskTemplates& templates, const TaskOptions& options, const Wanted& wanted, const std::string& split, std::vector<std::string>& texts) {
    std::vector<TaskRow> rows = read_split(task, task.set, wanted.subject.name, split, data_dir_, config_.shuffle ? 0 : wanted.count, "data.set");
    if (config_.shuffle) random_.shuffle(rows);
    if (static_cast<std::int64_t>(rows.size()) < wanted.count)
      log_warning(split_file(task, task.set, wanted.subject.name, split, data_dir_).string() + " has only " + std::to_string(rows.size()) + " rows, not " + std::to_string(wanted.count));
    std::optional<Shots> shots;
    if (config_.shots > 0) shots.emplace(task, templates, options, wanted.subject, data_dir_);
    for (size_t i = 0; i < rows.size() && static_cast<std::int64_t>(i) < wanted.count; ++i) {
      const Scope scope{rows[i].value, rows[i].where, wanted.subject.name, wanted.subject.note.description};
      const std::string before = shots ? templates.description.render(scope) + shots->next(rows[i]) : "";
      texts.push_back(before + text_of(task, templates, scope));
    }
  }

  std::string text_of(const Task& task, const TaskTemplates& templates, const Scope& scope) const {
    if (task.shape == Shape::perplexity) return templates.text.render(scope);
    if (!task.calibration.empty() && config_.shots == 0) return templates.calibration.render(scope);
    if (templates.example) return templates.example->render(scope);
    const Question question = question_of(task, templates, scope);
    const bool told = task.shape == Shape::generate || !question.gold.empty();
    return told ? answered(task, question, scope) : question.prompt;
  }

  const CalibrationConfig& config_;
  const fs::path& data_dir_;
  PythonRandom& random_;
  bool told_ = false;
};

}  // namespace

bool is_task_calibration(const std::string& dataset) {
  const std::vector<std::string> corpora = corpus_names();
  const std::string extension = fs::path(dataset).extension().string();
  return std::find(corpora.begin(), corpora.end(), dataset) == corpora.end() && extension != ".txt" && extension != ".jsonl";
}

std::vector<std::string> task_samples(const CalibrationConfig& config, const fs::path& data_dir) {
  PythonRandom random(static_cast<std::uint64_t>(config.seed));
  Sampler sampler(config, data_dir, random);
  std::vector<std::string> texts;
  for (const Counted& part : counted_names(config.dataset, "calibration.dataset")) {
    std::vector<std::string> tasks;
    try {
      tasks = expand_tasks(part.name);
    } catch (const Error& error) {
      if (error.where().find(':') != std::string::npos) throw;  // a mistake in a file
      const std::string nearest = nearest_name(part.name, corpus_names());
      throw Error(error.kind(), "calibration.dataset: neither a corpus nor a task: " + error.message(), error.where(), nearest.empty() ? error.fix() : "did you mean " + nearest + "?");
    }
    for (const std::string& task : tasks) sampler.sample(task, part.count, texts);
  }
  std::erase_if(texts, [](const std::string& text) { return strip(text).empty(); });
  if (texts.empty()) throw Error(ErrorKind::io, "no sample has any text", "calibration (" + config.dataset + " " + config.split + ")", "take another split or set");
  return texts;
}

}  // namespace miq::dataset
