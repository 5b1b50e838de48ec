// The built-in task files, and what a name stands for among them.
#pragma once

#include <string>
#include <vector>

#include "miq/core/config.h"
#include "miq/dataset/task.h"

namespace miq::dataset {

/// configs/tasks/*.yaml as they were when the library was built (a generated source).
struct BuiltinTaskFile {
  const char* name;
  const char* text;
};
extern const BuiltinTaskFile kBuiltinTaskFiles[];
extern const size_t kBuiltinTaskFileCount;

/// The built-in file of a name, or nullptr.
const BuiltinTaskFile* builtin_task_file(const std::string& name);
/// "configs/tasks/NAME.yaml".
std::string builtin_place(const std::string& name);

/// Whether the source is a suite: a list under `tasks`.
bool is_suite(const ConfigSource& source);

/// A task from a source. `folder`: of the file, for what it includes; `builtin`: its name if it is one of the library's own.
/// @throws Error{config}
Task read_task_source(const ConfigSource& source, const std::filesystem::path& folder, const std::string& builtin);

/// The text with {{SUBJECT}} put in.
std::string replaced_subject(std::string text, const std::string& subject);

}  // namespace miq::dataset
