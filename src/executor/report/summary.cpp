// The report in words, for someone who did not make the runs.
#include <algorithm>
#include <cmath>
#include <set>

#include "document.h"
#include "numbers.h"
#include "sections.h"

namespace miq::executor::report {
namespace {

// The run's own first metrics that were tested, by verdict.
std::vector<const Score*> tested(const Run& run) {
  std::vector<const Score*> all;
  for (const Score& score : run.scores)
    if (score.what == "task" && score.is_first && !std::isnan(score.corrected())) all.push_back(&score);
  return all;
}

std::vector<std::string> named(const std::vector<const Score*>& scores, int verdict) {
  std::vector<std::string> names;
  for (const Score* score : scores)
    if (score->verdict() == verdict) names.push_back(short_name(score->name) + " (" + score->metric + " " + score_text(score->baseline) + " to " +
        score_text(score->value) + ")");
  return names;
}

std::string tasks_in_words(const Run& run) {
  const std::vector<const Score*> all = tested(run);
  if (all.empty()) return "";
  const std::vector<std::string> worse = named(all, -1), better = named(all, 1);
  const auto count = static_cast<std::int64_t>(all.size());
  std::string text = count == 1 ? "One task was compared with the unquantized model, answer by answer. "
      : counted(count, "task") + " were compared with the unquantized model, answer by answer. ";
  const std::string level = count == 1 ? "at 5 %" : "at 5 % with all of them taken together (Holm's correction)";
  if (worse.empty() && better.empty()) return text + "No difference is significant " + level +
      ". That is not a proof that there is none: the intervals say how large it may be.";
  if (!worse.empty()) text += "Significantly worse " + level + ": " + listed(worse, 6) + ". ";
  else text += "None is significantly worse " + level + ". ";
  if (!better.empty()) text += "Significantly better: " + listed(better, 6) + ". ";
  if (const auto rest = count - static_cast<std::int64_t>(worse.size() + better.size()); rest > 0)
    text += rest == 1 ? "The other one is not shown to differ." : "The other " + count_text(rest) + " are not shown to differ.";
  return text;
}

std::string gates_in_words(const std::vector<Run>& runs) {
  std::int64_t gates = 0, missed = 0;
  for (const Run& run : runs)
    for (const Gate& gate : run.gates) {
      ++gates;
      missed += gate.met ? 0 : 1;
    }
  if (gates == 0) return "";
  if (missed == 0) return gates == 1 ? "The quality gate was met." : "All " + counted(gates, "quality gate") + " were met.";
  return count_text(missed) + " of " + counted(gates, "quality gate") + (missed == 1 ? " was" : " were") + " not met.";
}

std::string events_in_words(const std::vector<Run>& runs) {
  std::int64_t count = 0;
  std::set<std::string> codes;
  for (const Run& run : runs)
    for (const Event& event : run.events) {
      ++count;
      codes.insert(event.code);
    }
  if (count == 0) return "";
  return counted(count, "event") + " out of the ordinary " + (count == 1 ? "was" : "were") + " noted: " + listed({codes.begin(), codes.end()}, 5) + ".";
}

std::string missing_in_words(const Study& study) {
  if (study.missing.empty()) return "";
  std::vector<std::string> names;
  for (const Missing& missing : study.missing) names.push_back(missing.name);
  return (names.size() == 1 ? "One run is missing, because it did not finish: " : counted(static_cast<std::int64_t>(names.size()),
      "run") + " are missing, because they did not finish: ") + listed(names, 6) + ".";
}

std::string model_in_words(const Run& run) {
  std::string text = run.model.empty() ? "The model" : run.model;
  if (!run.family.empty()) text += ", a model of the " + run.family + " family" + (run.parameters > 0 ? " with " + large_count_text(run.parameters) + " parameters" : "");
  return text + ",";
}

std::vector<std::string> single_run_in_words(const Run& run) {
  std::vector<std::string> words;
  if (run.quantization) {
    const Quantization& q = *run.quantization;
    std::string text = model_in_words(run) + " was quantized" + (q.method.empty() ? "" : ": " + q.method) + ". ";
    if (q.bits_per_weight > 0) {
      text += "A quantized weight takes " + fixed_text(q.bits_per_weight, 2) + " bits, scales and all";
      if (const double before = run.original_linear_bytes(); before > 0 && q.bytes > 0)
        text += "; these layers take " + bytes_text(q.bytes) + " instead of " + bytes_text(before) + ", " + fixed_text(before / q.bytes, 1) +
            " times less, and the whole model " + bytes_text(run.weight_bytes()) +
                " instead of " + bytes_text(run.model_bytes);
      text += ". ";
    }
    if (!std::isnan(q.seconds)) text += "Quantizing took " + seconds_text(q.seconds) + (q.peak_bytes > 0 ? " and " + bytes_text(q.peak_bytes) + " of memory"
        : "") + (run.device.empty() ? "" : " on " + run.device) + ".";
    words.push_back(text);
  } else {
    words.push_back(model_in_words(run) + " was scored as it is; nothing was quantized in this run.");
  }
  for (const Score& score : run.scores) {
    if (score.what != "perplexity" || std::isnan(score.value)) continue;
    const std::string where = "Perplexity on " + short_name(score.name) + " (how surprised the model is by text; lower is better) ";
    if (std::isnan(score.baseline)) words.push_back(where + "is " + score_text(score.value) + ".");
    else
      words.push_back(where + "went from " + score_text(score.baseline) + " to " + score_text(score.value) + " (" + change_text(score.value, score.baseline) + ")" +
                      (std::isnan(score.agreement) ? "." : "; in " + percent_text(score.agreement) + " of places the likeliest next token is still the same."));
  }
  words.push_back(tasks_in_words(run));
  return words;
}

// "preset (rtn, gptq) and bits (4, 3)".
std::string axes_in_words(const Study& study) {
  std::vector<std::string> axes;
  for (const Axis& axis : study.axes) axes.push_back(short_key(axis.key) + " (" + listed(axis.values, 8) + ")");
  return axes.empty() ? "" : ", which differ in " + listed(axes, 6);
}

// Of one figure of all runs: what the unquantized model has, which run is nearest, which is smallest.
std::string figure_in_words(const Study& study, const std::string& what, bool higher_is_better, double baseline, const std::vector<double>& values) {
  size_t best = values.size(), smallest = values.size();
  for (size_t r = 0; r < values.size(); ++r) {
    if (std::isnan(values[r])) continue;
    if (best == values.size() || (higher_is_better ? values[r] > values[best] : values[r] < values[best])) best = r;
    const auto bits = [&](size_t run) { return study.runs[run].quantization->bits_per_weight; };
    const auto is_better = [&](size_t a, size_t b) { return higher_is_better ? values[a] > values[b] : values[a] < values[b]; };
    if (study.runs[r].quantization && (smallest == values.size() || bits(r) < bits(smallest) || (bits(r) == bits(smallest) && is_better(r, smallest)))) smallest = r;
  }
  if (best == values.size()) return "";
  const auto told = [&](size_t r) {
    const Run& run = study.runs[r];
    return run.name + " with " + score_text(values[r]) + (std::isnan(baseline) ? "" : " (" + (higher_is_better ? signed_text(values[r] - baseline)
        : change_text(values[r], baseline)) + ")") +
           (run.quantization ? " at " + fixed_text(run.quantization->bits_per_weight, 2) + " bits a weight" : "");
  };
  std::string text = what + (higher_is_better ? " (higher is better): " : " (lower is better): ");
  if (!std::isnan(baseline)) text += "the unquantized model has " + score_text(baseline) + ". ";
  text += std::isnan(baseline) ? "best is " : "Best is ";
  text += told(best);
  if (smallest != values.size() && study.runs[smallest].quantization->bits_per_weight < (study.runs[best].quantization
      ? study.runs[best].quantization->bits_per_weight : INFINITY) && smallest != best) text += "; the smallest is " + told(smallest);
  return text + ".";
}

// What the runs save and took: the least and the most.
std::string cost_in_words(const Study& study, double original_bytes) {
  std::vector<double> bytes, seconds, memory;
  for (const Run& run : study.runs) {
    if (!run.quantization) continue;
    bytes.push_back(run.weight_bytes());
    seconds.push_back(run.quantization->seconds);
    memory.push_back(run.quantization->peak_bytes);
  }
  const auto range = [](std::vector<double> values, std::string (*written)(double)) {
    values.erase(std::remove_if(values.begin(), values.end(), [](double value) { return std::isnan(value); }), values.end());
    if (values.empty()) return std::string();
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    const std::string low = written(*least), high = written(*most);
    return low == high ? low : low + " to " + high;
  };
  const std::string size = range(bytes, bytes_text), time = range(seconds, seconds_text), peak = range(memory, bytes_text);
  std::string text;
  if (!size.empty()) text = "Quantized, all weights take " + size + (original_bytes > 0 ? " instead of " + bytes_text(original_bytes) : "") + ". ";
  if (!time.empty()) text += "Quantizing took " + time + (peak.empty() ? "" : " and " + peak + " of memory") + ".";
  return text;
}

std::vector<std::string> comparison_in_words(const Study& study) {
  const auto count = static_cast<std::int64_t>(study.runs.size());
  const Run& first = study.runs.front();
  const bool one_model = std::all_of(study.runs.begin(), study.runs.end(), [&](const Run& run) { return run.model == first.model && run.parameters == first.parameters; });
  std::vector<std::string> words;
  const bool is_sweep = !study.axes.empty() || !study.matrices.empty();
  std::string text = counted(count, is_sweep ? "variant" : "run") + " of " + (one_model ? first.model : models_of(study)) + axes_in_words(study) + " are compared.";
  if (one_model && first.parameters > 0) text += " The model, of the " + first.family + " family, has " + large_count_text(first.parameters) + " parameters.";
  words.push_back(text);
  words.push_back(cost_in_words(study, one_model ? first.model_bytes : kUnknown));
  for (const Measure& measure : measures(study)) words.push_back(figure_in_words(study, measure.title(), measure.higher_is_better,
      measure.baselines.size() == 1 ? measure.baselines[0].first : kUnknown, measure.values));
  std::vector<std::string> hurt, unhurt;
  for (const Run& run : study.runs) {
    const std::vector<const Score*> all = tested(run);
    if (all.empty()) continue;
    (named(all, -1).empty() ? unhurt : hurt).push_back(run.name);
  }
  if (!hurt.empty() || !unhurt.empty()) {
    const auto of = static_cast<std::int64_t>(hurt.size() + unhurt.size());
    text = hurt.empty() ? "In no run is a task significantly worse than unquantized" : "In " + count_text(static_cast<std::int64_t>(hurt.size())) + " of " +
        counted(of, "run") + " at least one task is significantly worse than unquantized";
    text += " (at 5 %, Holm's correction over each run's tasks).";
    if (!hurt.empty() && !unhurt.empty()) text += " Not shown to be worse on any: " + listed(unhurt, 6) + ".";
    words.push_back(text);
  }
  for (const Matrix& matrix : study.matrices)
    if (const std::string told = matrix_in_words(matrix); !told.empty()) words.push_back((matrix.title.empty() ? "" : matrix.title + ": ") + told);
  if (words.size() > 12) words.resize(12);
  return words;
}

void add_score_fact(Facts& facts, const Score& score) {
  Facts::Fact fact{short_name(score.name) + " " + score.metric, score_text(score.value), "", score.verdict()};
  if (!std::isnan(score.baseline)) fact.beside = (score.what == "perplexity" ? change_text(score.value, score.baseline) : signed_text(score.difference())) +
      ", was " + score_text(score.baseline);
  facts.facts.push_back(fact);
}

Facts facts_of(const Run& run) {
  Facts facts;
  if (run.quantization) {
    const Quantization& q = *run.quantization;
    facts.facts.push_back({"bits per weight", fixed_text(q.bits_per_weight, 2), q.method});
    if (const double before = run.original_linear_bytes(); before > 0) facts.facts.push_back({"weights", bytes_text(run.weight_bytes()), "were " +
        bytes_text(run.model_bytes)});
  } else {
    facts.facts.push_back({"parameters", large_count_text(run.parameters), "not quantized here"});
  }
  size_t scores = 0;
  for (const Score& score : run.scores)
    if (score.is_first && (score.what == "perplexity" || score.what == "task") && ++scores <= 4) add_score_fact(facts, score);
  if (run.quantization) facts.facts.push_back({"quantizing took", seconds_text(run.quantization->seconds), bytes_text(run.quantization->peak_bytes) + " of memory"});
  return facts;
}

}  // namespace

std::optional<Section> summary_section(const Study& study) {
  Section section{"summary", "Summary", {}};
  const bool single = study.runs.size() == 1 && study.matrices.empty();
  if (single) section.blocks.push_back(facts_of(study.runs.front()));
  std::vector<std::string> words = single ? single_run_in_words(study.runs.front()) : comparison_in_words(study);
  for (const std::string& more : {gates_in_words(study.runs), events_in_words(study.runs), missing_in_words(study)}) words.push_back(more);
  words.erase(std::remove(words.begin(), words.end(), ""), words.end());
  section.blocks.push_back(Bullets{words});
  return section;
}

}  // namespace miq::executor::report
