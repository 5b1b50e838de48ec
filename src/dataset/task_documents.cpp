// Rows to requests, in the way of lm-evaluation-harness 0.4.13 (spec of each shape: include/miq/dataset/task.h).
#include "miq/core/error.h"
#include "python_values.h"
#include "task_prompts.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;

std::string split_of(const Task& task, const TaskOptions& options) { return options.split.empty() ? task.split : options.split; }

std::int64_t smaller_limit(std::int64_t a, std::int64_t b) { return a == 0 ? b : b == 0 ? a : std::min(a, b); }

// What is asked of the model about a question, behind `before`: description and shots.
std::vector<TaskRequest> requests_of(const Task& task, const Question& question, const std::string& before) {
  std::vector<TaskRequest> requests;
  switch (task.shape) {
    case Shape::choice:
      for (const std::string& choice : question.choices) requests.push_back({before + question.prompt, task.target_delimiter + choice});
      break;
    case Shape::context_choice:
      for (const std::string& choice : question.choices) requests.push_back({before + choice, task.target_delimiter + question.targets[0]});
      break;
    default: requests.push_back({before + question.prompt, ""});
  }
  return requests;
}

TaskDocument text_document(const Task& task, const TaskTemplates& templates, const Scope& scope) {
  TaskDocument document;
  const std::string text = templates.text.render(scope);
  const std::string counted = task.count_from.empty() ? text : templates.count_from.render(scope);
  document.requests = {{"", text}};
  document.words = white_space_pieces(counted);
  document.bytes = static_cast<std::int64_t>(counted.size());
  return document;
}

std::vector<TaskDocument> documents_of(const Task& task, const TaskOptions& options, const TaskTemplates& templates, const ChosenSubject& subject, const fs::path& data_dir) {
  const std::vector<TaskRow> rows = read_split(task, task.set, subject.name, split_of(task, options), data_dir, smaller_limit(options.limit, task.max_docs), "data.eval");
  Shots shots(task, templates, options, subject, data_dir);
  std::vector<TaskDocument> documents;
  for (const TaskRow& row : rows) {
    const Scope scope{row.value, row.where, subject.name, subject.note.description};
    TaskDocument document;
    if (task.shape == Shape::perplexity) {
      document = text_document(task, templates, scope);
    } else {
      Question question = question_of(task, templates, scope);
      document.requests = requests_of(task, question, templates.description.render(scope) + shots.next(row));
      document.choices = std::move(question.choices);
      document.gold = std::move(question.gold);
      document.gold_mask = std::move(question.gold_mask);
      if (task.shape == Shape::generate) document.references = std::move(question.targets);
    }
    document.group = templates.group_by.render(scope);
    document.index = static_cast<std::int64_t>(documents.size());
    document.where = row.where.substr(0, row.where.rfind(", document "));
    document.fields = row.value;
    documents.push_back(std::move(document));
  }
  return documents;
}

}  // namespace

std::string joined_text(const Task& task, const TaskOptions& options, const fs::path& data_dir) {
  if (task.shape != Shape::perplexity) throw Error(ErrorKind::internal, "only a perplexity task has one text", task.file);
  const TaskTemplates templates(task);
  std::string text;
  bool first = true;
  for (const ChosenSubject& subject : choose_subjects(task, options.subjects, split_of(task, options), data_dir))
    for (const TaskRow& row : read_split(task, task.set, subject.name, split_of(task, options), data_dir, smaller_limit(options.limit, task.max_docs), "data.eval")) {
      if (!std::exchange(first, false)) text += task.join;
      text += templates.text.render({row.value, row.where, subject.name, subject.note.description});
    }
  return text;
}

std::vector<TaskSubject> load_documents(const Task& task, const TaskOptions& options, const fs::path& data_dir) {
  if (task.shape == Shape::perplexity && !task.rolling) {
    TaskDocument document;
    const std::string text = joined_text(task, options, data_dir);
    document.where = task.set + "/" + split_of(task, options);
    document.words = white_space_pieces(text);
    document.bytes = static_cast<std::int64_t>(text.size());
    document.requests = {{"", text}};
    return {{"", "", {std::move(document)}}};
  }
  const TaskTemplates templates(task);
  std::vector<TaskSubject> subjects;
  for (const ChosenSubject& subject : choose_subjects(task, options.subjects, split_of(task, options), data_dir))
    subjects.push_back({subject.name, subject.note.category, documents_of(task, options, templates, subject, data_dir)});
  return subjects;
}

}  // namespace miq::dataset
