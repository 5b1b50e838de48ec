// What a name stands for: a built-in task, one of its subjects, a suite, a pattern, a file.
#include <set>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "task_files.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::string>;

constexpr int kDeepestSuite = 8;
constexpr const char* kSubject = "{{SUBJECT}}";

bool is_path(const std::string& name) { return fs::path(name).extension() == ".yaml"; }

ConfigSource builtin_source(const BuiltinTaskFile& file) { return ConfigSource::from_text(file.text, builtin_place(file.name)); }

// Every built-in task, read once.
const std::map<std::string, Task>& builtin_tasks() {
  static const std::map<std::string, Task> tasks = [] {
    std::map<std::string, Task> read;
    for (size_t i = 0; i < kBuiltinTaskFileCount; ++i) {
      const ConfigSource source = builtin_source(kBuiltinTaskFiles[i]);
      if (!is_suite(source)) read.emplace(kBuiltinTaskFiles[i].name, read_task_source(source, {}, kBuiltinTaskFiles[i].name));
    }
    return read;
  }();
  return tasks;
}

// What stands for {{SUBJECT}} where the name fits the pattern.
std::optional<std::string> subject_in(const std::string& name, const std::string& pattern) {
  const size_t hole = pattern.find(kSubject);
  const std::string before = pattern.substr(0, hole), after = pattern.substr(hole + std::string(kSubject).size());
  if (name.size() <= before.size() + after.size() || name.compare(0, before.size(), before) != 0 || name.compare(name.size() - after.size(), after.size(), after) != 0) return std::nullopt;
  const std::string subject = name.substr(before.size(), name.size() - before.size() - after.size());
  if (subject.find_first_of("/\\,= ") != std::string::npos || subject[0] == '.') return std::nullopt;
  return subject;
}

struct Found {
  const Task* task = nullptr;
  std::string subject;
  size_t literal = 0;  // characters of the pattern that are not the subject's
};

// The task and subject with the longest pattern that fits; a listed subject goes before one that may or may not be on disk.
Found find_task(const std::string& name, std::string* near_miss) {
  Found best;
  for (const auto& [own, task] : builtin_tasks()) {
    Texts names = task.names;
    names.insert(names.begin(), own);
    for (const std::string& other : names)
      if (other == name) return {&task, "", name.size()};
    if (task.set.find(kSubject) == std::string::npos) continue;
    for (const std::string& other : names) {
      Texts patterns = {other};
      if (other.find(kSubject) == std::string::npos) patterns = {other + "/" + kSubject, other + "_" + kSubject};
      for (const std::string& pattern : patterns) {
        const auto subject = subject_in(name, pattern);
        if (!subject) continue;
        if (!task.subjects.empty() && std::find(task.subjects.begin(), task.subjects.end(), *subject) == task.subjects.end()) {
          const std::string nearest = nearest_name(*subject, task.subjects);
          if (!nearest.empty()) *near_miss = pattern.substr(0, pattern.find(kSubject)) + nearest;
        } else if (pattern.size() > best.literal) {
          best = {&task, *subject, pattern.size()};
        }
      }
    }
  }
  return best;
}

[[noreturn]] void throw_unknown(const std::string& name, const std::string& near_miss, const std::string& where) {
  Texts all = task_names();
  for (const std::string& suite : suite_names()) all.push_back(suite);
  for (const auto& [own, task] : builtin_tasks())
    for (const std::string& other : task.names)
      if (other.find(kSubject) == std::string::npos) all.push_back(other);
  const std::string nearest = near_miss.empty() ? nearest_name(name, all) : near_miss;
  throw Error(ErrorKind::config, "unknown task '" + name + "'", where,
              (nearest.empty() ? "" : "did you mean " + nearest + "? ") + std::string("see `miq list tasks`; a file of your own is a path that ends in .yaml"));
}

bool fits(std::string_view name, std::string_view pattern) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] == '*') return fits(name, pattern.substr(1)) || (!name.empty() && fits(name.substr(1), pattern));
  return !name.empty() && (pattern[0] == '?' || pattern[0] == name[0]) && fits(name.substr(1), pattern.substr(1));
}

class Expansion {
 public:
  Texts names;

  void add(const std::string& name, const fs::path& folder, const std::string& where, int depth) {
    if (depth > kDeepestSuite) throw Error(ErrorKind::config, "suites list each other more than " + std::to_string(kDeepestSuite) + " deep", where, "break the circle");
    if (is_path(name)) return file(fs::path(name).is_absolute() || folder.empty() ? fs::path(name) : folder / name, where, depth);
    if (name.find_first_of("*?") != std::string::npos) return pattern(name, where);
    const BuiltinTaskFile* const builtin = builtin_task_file(name);
    if (builtin != nullptr) {
      const ConfigSource source = builtin_source(*builtin);
      if (is_suite(source)) return suite(source, {}, depth);
    }
    std::string near_miss;
    if (find_task(name, &near_miss).task == nullptr) throw_unknown(name, near_miss, where);
    put(name);
  }

 private:
  void put(const std::string& name) {
    if (seen_.insert(name).second) names.push_back(name);
  }
  void file(const fs::path& path, const std::string& where, int depth) {
    if (!fs::exists(path)) throw Error(ErrorKind::config, "there is no file '" + path.string() + "'", where, "a task's file is a path that ends in .yaml");
    const ConfigSource source = ConfigSource::from_file(path);
    if (is_suite(source)) suite(source, path.parent_path(), depth);
    else put(path.string());
  }
  void pattern(const std::string& name, const std::string& where) {
    if (name.size() > 100 || std::count(name.begin(), name.end(), '*') > 4) throw Error(ErrorKind::config, "the pattern '" + name + "' has too many parts", where, "use at most four *");
    bool any = false;
    for (const auto& [own, task] : builtin_tasks())
      if (fits(own, name)) any = true, put(own);
    if (!any) throw Error(ErrorKind::config, "no task fits '" + name + "'", where, "see `miq list tasks`");
  }
  void suite(const ConfigSource& source, const fs::path& folder, int depth) {
    ConfigReader reader(source);
    std::string summary;
    reader.text("summary", summary, "one line");
    const Texts tasks = reader.texts("tasks");
    reader.finish();
    if (tasks.empty()) reader.fail("tasks", "is empty", "list tasks or suites");
    for (const std::string& task : tasks) add(task, folder, reader.where("tasks"), depth + 1);
  }

  std::set<std::string> seen_;
};

}  // namespace

const BuiltinTaskFile* builtin_task_file(const std::string& name) {
  for (size_t i = 0; i < kBuiltinTaskFileCount; ++i)
    if (name == kBuiltinTaskFiles[i].name) return &kBuiltinTaskFiles[i];
  return nullptr;
}

std::string builtin_place(const std::string& name) { return "configs/tasks/" + name + ".yaml"; }

Texts task_names() {
  Texts names;
  for (size_t i = 0; i < kBuiltinTaskFileCount; ++i)
    if (!is_suite(builtin_source(kBuiltinTaskFiles[i]))) names.emplace_back(kBuiltinTaskFiles[i].name);
  std::sort(names.begin(), names.end());
  return names;
}

Texts suite_names() {
  Texts names;
  for (size_t i = 0; i < kBuiltinTaskFileCount; ++i)
    if (is_suite(builtin_source(kBuiltinTaskFiles[i]))) names.emplace_back(kBuiltinTaskFiles[i].name);
  std::sort(names.begin(), names.end());
  return names;
}

Texts expand_tasks(const std::string& name) {
  Expansion expansion;
  expansion.add(name, {}, "", 0);
  return expansion.names;
}

Task load_task(const std::string& name, TaskOptions* options) {
  if (is_path(name)) {
    if (!fs::exists(name)) throw Error(ErrorKind::config, "there is no file '" + name + "'", "", "a task's file is a path that ends in .yaml; see `miq list tasks` for the built-in ones");
    const fs::path folder = fs::path(name).parent_path();
    return read_task_source(ConfigSource::from_file(name), folder.empty() ? "." : folder, "");
  }
  std::string near_miss;
  const Found found = find_task(name, &near_miss);
  if (found.task == nullptr) {
    const Texts suites = suite_names();
    if (std::find(suites.begin(), suites.end(), name) != suites.end())
      throw Error(ErrorKind::config, "'" + name + "' is a suite, a list of tasks, not one task", "", "name one of its tasks");
    throw_unknown(name, near_miss, "");
  }
  Task task = *found.task;
  if (found.subject.empty()) return task;
  if (options != nullptr) options->subjects = found.subject;
  else task.subjects = {found.subject};
  return task;
}

}  // namespace miq::dataset
