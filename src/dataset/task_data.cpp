#include "task_data.h"

#include <mutex>
#include <set>

#include "jsonl.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/log.h"
#include "miq/core/text.h"
#include "python_values.h"
#include "task_files.h"
#include "task_steps.h"
#include "utf8.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The data folder, or for sets "./..." the folder of the user's file.
fs::path set_folder(const Task& task, const std::string& set, const fs::path& data_dir) {
  const bool beside = !task.folder.empty() && !set.empty() && set[0] == '.';
  return (beside ? task.folder / set : data_dir / set).lexically_normal();
}

fs::path folder_of_subjects(const Task& task, const fs::path& data_dir) {
  const std::string before = task.set.substr(0, task.set.find("{{SUBJECT}}"));
  return set_folder(task, before, data_dir);
}

std::string splits_there(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (const std::string extension = entry.path().extension().string(); extension == ".jsonl" || extension == ".txt") names.insert(entry.path().stem().string());
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

std::string in_place(const Task& task, const std::string& where, const char* key) { return where + "; task: " + place_of(task, key); }

json parsed_line(const Task& task, const std::string& line, const std::string& where, const char* key) {
  if (!is_valid_utf8(line)) throw Error(ErrorKind::io, "the line is not UTF-8", in_place(task, where, key), "write the file anew as UTF-8");
  json value;
  try {
    value = parse_json(line, where);
  } catch (const Error& error) {
    throw Error(ErrorKind::io, error.message(), in_place(task, where, key), error.fix());
  }
  if (!value.is_object()) throw Error(ErrorKind::io, "the line is no JSON object", in_place(task, where, key), "write each row as {\"field\": value, ...} on a line of its own");
  return value;
}

}  // namespace

std::string place_of(const Task& task, const std::string& key) {
  const auto found = task.places.find(key);
  return found == task.places.end() ? task.file : found->second;
}

std::string how_to_get(const Task& task) {
  return task.data_name.empty() ? "put the rows there, a JSON object a line, or give the data folder with --data-dir or MIQ_DATA"
                                : "get it with: tools/miq_data.py " + task.data_name + " --data-dir DIR (and give DIR with --data-dir or MIQ_DATA)";
}

std::string plain_category(const std::string& name) {
  std::string plain = lower(strip(name));
  std::replace(plain.begin(), plain.end(), '_', ' ');
  if (plain == "hm") return "humanitie";
  if (plain == "ss") return "social science";
  if (plain == "st") return "stem";
  if (!plain.empty() && plain.back() == 's') plain.pop_back();
  return plain == "humanity" ? "humanitie" : plain;
}

fs::path split_file(const Task& task, const std::string& set, const std::string& subject, const std::string& split, const fs::path& data_dir) {
  const fs::path folder = set_folder(task, replaced_subject(set, subject), data_dir);
  const fs::path rows = folder / (split + ".jsonl"), lines = folder / (split + ".txt");
  return !fs::exists(rows) && fs::exists(lines) ? lines : rows;
}

std::vector<ChosenSubject> all_subjects(const Task& task, const fs::path& data_dir) {
  if (task.set.find("{{SUBJECT}}") == std::string::npos) return {{"", {}}};
  std::vector<ChosenSubject> subjects;
  const auto listed = [&](const std::string& name) { return task.subjects.empty() || std::find(task.subjects.begin(), task.subjects.end(), name) != task.subjects.end(); };
  const fs::path folder = folder_of_subjects(task, data_dir);
  if (!task.subjects_file.empty()) {
    const fs::path file = folder / task.subjects_file;
    if (!fs::exists(file)) throw Error(ErrorKind::io, "the list of the subjects of " + task.name + " is not on disk", in_place(task, file.string(), "subjects"), how_to_get(task));
    std::int64_t number = 0;
    for (const std::string& line : split_lines(read_file(file))) {
      const std::string where = file.string() + ":" + std::to_string(++number);
      if (strip(valid_utf8(line)).empty()) continue;
      const json row = parsed_line(task, line, where, "subjects");
      for (const char* key : {"subject", "category", "description"})
        if (!row.contains(key) ? key == std::string("subject") : !row[key].is_string())
          throw Error(ErrorKind::io, "a subject's row needs a text under '" + std::string(key) + "'", in_place(task, where, "subjects"));
      const std::string name = row["subject"];
      if (!is_subject_name(name)) throw Error(ErrorKind::io, "'" + printable(name) + "' cannot be a subject", in_place(task, where, "subjects"), "a subject is the name of a folder");
      if (listed(name)) subjects.push_back({name, {row.value("category", ""), row.value("description", "")}});
    }
  } else if (!task.subjects.empty()) {
    for (const std::string& name : task.subjects) {
      const auto note = task.notes.find(name);
      subjects.push_back({name, note == task.notes.end() ? SubjectNote{} : note->second});
    }
  } else {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(folder, ignored))
      if (entry.is_directory()) subjects.push_back({entry.path().filename().string(), {}});
    std::sort(subjects.begin(), subjects.end(), [](const ChosenSubject& a, const ChosenSubject& b) { return a.name < b.name; });
    if (subjects.empty()) throw Error(ErrorKind::io, "no subject of " + task.name + " is on disk", in_place(task, folder.string(), "data.set"), how_to_get(task));
  }
  return subjects;
}

std::vector<ChosenSubject> choose_subjects(const Task& task, const std::string& wanted, const std::string& needed, const fs::path& data_dir) {
  const std::vector<ChosenSubject> all = all_subjects(task, data_dir);
  if (task.set.find("{{SUBJECT}}") == std::string::npos) {
    if (wanted != "all" && !wanted.empty()) throw Error(ErrorKind::config, "the task " + task.name + " has no subjects, '" + wanted + "' cannot be one", task.file, "leave subjects away");
    return all;
  }
  std::vector<std::string> names, categories;
  for (const ChosenSubject& subject : all) {
    names.push_back(subject.name);
    if (!subject.note.category.empty() && std::find(categories.begin(), categories.end(), subject.note.category) == categories.end()) categories.push_back(subject.note.category);
  }
  std::set<std::string> chosen, by_name;
  for (const std::string& piece : split_at(wanted, ",")) {
    const std::string part = strip(piece);
    if (std::find(names.begin(), names.end(), part) != names.end()) {
      by_name.insert(part);
      chosen.insert(part);
      continue;
    }
    bool known_category = false;
    for (const ChosenSubject& subject : all) {
      if (part != "all" && (subject.note.category.empty() || plain_category(subject.note.category) != plain_category(part))) continue;
      known_category = true;
      chosen.insert(subject.name);
    }
    if (known_category) continue;
    std::vector<std::string> known = names;
    known.insert(known.end(), categories.begin(), categories.end());
    std::string list;
    for (const std::string& category : categories) list += (list.empty() ? "" : ", ") + category;
    const std::string nearest = nearest_name(part, known);
    throw Error(ErrorKind::config, "'" + part + "' is neither a subject nor a category of " + task.name, task.file,
                (nearest.empty() ? "" : "did you mean " + nearest + "? ") + ("it has " + std::to_string(names.size()) + " subjects" + (list.empty() ? "" : " in the categories " + list)));
  }
  std::vector<ChosenSubject> found;
  std::string missing;
  for (const ChosenSubject& subject : all) {
    if (!chosen.count(subject.name)) continue;
    const fs::path file = split_file(task, task.set, subject.name, needed, data_dir);
    if (fs::exists(file)) {
      found.push_back(subject);
      continue;
    }
    if (by_name.count(subject.name)) {
      const std::string there = splits_there(file.parent_path());
      throw Error(ErrorKind::io, "the split '" + needed + "' of " + task.name + "'s subject " + subject.name + " is not on disk", in_place(task, file.string(), "data.eval"),
                  (there.empty() ? "" : "there are: " + there + "; ") + how_to_get(task));
    }
    missing += (missing.empty() ? "" : ", ") + subject.name;
  }
  if (found.empty()) {
    const fs::path folder = folder_of_subjects(task, data_dir);
    const std::string there = chosen.empty() ? "" : splits_there(set_folder(task, replaced_subject(task.set, *chosen.begin()), data_dir));
    throw Error(ErrorKind::io, "no subject of " + task.name + " has the split '" + needed + "' on disk", in_place(task, folder.string(), "data.eval"),
                (there.empty() ? "" : "there are: " + there + "; ") + how_to_get(task));
  }
  // A job reads its documents more than once; this is told once.
  static std::set<std::string> told;
  static std::mutex guard;
  const std::string warning = task.name + ": subjects that are not on disk are left out: " + missing;
  const std::scoped_lock lock(guard);
  if (!missing.empty() && told.insert(warning).second) log_warning(warning);
  return found;
}

std::vector<TaskRow> read_split(const Task& task, const std::string& set, const std::string& subject, const std::string& split, const fs::path& data_dir, std::int64_t limit,
                                const char* key) {
  if (split.empty() || split.find_first_of("/\\") != std::string::npos || split[0] == '.')
    throw Error(ErrorKind::config, "'" + split + "' is not the name of a split", place_of(task, key), "a split is a file's name without .jsonl");
  const fs::path file = split_file(task, set, subject, split, data_dir);
  if (!fs::exists(file)) {
    const std::string there = splits_there(file.parent_path());
    throw Error(ErrorKind::io, "the split '" + split + "' of " + task.name + (subject.empty() ? "" : "'s subject " + subject) + " is not on disk", in_place(task, file.string(), key),
                (there.empty() ? "" : "there are: " + there + "; ") + how_to_get(task));
  }
  const bool plain_lines = file.extension() == ".txt";
  std::vector<TaskRow> rows;
  std::int64_t number = 0;
  for (const std::string& line : split_lines(read_file(file))) {
    if (limit > 0 && static_cast<std::int64_t>(rows.size()) == limit) break;
    ++number;
    if (!plain_lines && line.find_first_not_of(" \t\r") == std::string::npos) continue;
    TaskRow row;
    row.where = file.string() + ":" + std::to_string(number) + ", document " + std::to_string(rows.size());
    if (plain_lines) {
      if (!is_valid_utf8(line)) throw Error(ErrorKind::io, "the line is not UTF-8", in_place(task, row.where, key), "write the file anew as UTF-8");
      row.value = {{"text", line}};
    } else {
      row.value = parsed_line(task, line, row.where, key);
    }
    for (const std::string& step : task.prepare) prepare(step, row.value, in_place(task, row.where, "prepare"));
    rows.push_back(std::move(row));
  }
  if (rows.empty()) throw Error(ErrorKind::io, "the file has no rows", in_place(task, file.string(), key), how_to_get(task));
  return rows;
}

TaskPresence find_data(const Task& task, const fs::path& data_dir) {
  TaskPresence presence;
  std::vector<ChosenSubject> subjects;
  try {
    subjects = all_subjects(task, data_dir);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::io) throw;
    presence.missing = task.set;
    return presence;
  }
  const auto there = [&](const std::string& set, const std::string& subject, const std::string& split) { return fs::exists(split_file(task, set, subject, split, data_dir)); };
  std::vector<std::string> no_questions, no_shots;
  for (const ChosenSubject& subject : subjects) {
    if (!there(task.set, subject.name, task.split)) no_questions.push_back(subject.name);
    else if (!task.fewshot.split.empty() && !there(task.fewshot.set.empty() ? task.set : task.fewshot.set, subject.name, task.fewshot.split)) no_shots.push_back(subject.name);
  }
  const auto tell = [&](const std::vector<std::string>& names, const std::string& split) {
    if (names.empty()) return;
    std::string text = split;
    if (names.size() == subjects.size() || names[0].empty()) text += names[0].empty() ? "" : " of every subject";
    else if (names.size() > 6) text += " of " + std::to_string(names.size()) + " of " + std::to_string(subjects.size()) + " subjects";
    else for (size_t i = 0; i < names.size(); ++i) text += (i == 0 ? " of " : ", ") + names[i];
    presence.missing += (presence.missing.empty() ? "" : "; ") + text;
  };
  tell(no_questions, task.split);
  tell(no_shots, task.fewshot.split + " (shots)");
  presence.evaluable = no_questions.size() < subjects.size();
  presence.complete = presence.missing.empty();
  return presence;
}

}  // namespace miq::dataset
