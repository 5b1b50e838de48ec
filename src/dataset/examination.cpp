// Questions of C-Eval and CMMLU as calibration samples, as MI-optimize makes them: per subject, the
// question and its options, without the answer.
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "jsonl.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/random.h"
#include "miq/dataset/calibration.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Wanted {
  std::string subject;
  std::int64_t count;
};

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t"), end = text.find_last_not_of(" \t");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

// "Social Sciences" and "social science" are one category.
std::string plain(std::string name) {
  for (char& c : name) c = c == '_' ? ' ' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (!name.empty() && name.back() == 's') name.pop_back();
  return name;
}

std::vector<Wanted> wanted_subjects(const CalibrationConfig& config, const std::vector<JsonlRow>& subjects, const fs::path& list) {
  std::vector<Wanted> wanted;
  std::vector<std::string> known;
  for (const auto& [subject, where] : subjects) {
    known.push_back(subject.at("subject"));
    if (config.subjects == "all" || plain(subject.value("category", "")) == plain(config.subjects)) wanted.push_back({known.back(), config.per_subject});
  }
  if (!wanted.empty()) return wanted;
  std::istringstream parts(config.subjects);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t equals = part.find('=');
    Wanted one{trimmed(part.substr(0, equals)), config.per_subject};
    if (equals != std::string::npos) {
      const std::string number = trimmed(part.substr(equals + 1));
      if (number.empty() || number.find_first_not_of("0123456789") != std::string::npos || number.size() > 9)
        throw Error(ErrorKind::config, "'" + number + "' is not a number of questions", "calibration.subjects", "write subject=12");
      one.count = std::stoll(number);
    }
    if (std::find(known.begin(), known.end(), one.subject) == known.end()) {
      const std::string nearest = nearest_name(one.subject, known);
      throw Error(ErrorKind::config, "'" + one.subject + "' is neither a subject nor a category of " + config.dataset, "calibration.subjects",
                  (nearest.empty() ? "" : "did you mean " + nearest + "? ") + ("they stand in " + list.string()));
    }
    wanted.push_back(one);
  }
  return wanted;
}

// C-Eval writes "question", CMMLU "Question".
std::string question_of(const json& row, const std::string& where) {
  const char* const key = row.contains("question") ? "question" : "Question";
  std::string text;
  try {
    text = row.at(key).get<std::string>();
    for (const char* option : {"A", "B", "C", "D"}) text += "\n" + std::string(option) + ". " + row.at(option).get<std::string>();
  } catch (const json::exception&) {
    throw Error(ErrorKind::io, "a row lacks the question or one of the options A to D", where);
  }
  return text + "\n答案：";
}

}  // namespace

bool is_examination(const std::string& dataset) { return dataset == "ceval" || dataset == "cmmlu"; }

std::vector<std::string> examination_questions(const CalibrationConfig& config, const fs::path& data_dir) {
  const fs::path folder = data_dir / config.dataset, list = folder / "subjects.jsonl";
  if (!fs::exists(list))
    throw Error(ErrorKind::io, "the set " + config.dataset + " is not on disk", list.string(), "set data_dir to the folder that holds it");
  PythonRandom random(static_cast<std::uint64_t>(config.seed));
  std::vector<std::string> questions;
  bool told = false;
  std::string missing;
  for (const Wanted& wanted : wanted_subjects(config, read_jsonl_rows(list), list)) {
    fs::path file = folder / wanted.subject / (config.split + ".jsonl");
    // CMMLU is published without val: what MI-optimize calls so was taken from its test questions.
    for (const char* other : {"test", "dev"})
      if (config.split == "val" && !fs::exists(file)) file = folder / wanted.subject / (std::string(other) + ".jsonl");
    if (!fs::exists(folder / wanted.subject)) {
      missing += (missing.empty() ? "" : ", ") + wanted.subject;
      continue;
    }
    if (!fs::exists(file))
      throw Error(ErrorKind::io, config.dataset + " has no split '" + config.split + "' of " + wanted.subject, file.string(), "splits: dev, val, test");
    if (file.stem() != config.split && !std::exchange(told, true))
      log_warning(config.dataset + " has no split " + config.split + " of " + wanted.subject + ": its questions come from " + file.stem().string() + " (the same holds for other subjects)");
    std::vector<JsonlRow> rows = read_jsonl_rows(file);
    if (config.shuffle) random.shuffle(rows);
    if (static_cast<std::int64_t>(rows.size()) < wanted.count)
      log_warning(file.string() + " has only " + std::to_string(rows.size()) + " questions, not " + std::to_string(wanted.count));
    for (size_t i = 0; i < rows.size() && static_cast<std::int64_t>(i) < wanted.count; ++i)
      questions.push_back(question_of(rows[i].value, rows[i].where));
  }
  if (questions.empty())
    throw Error(ErrorKind::io, "no question of the subjects asked for is on disk" + (missing.empty() ? "" : ": " + missing), folder.string(),
                "name other subjects, a category or all in calibration.subjects");
  if (!missing.empty()) log_warning(config.dataset + ": calibrating without subjects that are not on disk: " + missing);
  return questions;
}

}  // namespace miq::dataset
