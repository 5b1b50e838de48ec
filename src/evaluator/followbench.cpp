// The part of FollowBench (Jiang et al. 2024) that rules can judge: the whole set of examples, and the sources below of the other sets.
#include <algorithm>
#include <map>

#include "metric_scores.h"
#include "miq/dataset/python_text.h"

namespace miq::evaluator {
namespace {

using dataset::contains_match;
using dataset::split_at;
using dataset::split_words;

std::vector<std::string> sentences(const std::string& text) {
  std::vector<std::string> result;
  for (std::string& piece : dataset::split_pattern("[.!?]", text))
    if (!piece.empty()) result.push_back(std::move(piece));
  return result;
}

bool contains_word(const std::string& text, const std::string& word) { return contains_match("\\b" + word + "\\b", text); }
bool sentence_contains(const std::string& text, size_t number, const std::string& word) {
  const std::vector<std::string> all = sentences(text);
  return all.size() >= number && contains_word(all[number - 1], word);
}
size_t words_between_blanks(const std::string& text) { return split_at(text, " ").size(); }
std::int64_t punctuation(const std::string& text) {
  std::int64_t count = 0;
  for (const char c : text) count += dataset::is_punctuation(c);
  return count;
}
template <class Test>
bool every_sentence(const std::string& text, const Test& test) {
  for (const std::string& sentence : sentences(text))
    if (!test(split_words(sentence).size())) return false;
  return true;
}
std::string last_match(const std::string& pattern, const std::string& text) {
  const auto found = dataset::find_all(pattern, text);
  return found.empty() ? std::string() : found.back()[0];
}

// The constraints of a source, in the order in which the levels add them.
using Constraint = bool (*)(const std::string&);

const std::map<std::string, std::vector<Constraint>>& constraints_of_sources() {
  using S = const std::string&;
  static const std::map<std::string, std::vector<Constraint>> table = {
      {"cnn_dailymail",
       {[](S t) { return sentences(t).size() == 3; },
        [](S t) { return every_sentence(t, [](size_t words) { return words < 15; }); },
        [](S t) { return sentence_contains(t, 1, "Potter") && sentence_contains(t, 2, "actor") && sentence_contains(t, 3, "films"); },
        [](S t) { return !sentence_contains(t, 2, "lavish"); },
        [](S t) { return sentences(t).size() >= 3 && contains_match(R"(\b(has|have)\s+\w+)", sentences(t)[2]); }}},
      {"xsum",
       {[](S t) { return sentences(t).size() == 1; },
        [](S t) { return words_between_blanks(t) < 20; },
        [](S t) { return !contains_word(t, "Newton Stewart"); },
        [](S t) { return contains_match(R"(\b(am|is|are)\s+\w+ing\b)", t); },
        [](S t) { return contains_word(t, "operation"); }}},
      {"samsum",
       {[](S t) { return sentences(t).size() == 1; },
        [](S t) { return words_between_blanks(t) < 15; },
        [](S t) { return contains_word(t, "stuff"); },
        [](S t) { return !contains_match("(?i)procrast", t); },
        [](S t) { return punctuation(t) == 1; }}},
      {"gigaword",
       {[](S t) { return words_between_blanks(t) == 8; },
        [](S t) { return punctuation(t) == 0; },
        [](S t) { return dataset::is_lower(t); },
        [](S t) { return !contains_word(t, "bus"); },
        [](S t) { return contains_word(t, "in"); }}},
      {"arxiv",
       {[](S t) { return sentences(t).size() == 1; },
        [](S t) { return words_between_blanks(t) <= 20; },
        [](S t) { return t.rfind("We", 0) == 0; },
        [](S t) { return contains_word(t, "activations"); },
        [](S t) { return !contains_word(t, "transformer"); }}},
  };
  return table;
}

bool first_constraints_hold(const std::vector<Constraint>& constraints, const std::string& text, std::int64_t level) {
  for (std::int64_t i = 0; i < level && i < static_cast<std::int64_t>(constraints.size()); ++i)
    if (!constraints[static_cast<size_t>(i)](text)) return false;
  return true;
}

// Format 22: paragraphs of fewer than three long sentences, numbered; the fifth level adds a closing one.
bool passes_format_22(const std::string& text, std::int64_t level) {
  const std::vector<std::string> paragraphs = split_at(text, "\n\n");
  if (paragraphs.size() != (level >= 5 ? 4u : 3u)) return false;
  for (size_t i = 0; level >= 2 && i < 3; ++i)
    if (sentences(paragraphs[i]).size() >= 3) return false;
  if (level >= 3 && !every_sentence(text, [](size_t words) { return words > 20; })) return false;
  for (const std::string& paragraph : paragraphs) {
    const std::string body = dataset::substitute(R"(\A\s+)", "", paragraph);
    if (level >= 4 && !body.empty() && !contains_match(R"(\A\d+\.)", body)) return false;
  }
  const std::string closing = "Those are suggestions";
  return level < 5 || (text.size() >= closing.size() && text.compare(text.size() - closing.size(), closing.size(), closing) == 0);
}

// Format 30: five bold numbered keywords, short points, sentences of 10 to 15 words, no word in "-ly".
bool passes_format_30(const std::string& text, std::int64_t level) {
  const std::vector<std::string> parts = dataset::split_pattern(R"((?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=\.|\?)\s)", text);
  bool short_points = true, lengths = true, no_suffix = true;
  for (const std::string& part : parts) {
    bool numbered = false;
    for (const char* number : {"1.", "2.", "3.", "4.", "5."}) numbered = numbered || part.find(number) != std::string::npos;
    const std::vector<std::string> words = split_words(part);
    short_points = short_points && (!numbered || split_at(part, ".").size() < 3);
    lengths = lengths && words.size() >= 10 && words.size() <= 15;
    for (const std::string& word : words) no_suffix = no_suffix && !(word.size() >= 3 && word.compare(word.size() - 3, 3, "-ly") == 0);
  }
  const bool holds[] = {text.find("**") != std::string::npos, dataset::find_all(R"(\*\*[\d].+?:)", text).size() == 5, short_points, lengths, no_suffix};
  for (std::int64_t i = 0; i < level && i < 5; ++i)
    if (!holds[i]) return false;
  return true;
}

// The strings of a Python list literal.
std::vector<std::string> python_list(const std::string& literal) {
  std::vector<std::string> result;
  for (size_t at = 0; at < literal.size(); ++at) {
    const char quote = literal[at];
    if (quote != '\'' && quote != '"') continue;
    result.emplace_back();
    for (++at; at < literal.size() && literal[at] != quote; ++at) {
      if (literal[at] == '\\' && at + 1 < literal.size()) ++at;
      result.back() += literal[at];
    }
  }
  return result;
}

// A template whose "{answer}" is any text of one line; braces are doubled in it.
bool fits_template(const std::string& target, const std::string& generation) {
  std::string form = dataset::replace(dataset::replace(target, "{instruction}\n", ""), "{{", "{");
  form = dataset::replace(dataset::replace(form, "}}", "}"), "{answer}", ".*");
  const std::vector<std::string> pieces = split_at(form, ".*");
  if (generation.empty()) return std::all_of(pieces.begin(), pieces.end(), [](const std::string& piece) { return piece.empty(); });
  std::string pattern = "\\A";
  for (size_t i = 0; i < pieces.size(); ++i) pattern += (i > 0 ? ".*" : "") + dataset::substitute(R"(([^A-Za-z0-9_\s]))", "\\\\1", pieces[i]);
  return contains_match(pattern + "\\z", generation);
}

const nlohmann::json* member(const nlohmann::json& row, const char* name) {
  return row.is_object() && row.contains(name) ? &row[name] : nullptr;
}
std::string text_of(const nlohmann::json& row, const char* name) {
  const nlohmann::json* const value = member(row, name);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}
std::int64_t number_of(const nlohmann::json& row, const char* name) {
  const nlohmann::json* const value = member(row, name);
  return value != nullptr && value->is_number_integer() ? value->get<std::int64_t>() : -1;
}

}  // namespace

std::optional<bool> followbench_passes(const nlohmann::json& row, const std::string& generation) {
  const std::string source = text_of(row, "source"), category = text_of(row, "category"), target = text_of(row, "target");
  const std::int64_t level = number_of(row, "level"), example = number_of(row, "example_id");
  if (level < 1) return std::nullopt;
  if (category == "example") return fits_template(target, generation);
  if (category == "format" && example == 22) return passes_format_22(generation, level);
  if (category == "format" && example == 30) return passes_format_30(generation, level);
  if (source == "E2E" || source == "text_editing") return generation == target;
  if (source == "WIKIEVENTS") {
    const std::vector<std::string> allowed = split_at(target, "\n");
    for (const std::string& line : split_at(generation, "\n"))
      if (std::find(allowed.begin(), allowed.end(), line) == allowed.end()) return false;
    return true;
  }
  if (source == "CONLL2003") {
    const std::vector<std::string> allowed = python_list(target);
    return std::find(allowed.begin(), allowed.end(), generation) != allowed.end();
  }
  if (source == "BBH_logical") return !target.empty() && last_match(R"(\([A-Z]\))", generation) == target;
  if (source == "BBH_time") return !target.empty() && last_match(R"(\d{2}/\d{2}/\d{4})", generation) == target;
  if (source == "gsm_8k") return !target.empty() && last_match(R"(\$\d+)", generation) == target;
  if (source == "self_made_space") return generation.find(target) != std::string::npos;
  if (const auto found = constraints_of_sources().find(source); found != constraints_of_sources().end())
    return first_constraints_hold(found->second, generation, level);
  return std::nullopt;
}

void score_followbench(const Scoring& s, Record& record) {
  const std::int64_t level = number_of(s.document.fields, "level"), example = number_of(s.document.fields, "example_id");
  if (level < 0 || example < 0 || !record.text)
    refuse_document(s, "hsr, ssr and csl need FollowBench's fields level, example_id, source, category and target and a generated text", "take other metrics");
  if (record.group.empty()) record.group = std::to_string(example);
  record.part = "level " + std::to_string(level);
  set_value(record.counts, "level", static_cast<double>(level));
  const std::optional<bool> passes = followbench_passes(s.document.fields, *record.text);
  if (!passes) return;
  set_value(record.metrics, "hsr", *passes);
  set_value(record.metrics, "ssr", *passes);  // to a rule an answer's constraints are one: it passes or not
}

}  // namespace miq::evaluator
