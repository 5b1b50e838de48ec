#include "task_prompts.h"

#include "jsonl.h"
#include "miq/core/error.h"
#include "python_values.h"
#include "task_files.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

[[noreturn]] void fail(const Task& task, const Scope& scope, const char* key, const std::string& what, const std::string& fix) {
  throw Error(ErrorKind::io, what, place_of(task, key) + "; data: " + scope.where, fix);
}

std::vector<std::string> list_of(const Task& task, const Template& list, const Scope& scope, const char* key) {
  const json value = list.value(scope);
  if (!value.is_array()) fail(task, scope, key, "the field for " + std::string(key) + " is no list", "name a field that is a list");
  std::vector<std::string> texts;
  for (const json& item : value) texts.push_back(python_str(item));
  return texts;
}

std::optional<std::int64_t> as_index(const std::string& text) {
  if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  return std::stoll(text);
}

std::string listed(const std::vector<std::string>& texts) {
  std::string list;
  for (size_t i = 0; i < texts.size() && i < 8; ++i) list += (i == 0 ? "'" : ", '") + texts[i].substr(0, 40) + "'";
  return list + (texts.size() > 8 ? ", ..." : "");
}

// An index, the text of a choice, or with labels one of them. Nothing where the data does not tell.
std::vector<std::int64_t> gold_of(const Task& task, const TaskTemplates& templates, const Scope& scope, const std::vector<std::string>& choices) {
  if (task.gold.empty()) return {};
  std::vector<std::string> labels = task.gold_labels;
  if (!task.gold_labels_path.empty()) labels = list_of(task, templates.gold_labels, scope, "gold_labels");
  json value = templates.gold.value(scope);
  if (!value.is_array()) value = json::array({value});
  std::vector<std::int64_t> gold;
  for (const json& item : value) {
    const std::string text = python_str(item);
    if (text.empty()) continue;
    std::int64_t index = -1;
    const std::vector<std::string>& names = labels.empty() ? choices : labels;
    if (labels.empty() && as_index(text)) index = *as_index(text);
    else if (const auto found = std::find(names.begin(), names.end(), text); found != names.end()) index = found - names.begin();
    else
      fail(task, scope, "gold", "the gold answer '" + text.substr(0, 60) + "' is none of the " + (labels.empty() ? "choices " : "labels ") + listed(names),
           labels.empty() ? "give the number of the choice from 0, its text, or gold_labels" : "mend the row, or gold_labels");
    if (index < 0 || index >= static_cast<std::int64_t>(choices.size()))
      fail(task, scope, "gold", "the gold answer " + std::to_string(index) + " is out of range: there are " + std::to_string(choices.size()) + " choices, counted from 0", "mend the row, or the choices");
    gold.push_back(index);
  }
  return gold;
}

// A literal prefix, or "file:task/dataset" for a row of a file in the data folder.
std::string fixed_prefix(const Task& task, std::int64_t shots, const std::string& subject, const fs::path& data_dir) {
  const std::string text = replaced_subject(task.fewshot.fixed.at(shots), subject);
  const size_t colon = text.find(':'), slash = text.find('/', colon == std::string::npos ? 0 : colon);
  if (colon == std::string::npos || slash == std::string::npos || text.find_first_of(" \n\t") != std::string::npos) return text;
  const fs::path file = data_dir / (text.substr(0, colon) + ".jsonl");
  const std::string name = text.substr(colon + 1, slash - colon - 1), dataset = text.substr(slash + 1);
  const std::string where = file.string() + "; task: " + place_of(task, "fewshot.fixed");
  if (!fs::exists(file)) throw Error(ErrorKind::io, "the prompts of " + task.name + " are not on disk", where, how_to_get(task));
  for (const JsonlRow& row : read_jsonl_rows(file)) {
    try {
      if (row.value.at("task") == name && row.value.at("dataset") == dataset && row.value.at("shots") == shots) return row.value.at("prefix").get<std::string>();
    } catch (const json::exception&) {
      throw Error(ErrorKind::io, "a prompt's row needs task, dataset, shots and prefix", row.where);
    }
  }
  throw Error(ErrorKind::io, "there is no prompt of " + name + "/" + dataset + " with " + std::to_string(shots) + " shots", where, "add its row to the file");
}

Template made(const Task& task, const std::string& text, const char* key) { return Template(text, place_of(task, key)); }

}  // namespace

TaskTemplates::TaskTemplates(const Task& task)
    : description(made(task, task.description, "description")), prompt(made(task, task.prompt, "prompt")), target(made(task, task.target, "target")),
      gold(made(task, task.gold, "gold")), gold_labels(made(task, task.gold_labels_path, "gold_labels")), gold_mask(made(task, task.gold_mask, "gold_mask")),
      group_by(made(task, task.group_by, "group_by")), text(made(task, task.text, "text")), count_from(made(task, task.count_from, "count_from")),
      header(made(task, task.fewshot.header, "fewshot.header")), calibration(made(task, task.calibration, "calibration")) {
  for (const std::string& choice : task.choices) choices.push_back(made(task, choice, "choices"));
  if (task.fewshot.example) example = made(task, *task.fewshot.example, "fewshot.example");
}

Question question_of(const Task& task, const TaskTemplates& templates, const Scope& scope) {
  Question question;
  question.prompt = templates.prompt.render(scope);
  if (task.choices_are_a_path) question.choices = list_of(task, templates.choices[0], scope, "choices");
  else for (const Template& choice : templates.choices) question.choices.push_back(choice.render(scope));
  if (!task.choices.empty()) {
    if (question.choices.empty()) fail(task, scope, "choices", "the row has no choices: the list is empty", "mend the row, or leave it out");
    for (size_t i = 0; i < question.choices.size(); ++i)
      if (question.choices[i].empty() && task.target_delimiter.empty()) fail(task, scope, "choices", "choice " + std::to_string(i) + " is an empty text", "mend the row, or leave it out");
  }
  question.gold = gold_of(task, templates, scope, question.choices);
  if (!task.gold_mask.empty()) {
    for (const std::string& value : list_of(task, templates.gold_mask, scope, "gold_mask")) {
      if (value != "0" && value != "1") fail(task, scope, "gold_mask", "'" + value + "' is neither 0 nor 1", "the mask has 1 for a right choice and 0 for a wrong one");
      question.gold_mask.push_back(value == "1" ? 1 : 0);
    }
    if (question.gold_mask.size() != question.choices.size())
      fail(task, scope, "gold_mask", "the mask has " + std::to_string(question.gold_mask.size()) + " elements for " + std::to_string(question.choices.size()) + " choices", "give one for each choice");
  }
  if (!task.target.empty()) {
    const json value = templates.target.value(scope);
    if (value.is_array()) question.targets = list_of(task, templates.target, scope, "target");
    else question.targets = {python_str(value)};
    if (question.targets.empty()) fail(task, scope, "target", "the row has no reference: the list is empty", "mend the row, or leave it out");
  }
  return question;
}

std::string answered(const Task& task, const Question& question, const Scope& scope) {
  if (task.shape == Shape::generate) return question.prompt + task.target_delimiter + question.targets[0];
  if (question.gold.empty()) fail(task, scope, "gold", "the row does not tell the right answer", "take a split whose answers are known");
  const std::string& choice = question.choices[static_cast<size_t>(question.gold[0])];
  if (task.shape == Shape::context_choice) return choice + task.target_delimiter + question.targets[0];
  return question.prompt + task.target_delimiter + choice;
}

std::int64_t shots_of(const Task& task, const TaskOptions& options) {
  if (task.shape == Shape::perplexity || task.fewshot.fixed_count) return 0;
  const std::int64_t shots = options.shots >= 0 ? options.shots : task.fewshot.count;
  if (!task.fewshot.fixed.empty()) {
    if (task.fewshot.fixed.count(shots)) return shots;
    std::string list;
    for (const auto& [count, prefix] : task.fewshot.fixed) list += (list.empty() ? "" : ", ") + std::to_string(count);
    throw Error(ErrorKind::config, task.name + " has no prompt with " + std::to_string(shots) + " shots", place_of(task, "fewshot.fixed"), "its prompts are fixed; ask for one of " + list);
  }
  if (shots > 0 && task.fewshot.split.empty() && options.fewshot_split.empty())
    throw Error(ErrorKind::config, task.name + " has no split to take " + std::to_string(shots) + " shots from", place_of(task, "fewshot"), "give fewshot.split in the file, or ask for 0 shots");
  return shots;
}

Shots::Shots(const Task& task, const TaskTemplates& templates, const TaskOptions& options, const ChosenSubject& subject, const fs::path& data_dir)
    : task_(task), templates_(templates), subject_(subject), count_(shots_of(task, options)),
      random_(static_cast<std::uint64_t>(options.seed >= 0 ? options.seed : task.seed)) {
  if (!task.fewshot.fixed.empty()) fixed_ = fixed_prefix(task, count_, subject.name, data_dir);
  if (count_ == 0 || !task.fewshot.fixed.empty()) return;
  const std::string set = !options.fewshot_set.empty() ? options.fewshot_set : !task.fewshot.set.empty() ? task.fewshot.set : task.set;
  const std::string split = !options.fewshot_split.empty() ? options.fewshot_split : task.fewshot.split;
  // The first shots need no more rows than there are shots, and one for a document that is left out.
  pool_ = read_split(task, set, subject.name, split, data_dir, task.fewshot.first ? count_ + 1 : 0, "fewshot.split");
  texts_.resize(pool_.size());
  example(0);  // a field that is not there is told of before any work
  const auto needed = count_ + (task.fewshot.exclude_self && !task.fewshot.first ? 1 : 0);
  if (static_cast<std::int64_t>(pool_.size()) < needed)
    throw Error(ErrorKind::config, std::to_string(count_) + " shots need " + std::to_string(needed) + " rows, the split '" + split + "' has " + std::to_string(pool_.size()),
                place_of(task, "fewshot.split"), "ask for fewer shots, or take another split");
}

const std::string& Shots::example(std::int64_t index) {
  std::optional<std::string>& text = texts_[static_cast<size_t>(index)];
  if (!text) {
    const TaskRow& row = pool_[static_cast<size_t>(index)];
    const Scope scope{row.value, row.where, subject_.name, subject_.note.description};
    text = (templates_.example ? templates_.example->render(scope) : answered(task_, question_of(task_, templates_, scope), scope)) + task_.fewshot.delimiter;
  }
  return *text;
}

std::vector<std::int64_t> Shots::draw(const TaskRow& document) {
  const auto size = static_cast<std::int64_t>(pool_.size());
  const auto is_self = [&](std::int64_t i) { return task_.fewshot.exclude_self && pool_[static_cast<size_t>(i)].value == document.value; };
  std::vector<std::int64_t> chosen;
  if (task_.fewshot.first) {
    for (std::int64_t i = 0; i < size && static_cast<std::int64_t>(chosen.size()) < count_; ++i)
      if (!is_self(i)) chosen.push_back(i);
    return chosen;
  }
  for (const std::int64_t i : random_.sample_indices(size, count_ + (task_.fewshot.exclude_self ? 1 : 0)))
    if (!is_self(i)) chosen.push_back(i);
  if (static_cast<std::int64_t>(chosen.size()) >= count_) {
    chosen.resize(static_cast<size_t>(count_));
    return chosen;
  }
  std::vector<std::int64_t> others;  // the document stands in the pool more than once
  for (std::int64_t i = 0; i < size; ++i)
    if (!is_self(i)) others.push_back(i);
  if (static_cast<std::int64_t>(others.size()) < count_)
    throw Error(ErrorKind::config, "the pool has only " + std::to_string(others.size()) + " rows that differ from the document, not " + std::to_string(count_),
                place_of(task_, "fewshot.split") + "; data: " + document.where, "ask for fewer shots");
  chosen.clear();
  for (const std::int64_t i : random_.sample_indices(static_cast<std::int64_t>(others.size()), count_)) chosen.push_back(others[static_cast<size_t>(i)]);
  return chosen;
}

std::string Shots::next(const TaskRow& document) {
  if (!task_.fewshot.fixed.empty()) return fixed_;
  if (count_ == 0) return "";
  std::string text = templates_.header.render({document.value, document.where, subject_.name, subject_.note.description});
  for (const std::int64_t index : draw(document)) text += example(index);
  return text;
}

}  // namespace miq::dataset
