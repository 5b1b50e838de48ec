// Where a task's rows lie, which subjects it has, and reading them.
#pragma once

#include "miq/dataset/task.h"

namespace miq::dataset {

/// Subjects asked for, in the task's order, with what is known of them. A task without subjects has one, named "".
/// `needed`: the split whose file each must have; subjects without it are left out with one warning, or refused when asked for by name.
/// @throws Error{config} for a name that is neither subject nor category, Error{io} where none is on disk.
struct ChosenSubject {
  std::string name;
  SubjectNote note;
};
std::vector<ChosenSubject> choose_subjects(const Task& task, const std::string& wanted, const std::string& needed, const std::filesystem::path& data_dir);

/// All subjects that the task lists, or that its data folder has.
std::vector<ChosenSubject> all_subjects(const Task& task, const std::filesystem::path& data_dir);

/// "Social Sciences", "social_science" and "ss" are one category.
std::string plain_category(const std::string& name);

/// The file of a split, SPLIT.jsonl or SPLIT.txt, whether it is there or not. `set`: with {{SUBJECT}} of a subject put in.
std::filesystem::path split_file(const Task& task, const std::string& set, const std::string& subject, const std::string& split, const std::filesystem::path& data_dir);

/// One row of a split, after the task's `prepare` steps.
struct TaskRow {
  nlohmann::json value;
  std::string where;  ///< "file:line, document 3"
};

/// The first `limit` rows (0: all) of a split. A .txt has a row {"text": line} for each line.
/// @throws Error{io} naming task and data file where the split is missing or a row is not JSON, not UTF-8, no object.
std::vector<TaskRow> read_split(const Task& task, const std::string& set, const std::string& subject, const std::string& split,
                                const std::filesystem::path& data_dir, std::int64_t limit, const char* key);

/// "configs/tasks/x.yaml:3:7 prompt", or the file alone.
std::string place_of(const Task& task, const std::string& key);

/// What gets the data: a command for a built-in task, where to put rows for a user's own.
std::string how_to_get(const Task& task);

}  // namespace miq::dataset
