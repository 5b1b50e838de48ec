// What one run measured: perplexity, tasks with their errors and tests, layers, configuration.
#include <algorithm>
#include <cmath>
#include <map>

#include "document.h"
#include "figures.h"
#include "numbers.h"
#include "sections.h"
#include "svg.h"

namespace miq::executor::report {
namespace {

template <class Has>
bool any_of(const std::vector<const Score*>& scores, const Has& has) {
  return std::any_of(scores.begin(), scores.end(), [&](const Score* score) { return has(*score); });
}

std::vector<const Score*> of_kind(const std::vector<Score>& scores, const std::string& what) {
  std::vector<const Score*> all;
  for (const Score& score : scores)
    if (score.what == what) all.push_back(&score);
  return all;
}

std::string interval_text(double low, double high, bool is_signed) {
  if (std::isnan(low) || std::isnan(high)) return "–";
  return is_signed ? signed_text(low) + " to " + signed_text(high) : score_text(low) + " – " + score_text(high);
}

std::optional<Table> perplexity_table(const Run& run) {
  const std::vector<const Score*> scores = of_kind(run.scores, "perplexity");
  if (scores.empty()) return std::nullopt;
  const bool compared = any_of(scores, [](const Score& s) { return !std::isnan(s.baseline); }),
      kl = any_of(scores, [](const Score& s) { return !std::isnan(s.kl_divergence); });
  const bool intervals = any_of(scores, [](const Score& s) { return !std::isnan(s.low); });
  Table table;
  table.head = {"corpus", "split", "how", "tokens"};
  if (compared) table.head.push_back("unquantized");
  table.head.push_back(intervals ? "perplexity, 95 %" : "perplexity");
  if (compared) table.head.push_back("change");
  if (kl) table.head.insert(table.head.end(), {"KL divergence", "same next token"});
  for (const Score* score : scores) {
    std::vector<Cell> row = {Cell{short_name(score->name)}, Cell{score->split}, Cell{score->detail}, Cell{count_text(score->count)}};
    if (compared) row.push_back(score_cell(score->baseline));
    row.push_back(score_cell(score->value));
    row.back().css = "strong";
    if (intervals && !std::isnan(score->low)) row.back().note = interval_text(score->low, score->high, false);
    if (compared) row.push_back({change_text(score->value, score->baseline)});
    if (kl) row.insert(row.end(), {Cell{fixed_text(score->kl_divergence, 4)}, Cell{percent_text(score->agreement)}});
    table.rows.push_back(std::move(row));
  }
  return table;
}

// The differences of first metrics that share a scale.
std::optional<Figure> task_figure(const Run& run) {
  Intervals intervals;
  for (const Score* score : of_kind(run.scores, "task")) {
    if (!score->is_first || std::isnan(score->difference()) || !score->higher_is_better || std::abs(score->value) > 1) continue;
    const int verdict = score->verdict();
    const std::string name = short_name(score->name) + ", " + score->metric + (score->shots > 0 ? ", " + counted(score->shots, "shot") : "");
    const std::string p = std::isnan(score->corrected()) ? "" : (std::isnan(score->p_value_holm) ? "; p " : "; p after Holm's correction ") +
        chance_text(score->corrected());
    intervals.rows.push_back({name, signed_text(score->difference()) + (verdict == 0 ? "" : " " + verdict_sign(verdict)),
                              name + ": " + score_text(score->baseline) + " to " + score_text(score->value) + ", difference " +
                                  signed_text(score->difference()) + ", 95 % " +
                                  interval_text(score->difference_low, score->difference_high, true) + p,
                              score->difference(), score->difference_low, score->difference_high, verdict});
  }
  if (intervals.rows.empty()) return std::nullopt;
  intervals.label = "Difference of each task from the unquantized model, with 95 % intervals";
  intervals.left = "worse";
  intervals.right = "better";
  return Figure{"Difference from the unquantized model", draw(intervals), {},
      "Bars are paired 95 % intervals. ▼ and ▲, full: significant at 5 % after Holm's correction; hollow: not shown to differ."};
}

// Rows for each metric; what holds for all of a task's stands in its first.
std::optional<Table> score_table(const std::vector<const Score*>& scores, const std::string& first_column) {
  if (scores.empty()) return std::nullopt;
  const bool compared = any_of(scores, [](const Score& s) { return !std::isnan(s.baseline); }),
      tested = any_of(scores, [](const Score& s) { return !std::isnan(s.p_value); });
  const bool corrected = any_of(scores, [](const Score& s) { return !std::isnan(s.p_value_holm); }), flips = any_of(scores, [](const Score& s) { return s.flips >= 0; });
  const bool differences = any_of(scores, [](const Score& s) { return !std::isnan(s.difference_low); }),
      intervals = any_of(scores, [](const Score& s) { return !std::isnan(s.low); });
  const bool same = any_of(scores, [](const Score& s) { return !std::isnan(s.agreement); }),
      kl = any_of(scores, [](const Score& s) { return !std::isnan(s.kl_divergence); });
  Table table;
  table.head = {first_column, "shots", scores.front()->what == "mean" ? "sets" : "documents", "metric"};
  if (compared) table.head.push_back("unquantized");
  table.head.insert(table.head.end(), {intervals ? "value, 95 %" : "value", "std. error"});
  if (compared) table.head.push_back(differences ? "change, 95 %" : "change");
  if (tested) table.head.push_back("p");
  if (corrected) table.head.push_back("p (Holm)");
  if (flips) table.head.push_back("flips");
  if (same) table.head.push_back("same answers");
  if (kl) table.head.push_back("KL divergence");
  for (const Score* score : scores) {
    const int verdict = score->verdict();
    std::vector<Cell> row = {Cell{short_name(score->name)}, Cell{score->shots < 0 ? "–" : std::to_string(score->shots)}, Cell{count_text(score->count)},
        Cell{score->metric}};
    if (compared) row.push_back(score_cell(score->baseline));
    row.push_back(score_cell(score->value));
    row.back().css = "strong";
    if (intervals && !std::isnan(score->low)) row.back().note = interval_text(score->low, score->high, false);
    row.push_back(score_cell(score->standard_error));
    if (compared) {
      Cell change{signed_text(score->difference())};
      if (!std::isnan(score->difference_low)) change.note = interval_text(score->difference_low, score->difference_high, true);
      if (verdict != 0) {
        change.text += " " + verdict_sign(verdict);
        change.css = verdict < 0 ? "bad" : "good";
        change.title = verdict < 0 ? "significantly worse" : "significantly better";
      }
      row.push_back(std::move(change));
    }
    if (tested) row.push_back(chance_cell(score->p_value));
    if (corrected) row.push_back(chance_cell(score->p_value_holm));
    if (flips) row.push_back({count_text(score->flips)});
    if (same) row.push_back({percent_text(score->agreement)});
    if (kl) row.push_back({fixed_text(score->kl_divergence, 4)});
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::vector<Block> task_blocks(const Run& run) {
  std::vector<Block> blocks;
  if (std::optional<Figure> figure = task_figure(run)) blocks.push_back(Figures{{std::move(*figure)}});
  const std::vector<const Score*> tasks = of_kind(run.scores, "task");
  if (std::optional<Table> table = score_table(tasks, "task")) {
    blocks.push_back(std::move(*table));
    if (any_of(tasks, [](const Score& s) { return !std::isnan(s.corrected()); }))
      blocks.push_back(Words{"p: how often so large a difference would come by chance if quantizing changed nothing. Holm's correction takes all first metrics of the run together; ▼ and ▲ mark what is then below 5 %.", true});
  }
  for (const auto& [what, caption, column] : {std::tuple("group", "Tasks taken together", "group"), std::tuple("mean", "Means by category", "category")})
    if (std::optional<Table> table = score_table(of_kind(run.scores, what), column)) {
      table->caption = caption;
      blocks.push_back(std::move(*table));
    }
  for (const auto& [what, title] : {std::pair("category", "By category"), std::pair("part", "By part of the data"), std::pair("subject", "By subject")})
    if (std::optional<Table> table = score_table(of_kind(run.parts, what), what)) blocks.push_back(Fold{title, "", {std::move(*table)}});
  return blocks;
}

Fold config_fold(const Run& run) {
  return Fold{"Configuration, with every default", "", {Words{"JSON is YAML: saved as a file, this is what --config takes.", true}, Listing{run.config}}};
}

std::string run_line(const Run& run) {
  std::string text = run.model;
  if (run.quantization) {
    if (!run.quantization->method.empty()) text += ": " + run.quantization->method;
    text += "; " + fixed_text(run.quantization->bits_per_weight, 2) + " bits a weight, " + bytes_text(run.weight_bytes()) + " in all, quantized in " +
        seconds_text(run.quantization->seconds) + ".";
  } else {
    text += ": scored as it is.";
  }
  return text;
}

}  // namespace

std::string run_id(size_t run) { return "run-" + std::to_string(run + 1); }

std::vector<Section> detail_sections(const Study& study) {
  std::vector<Section> sections;
  if (study.runs.size() == 1) {
    const Run& run = study.runs.front();
    if (std::optional<Table> table = perplexity_table(run)) sections.push_back({"perplexity", "Perplexity", {std::move(*table)}});
    if (std::vector<Block> blocks = task_blocks(run); !blocks.empty()) sections.push_back({"tasks", "Tasks", std::move(blocks)});
    if (std::vector<Block> blocks = layer_blocks(run); !blocks.empty()) sections.push_back({"layers", "Layers", std::move(blocks)});
    sections.push_back({"configuration", "Configuration", {config_fold(run)}});
    return sections;
  }
  if (std::optional<Section> layers = layer_comparison(study)) sections.push_back(std::move(*layers));
  Section each{"each", "Each run", {}};
  for (size_t r = 0; r < study.runs.size(); ++r) {
    const Run& run = study.runs[r];
    Fold fold{run.name, run_id(r), {Words{run_line(run)}}};
    if (std::optional<Table> table = perplexity_table(run)) fold.blocks.push_back(std::move(*table));
    for (std::vector<Block> blocks : {task_blocks(run), layer_blocks(run)}) fold.blocks.insert(fold.blocks.end(), blocks.begin(), blocks.end());
    fold.blocks.push_back(config_fold(run));
    each.blocks.push_back(std::move(fold));
  }
  sections.push_back(std::move(each));
  return sections;
}

}  // namespace miq::executor::report
