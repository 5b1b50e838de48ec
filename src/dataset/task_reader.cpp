// A task file to a Task: every key once, strictly, with what it includes underneath.
#include <set>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "regex.h"
#include "task_files.h"
#include "task_steps.h"
#include "template.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::string>;

constexpr int kDeepestInclude = 8;

const Texts& metric_names() {
  static const Texts names = {
#define MIQ_METRIC(name, ...) name,
#include "miq/dataset/metric_names.def"
#undef MIQ_METRIC
  };
  return names;
}

// Fields of one file laid over a task that has those of the files it includes.
class TaskReader {
 public:
  TaskReader(const ConfigSource& source, Task& task) : reader_(source), task_(task) {}

  std::string include() {
    std::string name;
    reader_.text("include", name, "a task to start from");
    return name;
  }

  /// Whether the file names its own data.
  bool gives_data() const { return reader_.has("data"); }

  void read() {
    identity();
    data();
    prompt();
    fewshot();
    answers();
    perplexity();
    reader_.finish();
  }

 private:
  void mark(const ConfigReader& reader, const std::string& prefix, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
      if (reader.has(key)) task_.places[prefix + key] = reader.where(key);
  }
  // A list of names, each of which must be known.
  void names(ConfigReader& reader, const char* key, Texts& values, const Texts& known, const char* what) {
    if (!reader.has(key)) return void(reader.take(key));
    values = reader.texts(key);
    for (const std::string& value : values) {
      if (std::find(known.begin(), known.end(), value) != known.end()) continue;
      std::string list;
      for (const std::string& name : known) list += (list.empty() ? "" : ", ") + name;
      const std::string nearest = nearest_name(value, known);
      reader.fail(key, "has the unknown " + std::string(what) + " '" + value + "'", (nearest.empty() ? "" : "did you mean " + nearest + "? ") + ("known: " + list));
    }
  }
  std::int64_t whole_number(const ConfigReader& reader, const char* key, const std::string& text) const {
    if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos) reader.fail(key, "has the key '" + text + "', which is no number");
    return std::stoll(text);
  }
  std::map<std::string, std::string> text_map(ConfigReader& reader, const char* key) {
    std::map<std::string, std::string> map;
    const YAML::Node node = reader.take(key);
    if (!node.IsMap()) reader.fail(key, "must be a mapping of texts");
    for (const auto& entry : node) {
      if (!entry.first.IsScalar() || !entry.second.IsScalar()) reader.fail(key, "must be a mapping of texts");
      map[entry.first.Scalar()] = entry.second.Scalar();
    }
    return map;
  }

  void identity() {
    mark(reader_, "", {"names", "shape"});
    reader_.text("task", task_.name, "name");
    reader_.integer("version", task_.version, 0, 1 << 30, "shown in results");
    if (reader_.has("names")) task_.names = reader_.texts("names");
    else reader_.take("names");
    reader_.text("summary", task_.summary, "one line");
    reader_.text("category", task_.category, "of the standard suite");
    reader_.text("source", task_.source, "of the data");
    reader_.text("group", task_.group, "name of the total it belongs to");
    int equal = task_.equal_weights ? 1 : 0;
    reader_.choice("group_weight", equal, FieldVisitor::Names{{"size", 0}, {"equal", 1}}, "of the subjects in the total");
    task_.equal_weights = equal == 1;
    reader_.choice<Shape>("shape", task_.shape, {{"choice", Shape::choice}, {"context_choice", Shape::context_choice}, {"letter_logits", Shape::letter_logits},
                                                 {"generate", Shape::generate}, {"perplexity", Shape::perplexity}}, "what is asked of the model");
    reader_.flag("chat", task_.chat, "the context is a user's message");
  }

  void subjects() {
    mark(reader_, "", {"subjects"});
    const YAML::Node node = reader_.take("subjects");
    if (!node.IsDefined()) return;
    task_.subjects.clear();
    task_.notes.clear();
    task_.subjects_file.clear();
    if (node.IsMap()) {
      ConfigReader file = reader_.nested("subjects", node);
      file.text("file", task_.subjects_file, "a row for each subject");
      file.finish();
      if (task_.subjects_file.empty() || task_.subjects_file.find("..") != std::string::npos) reader_.fail("subjects", "names no file", "write subjects: {file: subjects.jsonl}");
      return;
    }
    if (!node.IsSequence()) reader_.fail("subjects", "must be a list, or {file: subjects.jsonl}");
    for (const auto& item : node) {
      if (item.IsScalar()) {
        task_.subjects.push_back(item.Scalar());
        continue;
      }
      ConfigReader one = reader_.nested("subjects", item);
      std::string name;
      SubjectNote note;
      one.text("subject", name, "its name, also of its folder");
      one.text("category", note.category, "which it belongs to");
      one.text("description", note.description, "{{SUBJECT_DESCRIPTION}}");
      one.finish();
      task_.subjects.push_back(name);
      task_.notes[name] = note;
    }
    if (std::set<std::string>(task_.subjects.begin(), task_.subjects.end()).size() != task_.subjects.size()) reader_.fail("subjects", "has a subject twice");
    for (const std::string& name : task_.subjects)
      if (name.empty() || name.find_first_of("/\\,={}") != std::string::npos || name[0] == '.') reader_.fail("subjects", "cannot have the subject '" + name + "'", "a subject is the name of a folder");
  }

  void data() {
    if (auto data = reader_.child("data")) {
      mark(*data, "data.", {"set", "eval"});
      data->text("set", task_.set, "folder in the data folder; {{SUBJECT}} for each subject");
      data->text("eval", task_.split, "split that is asked");
      data->finish();
    }
    subjects();
    mark(reader_, "", {"prepare"});
    names(reader_, "prepare", task_.prepare, prepare_steps(), "step");
  }

  void prompt() {
    mark(reader_, "", {"description", "prompt", "choices", "target", "gold", "gold_labels", "gold_mask", "group_by", "calibration"});
    reader_.text("description", task_.description, "text before everything");
    reader_.text("prompt", task_.prompt, "template of the question");
    if (const YAML::Node node = reader_.take("choices"); node.IsDefined()) {
      task_.choices_are_a_path = node.IsScalar();
      task_.choices.clear();
      if (!node.IsScalar() && !node.IsSequence()) reader_.fail("choices", "must be a list of templates, or one {{path}}");
      if (node.IsScalar()) task_.choices = {node.Scalar()};
      else for (const auto& item : node) {
        if (!item.IsScalar()) reader_.fail("choices", "must be a list of templates, or one {{path}}");
        task_.choices.push_back(item.Scalar());
      }
      if (task_.choices.empty()) reader_.fail("choices", "is empty");
    }
    reader_.text("target", task_.target, "continuation, or reference");
    reader_.text("target_delimiter", task_.target_delimiter, "between prompt and answer");
    reader_.text("gold", task_.gold, "the right choice");
    if (const YAML::Node node = reader_.take("gold_labels"); node.IsDefined()) {
      task_.gold_labels.clear();
      task_.gold_labels_path.clear();
      if (node.IsScalar()) task_.gold_labels_path = node.Scalar();
      else if (!node.IsSequence()) reader_.fail("gold_labels", "must be a list of labels, or one {{path}}");
      else for (const auto& item : node) {
        if (!item.IsScalar()) reader_.fail("gold_labels", "must be a list of labels, or one {{path}}");
        task_.gold_labels.push_back(item.Scalar());
      }
    }
    reader_.text("gold_mask", task_.gold_mask, "which choices are right");
    reader_.text("group_by", task_.group_by, "of grouped metrics");
    reader_.text("calibration", task_.calibration, "template of a calibration sample");
  }

  void fewshot() {
    mark(reader_, "", {"fewshot"});
    auto fewshot = reader_.child("fewshot");
    reader_.integer("seed", task_.seed, 0, INT64_MAX, "of the shots");
    if (!fewshot) return;
    Fewshot& f = task_.fewshot;
    mark(*fewshot, "fewshot.", {"count", "split", "set", "header", "example", "fixed"});
    fewshot->integer("count", f.count, 0, 1000, "shots where none are asked for");
    if (fewshot->has("count")) f.fixed_count = f.count == 0;
    fewshot->text("split", f.split, "pool");
    fewshot->text("set", f.set, "pool's folder");
    int first = f.first ? 1 : 0;
    fewshot->choice("order", first, FieldVisitor::Names{{"random", 0}, {"first", 1}}, "how shots are taken");
    f.first = first == 1;
    fewshot->flag("exclude_self", f.exclude_self, "a document is no shot of its own");
    fewshot->text("delimiter", f.delimiter, "behind each shot");
    fewshot->text("header", f.header, "before the shots");
    if (fewshot->has("example")) f.example.emplace();
    std::string example = f.example.value_or("");
    fewshot->text("example", example, "template of a shot");
    if (f.example) f.example = example;
    if (fewshot->has("fixed")) {
      f.fixed.clear();
      for (const auto& [shots, prefix] : text_map(*fewshot, "fixed")) f.fixed[whole_number(*fewshot, "fixed", shots)] = prefix;
    } else {
      fewshot->take("fixed");
    }
    fewshot->finish();
  }

  void answers() {
    if (auto generation = reader_.child("generation")) {
      generation->integer("max_new_tokens", task_.max_new_tokens, 1, 1 << 20, "of an answer");
      if (generation->has("until")) {
        task_.places["generation.until"] = generation->where("until");
        task_.until = generation->texts("until");
        for (const std::string& stop : task_.until)
          if (stop.empty()) generation->fail("until", "has an empty text, at which every answer would end");
      } else {
        generation->take("until");
      }
      generation->finish();
    }
    if (auto extract = reader_.child("extract")) extractions(*extract);
    mark(reader_, "", {"normalize", "metrics"});
    names(reader_, "normalize", task_.normalize, normalize_steps(), "step");
    if (reader_.has("aliases")) task_.aliases = text_map(reader_, "aliases");
    else reader_.take("aliases");
    if (auto match = reader_.child("exact_match")) {
      match->flag("ignore_case", task_.exact_match_ignore_case, "capitals and small letters are the same");
      if (match->has("remove")) task_.exact_match_remove = match->texts("remove");
      else match->take("remove");
      for (const std::string& pattern : task_.exact_match_remove) check_pattern(pattern, match->where("remove"));
      match->finish();
    }
    names(reader_, "metrics", task_.metrics, metric_names(), "metric");
  }

  static void check_pattern(const std::string& pattern, const std::string& where) {
    try {
      Regex(pattern, where);
    } catch (const Error& error) {
      throw Error(ErrorKind::config, error.message(), where, error.fix());
    }
  }

  void extractions(ConfigReader& reader) {
    task_.extract.clear();
    const YAML::Node node = reader_.take("extract");
    for (const auto& entry : node) {
      const std::string name = entry.first.Scalar();
      auto one = reader.child(name.c_str());
      if (!one) reader.fail(name.c_str(), "is empty", "write {regex: ..., pick: 0}");
      Extraction extraction;
      extraction.name = name;
      one->text("regex", extraction.regex, "what is taken of an answer");
      one->integer("pick", extraction.pick, -1000, 1000, "which match: 0 the first, -1 the last");
      one->finish();
      if (extraction.regex.empty()) reader.fail(name.c_str(), "has no regex");
      check_pattern(extraction.regex, one->where("regex"));
      task_.extract.push_back(extraction);
    }
    reader.finish();
  }

  void perplexity() {
    mark(reader_, "", {"text", "count_from", "join", "mode"});
    int rolling = task_.rolling ? 1 : 0;
    reader_.choice("mode", rolling, FieldVisitor::Names{{"rolling", 1}, {"windows", 0}}, "each document, or one text in windows");
    task_.rolling = rolling == 1;
    reader_.text("text", task_.text, "template of a document");
    reader_.text("count_from", task_.count_from, "text whose words and bytes count");
    reader_.text("join", task_.join, "between documents");
    reader_.integer("window", task_.window, 2, 1 << 24, "tokens");
    reader_.integer("max_docs", task_.max_docs, 0, INT64_MAX, "documents; 0: all");
    reader_.integer("max_windows", task_.max_windows, 0, INT64_MAX, "windows; 0: all");
    reader_.flag("last_partial", task_.last_partial, "the last, shorter window counts too");
  }

  ConfigReader reader_;
  Task& task_;
};

// What the fields must be together.
void check(const Task& task) {
  const auto place = [&](const char* key) {
    const auto found = task.places.find(key);
    return found == task.places.end() ? task.file : found->second;
  };
  const auto require = [&](bool there, const char* key, const char* why) {
    if (!there) throw Error(ErrorKind::config, std::string("the task has no ") + key, task.file, why);
  };
  const auto parse = [&](const std::string& text, const char* key) { return Template(text, place(key)); };
  const auto path = [&](const std::string& text, const char* key) {
    if (!text.empty() && !parse(text, key).is_one_path())
      throw Error(ErrorKind::config, std::string(key) + " must be a list, or one {{path}} to a list of the rows", place(key), "write for example \"{{choices}}\"");
  };
  require(task.places.count("shape") > 0, "shape", "write shape: choice, context_choice, letter_logits, generate or perplexity");
  require(!task.set.empty(), "data.set", "write data: {set: FOLDER, eval: SPLIT}");
  require(!task.split.empty(), "data.eval", "write data: {set: FOLDER, eval: SPLIT}");
  for (const char* key : {"data.eval", "fewshot.split"}) {
    const std::string& value = key == std::string("data.eval") ? task.split : task.fewshot.split;
    if (value.find_first_of("/\\") != std::string::npos || value[0] == '.')
      throw Error(ErrorKind::config, "'" + value + "' is not the name of a split", place(key), "a split is a file's name without .jsonl");
  }
  require(!task.metrics.empty(), "metrics", "write metrics: [acc] or another");
  const bool asks_choices = task.shape == Shape::choice || task.shape == Shape::context_choice || task.shape == Shape::letter_logits;
  require(!asks_choices || !task.choices.empty(), "choices", "give a list of templates, or one {{path}} of a list in the rows");
  require(!asks_choices || !task.gold.empty() || !task.gold_mask.empty(), "gold", "say which choice is right: a number, or a template such as \"{{label}}\"");
  require((task.shape != Shape::generate && task.shape != Shape::context_choice) || !task.target.empty(), "target", "give the template of the text that is compared");
  require(task.shape != Shape::perplexity || !task.text.empty(), "text", "give the template of a document, such as \"{{text}}\"");
  const bool expands = task.set.find("{{SUBJECT}}") != std::string::npos;
  if (!expands && (!task.subjects.empty() || !task.subjects_file.empty()))
    throw Error(ErrorKind::config, "the task has subjects, but its set does not say where they lie", place("data.set"), "put {{SUBJECT}} into data.set");
  if (replaced_subject(task.set, "").find("{{") != std::string::npos) throw Error(ErrorKind::config, "data.set can have {{SUBJECT}} only, not '" + task.set + "'", place("data.set"));
  if (task.choices_are_a_path) path(task.choices[0], "choices");
  for (const std::string& choice : task.choices) parse(choice, "choices");
  path(task.gold_labels_path, "gold_labels");
  path(task.gold_mask, "gold_mask");
  const std::pair<const std::string&, const char*> templates[] = {{task.description, "description"}, {task.prompt, "prompt"}, {task.target, "target"}, {task.gold, "gold"},
                                                                  {task.group_by, "group_by"}, {task.text, "text"}, {task.count_from, "count_from"},
                                                                  {task.calibration, "calibration"}, {task.fewshot.header, "fewshot.header"}};
  for (const auto& [text, key] : templates) parse(text, key);
  if (task.fewshot.example) parse(*task.fewshot.example, "fewshot.example");
  if (task.fewshot.count > 0 && task.fewshot.split.empty() && task.fewshot.fixed.empty())
    throw Error(ErrorKind::config, "the task has shots, but no split to take them from", place("fewshot.count"), "give fewshot.split");
}

void read_layers(const ConfigSource& source, const fs::path& folder, const std::string& builtin, Task& task, int depth) {
  TaskReader reader(source, task);
  if (const std::string name = reader.include(); !name.empty()) {
    const std::string where = source.where("include", source.root()["include"]);
    if (depth == kDeepestInclude) throw Error(ErrorKind::config, "tasks include each other more than " + std::to_string(kDeepestInclude) + " deep", where, "break the circle");
    if (fs::path(name).extension() == ".yaml") {
      const fs::path file = fs::path(name).is_absolute() ? fs::path(name) : folder / name;
      if (!fs::exists(file)) throw Error(ErrorKind::config, "there is no file '" + file.string() + "' to include", where, "name a built-in task, or a file from this file's folder");
      read_layers(ConfigSource::from_file(file), file.parent_path(), "", task, depth + 1);
    } else {
      const BuiltinTaskFile* const file = builtin_task_file(name);
      if (file == nullptr) {
        const std::string nearest = nearest_name(name, task_names());
        throw Error(ErrorKind::config, "there is no task '" + name + "' to include", where, nearest.empty() ? "see `miq list tasks`" : "did you mean " + nearest + "?");
      }
      read_layers(ConfigSource::from_text(file->text, builtin_place(name)), {}, name, task, depth + 1);
    }
    // What tells one task from another is its own.
    task.names.clear();
    task.name = task.summary = task.category = task.group = "";
    if (reader.gives_data()) task.source = "";
  }
  if (reader.gives_data()) {
    task.folder = folder;
    task.data_name = builtin;
  }
  reader.read();
}

}  // namespace

std::vector<std::string> normalize_steps() { return {"strip_newlines", "strip", "lower", "no_punctuation", "no_articles", "squeeze"}; }

std::string replaced_subject(std::string text, const std::string& subject) {
  for (size_t at = 0; (at = text.find("{{SUBJECT}}", at)) != std::string::npos; at += subject.size()) text.replace(at, 11, subject);
  return text;
}

bool is_suite(const ConfigSource& source) { return source.root()["tasks"].IsDefined(); }

Task read_task_source(const ConfigSource& source, const fs::path& folder, const std::string& builtin) {
  Task task;
  task.file = source.name();
  if (is_suite(source)) throw Error(ErrorKind::config, "this is a suite, a list of tasks, not one task", source.name(), "name one of its tasks");
  read_layers(source, folder, builtin, task, 0);
  if (task.name.empty()) task.name = fs::path(source.name()).stem().string();
  if (task.shape == Shape::generate && !task.places.count("generation.until")) task.until = {task.fewshot.delimiter};
  check(task);
  return task;
}

Task read_task(const std::string& yaml, const std::string& file, const fs::path& folder) { return read_task_source(ConfigSource::from_text(yaml, file), folder.empty() ? "." : folder, ""); }

}  // namespace miq::dataset
