// Metrics of generated texts.
#include <algorithm>
#include <map>

#include "metric_scores.h"
#include "miq/core/error.h"
#include "miq/dataset/python_text.h"
#include "text_metrics.h"

namespace miq::evaluator {
namespace {

using dataset::TaskDocument;

struct NormalizeStep {
  const char* name;
  std::string (*apply)(const std::string&);
};

const std::vector<NormalizeStep>& normalize_steps() {
  static const std::vector<NormalizeStep> steps = {
      {"strip_newlines", [](const std::string& text) { return dataset::strip(text, "\n"); }},
      {"strip", [](const std::string& text) { return dataset::strip(text); }},
      {"lower", [](const std::string& text) { return dataset::lower(text); }},
      {"no_punctuation", [](const std::string& text) { return dataset::remove_punctuation(text); }},
      {"no_articles", [](const std::string& text) { return dataset::substitute(R"(\b(a|an|the)\b)", " ", text); }},
      {"squeeze", [](const std::string& text) { return dataset::join(dataset::split_words(text), " "); }},
  };
  return steps;
}

std::string normalized(const dataset::Task& task, std::string text) {
  for (const std::string& name : task.normalize) {
    const auto& steps = normalize_steps();
    const auto step = std::find_if(steps.begin(), steps.end(), [&](const NormalizeStep& known) { return name == known.name; });
    if (step == steps.end()) {
      std::vector<std::string> names;
      for (const NormalizeStep& known : steps) names.emplace_back(known.name);
      const std::string nearest = nearest_name(name, names);
      throw Error(ErrorKind::config, "there is no normalize step " + name, task.file,
                  nearest.empty() ? "steps: " + dataset::join(names, ", ") : "did you mean " + nearest + "?");
    }
    text = step->apply(text);
  }
  const auto alias = task.aliases.find(text);
  return alias == task.aliases.end() ? text : alias->second;
}

// MI-optimize takes the label words of a classification as they stand; answers that people wrote are normalised like the prediction.
bool references_are_labels(const dataset::Task& task) { return task.target.find("|label(") != std::string::npos; }

// lm-eval's regex filter: the chosen match, of it the first group that is not empty.
std::string extract(const dataset::Extraction& extraction, const std::string& text) {
  const auto found = dataset::find_all(extraction.regex, text);
  const std::int64_t count = static_cast<std::int64_t>(found.size()), at = extraction.pick < 0 ? count + extraction.pick : extraction.pick;
  if (at < 0 || at >= count) return "[invalid]";
  const std::vector<std::string>& groups = found[static_cast<size_t>(at)];
  if (groups.size() == 1) return dataset::strip(groups[0]);
  for (size_t g = 1; g < groups.size(); ++g)
    if (!groups[g].empty()) return dataset::strip(groups[g]);
  return groups.size() == 2 ? std::string() : std::string("[invalid]");  // re.findall gives a lone group's text, empty or not
}

std::string without(const dataset::Task& task, std::string text) {
  for (const std::string& pattern : task.exact_match_remove) text = dataset::substitute(pattern, "", text);
  return task.exact_match_ignore_case ? dataset::lower(text) : text;
}

double matches_any(const dataset::Task& task, const std::vector<std::string>& references, const std::string& prediction) {
  const std::string said = without(task, normalized(task, prediction));
  for (const std::string& reference : references)
    if (said == without(task, references_are_labels(task) ? reference : normalized(task, reference))) return 1;
  return 0;
}

// The largest score over the references.
template <class Score>
double best(const std::vector<std::string>& references, const Score& score) {
  double most = 0;
  for (const std::string& reference : references) most = std::max(most, static_cast<double>(score(reference)));
  return most;
}

// lm-eval's form of TruthfulQA's answers: stripped, ending in a full stop.
std::vector<std::string> sentences(const std::vector<std::string>& answers) {
  std::vector<std::string> result;
  for (const std::string& answer : answers) {
    const std::string text = dataset::strip(answer);
    if (!text.empty()) result.push_back(text.back() == '.' ? text : text + ".");
  }
  return result;
}

// Whether there is something to compare with; a text there must be.
bool has_text(const Scoring& s, const Record& record) {
  if (!record.text) refuse_document(s, "exact_match, token_f1, rouge and bleu need a generated text", "use `shape: generate`, or acc of choices");
  return !record.references.empty();
}

}  // namespace

void score_exact_match(const Scoring& s, Record& record) {
  if (!has_text(s, record)) return;
  if (s.task.extract.empty()) set_value(record.metrics, "exact_match", matches_any(s.task, record.references, *record.text));
  for (const dataset::Extraction& extraction : s.task.extract) {
    const std::string found = extract(extraction, *record.text);
    set_value(record.metrics, "exact_match," + extraction.name, matches_any(s.task, record.references, found));
    record.extracted.emplace_back(extraction.name, found);
  }
}

void score_token_f1(const Scoring& s, Record& record) {
  if (!has_text(s, record)) return;
  const std::vector<std::string> said = dataset::split_words(normalized(s.task, *record.text));
  set_value(record.metrics, "token_f1", best(record.references, [&](const std::string& reference) {
              return overlap_f1(said, dataset::split_words(normalized(s.task, reference)));
            }));
}

void score_rouge(const Scoring& s, Record& record) {
  if (!has_text(s, record)) return;
  const std::vector<std::string> said = rouge_tokens(*record.text, true);
  const auto set = [&](const char* name, const auto& score) {
    if (std::find(s.task.metrics.begin(), s.task.metrics.end(), name) == s.task.metrics.end()) return;
    set_value(record.metrics, name, best(record.references, [&](const std::string& reference) { return score(rouge_tokens(reference, true)); }));
  };
  set("rouge1", [&](const auto& reference) { return rouge_n(said, reference, 1); });
  set("rouge2", [&](const auto& reference) { return rouge_n(said, reference, 2); });
  set("rougeL", [&](const auto& reference) { return rouge_l(said, reference); });
}

void score_bleu(const Scoring& s, Record& record) {
  if (!has_text(s, record)) return;
  std::vector<std::vector<std::string>> references;
  for (const std::string& reference : record.references) references.push_back(bleu_tokens_13a(reference));
  const BleuCounts counts = bleu_counts(bleu_tokens_13a(*record.text), references);
  for (size_t i = 0; i < counts.size(); ++i) set_value(record.counts, "bleu_" + std::to_string(i), counts[i]);
}

void score_truthfulness(const Scoring& s, Record& record) {
  const nlohmann::json* const false_answers = field(s.document, "incorrect_answers");
  if (false_answers == nullptr || !false_answers->is_array())
    refuse_document(s, "the metrics of true and false answers need the field `incorrect_answers`", "a list of texts");
  if (!has_text(s, record)) return;
  std::vector<std::string> wrong;
  for (const nlohmann::json& answer : *false_answers)
    if (answer.is_string()) wrong.push_back(answer.get<std::string>());
  wrong = sentences(wrong);
  std::vector<std::string> right = sentences(record.references);
  if (std::find(right.begin(), right.end(), "I have no comment.") == right.end()) right.emplace_back("I have no comment.");

  const auto set = [&](const char* name, const auto& score) { set_value(record.metrics, name, best(right, score) > best(wrong, score)); };
  const std::vector<std::string> said = rouge_tokens(*record.text, false), words = bleu_tokens_international(dataset::strip(*record.text));
  const std::string lines = dataset::replace(*record.text, " . ", ".\n");  // sentences, to the references' code
  set("bleu_acc", [&](const std::string& reference) { return bleu_score(bleu_counts(words, {bleu_tokens_international(reference)}).data()); });
  set("rouge1_acc", [&](const std::string& reference) { return rouge_n(said, rouge_tokens(reference, false), 1); });
  set("rouge2_acc", [&](const std::string& reference) { return rouge_n(said, rouge_tokens(reference, false), 2); });
  set("rougeL_acc", [&](const std::string& reference) { return rouge_l_summary(lines, dataset::replace(reference, " . ", ".\n")); });
}

}  // namespace miq::evaluator
