// Evaluation tasks as data: a YAML file of fields (docs/add-a-task.md) and the documents it makes of a data set.
// Semantics: lm-evaluation-harness 0.4.13 and MI-optimize, as the task files say.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace miq::dataset {

enum class Shape {
  choice,          ///< one context, k continuations: the likeliest is the prediction
  context_choice,  ///< k contexts, one continuation
  letter_logits,   ///< the largest logit of the next token among the choices' own tokens
  generate,        ///< text generated from the context, compared with references
  perplexity,      ///< of the documents' own text
};

/// Where shots come from.
struct Fewshot {
  std::int64_t count = 0;        ///< where the user asks for none
  bool fixed_count = false;      ///< the file says `count: 0`: a number that the user gives does not count
  std::string set, split;        ///< pool; an empty set is the task's own
  bool first = false;            ///< the first of the pool, instead of a random draw (Python's generator)
  bool exclude_self = false;
  std::string delimiter = "\n\n", header;
  std::optional<std::string> example;        ///< template in place of prompt + target_delimiter + answer
  std::map<std::int64_t, std::string> fixed; ///< shots -> literal prefix, or "file:task/dataset"
};

/// What is known of a subject beside its name.
struct SubjectNote {
  std::string category, description;
};

struct Extraction {
  std::string name, regex;
  std::int64_t pick = 0;  ///< which match: 0 the first, -1 the last
};

/// One task file, with what it includes. Templates are text with {{path|filter}}.
struct Task {
  std::string name, file;             ///< file: as named in messages
  std::vector<std::string> names;     ///< other names, possibly with {{SUBJECT}}
  std::map<std::string, std::string> places;  ///< key -> "file:line:column key", of the file that gave it
  std::filesystem::path folder;       ///< of a user's own file; empty for a built-in one
  std::string data_name;              ///< the built-in task whose data these are; empty for a user's own
  std::int64_t version = 1;
  std::string summary, category;      ///< category: of the standard suite; may be empty
  std::string source;                 ///< of the data: what tools/miq_data.py takes
  std::string group;                  ///< name of the total it belongs to
  bool equal_weights = false;         ///< the total is the plain mean over subjects, instead of one over documents
  Shape shape = Shape::choice;
  std::string set, split;             ///< data.set (with {{SUBJECT}} expanded over subjects), data.eval
  std::vector<std::string> subjects;  ///< as listed; or empty, and the data folder's own list or folders count
  std::map<std::string, SubjectNote> notes;  ///< of listed subjects
  std::string subjects_file;          ///< in the set's folder, a row for each: subject, category, description
  std::vector<std::string> prepare;
  std::string description, prompt;
  std::vector<std::string> choices;   ///< templates, or one {{path}} of a list
  bool choices_are_a_path = false;
  std::string target, target_delimiter = " ";
  std::string gold;                   ///< a number, or a template
  std::vector<std::string> gold_labels;
  std::string gold_labels_path, gold_mask;
  Fewshot fewshot;
  std::int64_t seed = 1234;
  std::int64_t max_new_tokens = 256;
  std::vector<std::string> until;
  std::vector<Extraction> extract;
  std::vector<std::string> normalize;
  std::map<std::string, std::string> aliases;
  bool exact_match_ignore_case = false;
  std::vector<std::string> exact_match_remove;
  std::vector<std::string> metrics;
  std::string group_by;
  // perplexity
  bool rolling = true;
  std::string text, count_from;
  std::string join;
  std::int64_t window = 2048, max_docs = 0, max_windows = 0;  ///< 0: all
  bool last_partial = false;
  std::string calibration;            ///< template of a calibration sample, where it is not prompt, delimiter and answer
  bool chat = false;                  ///< the context is a user's message, in the model's chat template
};

/// What is asked of the model: log p(continuation | context), or a text after the context (continuation
/// empty), or the log-likelihood of a whole text (perplexity: context empty).
struct TaskRequest {
  std::string context, continuation;
};

/// A document of the evaluation split, ready to be asked and scored.
struct TaskDocument {
  std::int64_t index = 0;               ///< place in the split (of its subject)
  std::string where;                    ///< "file:line"
  std::vector<TaskRequest> requests;    ///< one for each choice; one for the other shapes
  std::vector<std::string> choices;     ///< texts without the delimiter
  std::vector<std::int64_t> gold;       ///< right choices; empty where the data does not tell (C-Eval's test)
  std::vector<double> gold_mask;        ///< of choices (MC2)
  std::vector<std::string> references;  ///< of generate
  std::string group;                    ///< rendered group_by
  std::int64_t words = 0, bytes = 0;    ///< perplexity: of count_from
  nlohmann::json fields;                ///< the row after `prepare`, for metrics that read more (BBQ, CrowS-Pairs)
};

/// The documents of one subject; a task without subjects has one, named "".
struct TaskSubject {
  std::string name, category;
  std::vector<TaskDocument> documents;
};

struct TaskOptions {
  std::int64_t shots = -1;   ///< -1: the task's own number
  std::int64_t limit = 0;    ///< the first so many documents (of each subject); 0: all
  std::string subjects = "all";  ///< all, a category, or names, separated by commas
  std::string split;         ///< instead of the task's
  std::string fewshot_split; ///< instead of the task's
  std::string fewshot_set;   ///< instead of the task's
  std::int64_t seed = -1;    ///< of the shots; -1: the task's own
};

/// Names of the built-in tasks, sorted.
std::vector<std::string> task_names();
/// Names of the built-in suites (lists of tasks), sorted.
std::vector<std::string> suite_names();

/// The tasks that a name stands for: those of a suite (a built-in one, or a .yaml with `tasks: [...]`) and of the suites in it, every
/// built-in task that fits a pattern with * or ?, or the name itself. Each can be loaded. @throws Error{config} as load_task.
std::vector<std::string> expand_tasks(const std::string& name);

/// A built-in task, or the file of a path that ends in .yaml. `name` may carry a subject ("ceval/law", "blimp_wh_island", or one of
/// the file's `names` such as "boss_QuestionAnswering_squad"), which is then all of options.subjects; without options the task has no
/// other subject.
/// @throws Error{config} with file:line:column for a mistake in the file, or with the nearest name for an unknown task.
Task load_task(const std::string& name, TaskOptions* options = nullptr);

/// A task from YAML text; `file` names it in messages, `folder` is where its includes and its data with a set "./..." lie.
/// @throws Error{config}
Task read_task(const std::string& yaml, const std::string& file, const std::filesystem::path& folder = {});

/// Reads the splits and builds every request. @throws Error{io} naming the missing split and the command that gets it, Error{config, io}
/// naming task file and line, and data file, line and document, for a field that a row lacks, empty choices, bytes that are not UTF-8.
/// A perplexity task with windows has one document, the whole text.
std::vector<TaskSubject> load_documents(const Task& task, const TaskOptions& options, const std::filesystem::path& data_dir);

/// The whole text of a perplexity task: its documents (at most max_docs, options.limit) with `join` between them.
/// @throws Error{io, config} as load_documents.
std::string joined_text(const Task& task, const TaskOptions& options, const std::filesystem::path& data_dir);

/// The number of shots that a task gets. @throws Error{config} where it has not that many.
std::int64_t shots_of(const Task& task, const TaskOptions& options);

/// Where a task's data are: which of its splits are on disk.
struct TaskPresence {
  bool complete = false;   ///< evaluation and few-shot split of every subject
  bool evaluable = false;  ///< the evaluation split, of one subject at least
  std::string missing;     ///< the splits or subjects that are not on disk
};
TaskPresence find_data(const Task& task, const std::filesystem::path& data_dir);

/// The known steps of `normalize`.
std::vector<std::string> normalize_steps();

}  // namespace miq::dataset
