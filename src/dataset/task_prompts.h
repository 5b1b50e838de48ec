// A task's templates, and what they make of rows: questions, shots, samples.
#pragma once

#include "miq/core/random.h"
#include "miq/dataset/task.h"
#include "task_data.h"
#include "template.h"

namespace miq::dataset {

/// The templates of a task, parsed once.
struct TaskTemplates {
  explicit TaskTemplates(const Task& task);
  Template description, prompt, target, gold, gold_labels, gold_mask, group_by, text, count_from, header, calibration;
  std::vector<Template> choices;
  std::optional<Template> example;
};

/// A row's question as texts: prompt, choices and what is right.
struct Question {
  std::string prompt;
  std::vector<std::string> choices, targets;  ///< targets: of context_choice and generate
  std::vector<std::int64_t> gold;
  std::vector<double> gold_mask;
};

/// @throws Error{config, io} with the places of template and row.
Question question_of(const Task& task, const TaskTemplates& templates, const Scope& scope);

/// The question with its answer. @throws Error{io} where the row does not tell the answer.
std::string answered(const Task& task, const Question& question, const Scope& scope);

/// The shots of one subject: texts put before each document, drawn in the documents' order.
class Shots {
 public:
  Shots(const Task& task, const TaskTemplates& templates, const TaskOptions& options, const ChosenSubject& subject, const std::filesystem::path& data_dir);
  /// What stands between description and prompt of the next document.
  std::string next(const TaskRow& document);

 private:
  const std::string& example(std::int64_t index);
  std::vector<std::int64_t> draw(const TaskRow& document);

  const Task& task_;
  const TaskTemplates& templates_;
  const ChosenSubject& subject_;
  std::int64_t count_;
  std::string fixed_;
  std::vector<TaskRow> pool_;
  std::vector<std::optional<std::string>> texts_;  // of the pool's rows, made when first drawn
  PythonRandom random_;
};

}  // namespace miq::dataset
