// Several runs side by side: size against quality, the table of all runs, their tasks.
#include <algorithm>
#include <cmath>
#include <set>

#include "document.h"
#include "figures.h"
#include "numbers.h"
#include "sections.h"
#include "svg.h"

namespace miq::executor::report {
namespace {

// The axis whose values are told by colour and shape: the method, or the first with few values; null where there is none.
const Axis* colour_axis(const Study& study) {
  const auto fits = [](const Axis& axis) { return axis.values.size() > 1 && axis.values.size() <= kSeries; };
  if (study.axes.size() < 2) return nullptr;
  for (const Axis& axis : study.axes)
    if (short_key(axis.key) == "preset" && fits(axis)) return &axis;
  const auto found = std::find_if(study.axes.begin(), study.axes.end(), fits);
  return found == study.axes.end() ? nullptr : &*found;
}

int series_of(const Run& run, const Axis* axis) {
  if (axis == nullptr) return 0;
  for (const auto& [key, value] : run.settings)
    if (key == axis->key) return static_cast<int>(std::find(axis->values.begin(), axis->values.end(), value) - axis->values.begin()) % kSeries;
  return 0;
}

// The run's settings, as short as they can be told apart.
std::string point_label(const Study& study, const Run& run, const Axis* axis) {
  if (run.settings.empty()) return run.name;
  std::string label;
  for (const auto& [key, value] : run.settings) {
    const std::string name = short_key(key);
    const bool is_plain = study.axes.size() == 1 || (axis != nullptr && key == axis->key);
    label += (label.empty() ? "" : ", ") + (name == "bits" ? value + " bits" : is_plain ? value : name + " " + value);
  }
  return label.empty() ? run.name : label;
}

std::vector<bool> optimal(const Study& study, const Measure& measure) {
  bool is_bytes = false;
  const std::vector<double> size = sizes(study, is_bytes);
  std::vector<std::pair<double, double>> points;
  for (size_t r = 0; r < size.size(); ++r) points.emplace_back(size[r], measure.higher_is_better ? -measure.values[r] : measure.values[r]);
  return pareto_optimal(points);
}

// Whether runs differ in size at all.
bool trades(const Study& study) {
  bool is_bytes = false;
  std::set<double> different;
  for (const double size : sizes(study, is_bytes))
    if (!std::isnan(size)) different.insert(size);
  return different.size() > 1;
}

std::optional<Figure> trade_off(const Study& study, const Measure& measure) {
  const Axis* axis = colour_axis(study);
  Scatter scatter;
  const std::vector<double> size = sizes(study, scatter.x_is_bytes);
  const std::vector<bool> best = optimal(study, measure);
  scatter.x_name = scatter.x_is_bytes ? "all weights (less is better)" : "bits per weight (fewer is better)";
  scatter.y_name = measure.name + (measure.higher_is_better ? " (higher is better)" : " (lower is better)");
  scatter.higher_is_better = measure.higher_is_better;
  if (!measure.higher_is_better && measure.baselines.size() == 1) scatter.origin = measure.baselines[0].first;
  scatter.joins_series = axis != nullptr && study.axes.size() == 2;
  std::set<int> used;
  std::vector<std::string> names;
  for (size_t r = 0; r < study.runs.size(); ++r) {
    if (std::isnan(size[r]) || std::isnan(measure.values[r])) continue;
    const Run& run = study.runs[r];
    const int series = series_of(run, axis);
    used.insert(series);
    const std::string at = scatter.x_is_bytes ? bytes_text(size[r]) : fixed_text(size[r], 2) + " bits a weight";
    const bool is_labelled = best[r] || (axis == nullptr && study.runs.size() <= 12);
    scatter.points.push_back({size[r], measure.values[r], series, best[r], is_labelled ? point_label(study, run, axis) : "",
        run.name + ": " + score_text(measure.values[r]) + " at " + at + (best[r] ? ", Pareto-optimal" : "")});
    if (best[r]) names.push_back(run.name);
  }
  if (scatter.points.size() < 2 || !trades(study)) return std::nullopt;
  for (const auto& [value, whose] : measure.baselines)
    scatter.references.emplace_back(value, "unquantized " + (whose.empty() ? "" : shortened(whose, 24) + " ") + score_text(value));
  scatter.label = measure.title() + " against " + (scatter.x_is_bytes ? "size" : "bits per weight") + " of " +
      counted(static_cast<std::int64_t>(scatter.points.size()), "run") + "; Pareto-optimal: " + listed(names, 12);
  Figure figure{measure.title(), draw(scatter), {}, ""};
  if (axis != nullptr)
    for (const int series : used) figure.legend.emplace_back(legend_mark(series), axis->values[static_cast<size_t>(series)]);
  figure.note = "Full marks are Pareto-optimal: no other run is as small and as good, or better. " + std::string(names.size() == 1 ? "It is " : "They are ") +
      listed(names, 8) + ".";
  return figure;
}

std::string run_verdicts(const Run& run) {
  std::int64_t tests = 0, worse = 0, better = 0;
  for (const Score& score : run.scores) {
    if (score.what != "task" || !score.is_first || std::isnan(score.corrected())) continue;
    ++tests;
    worse += score.verdict() < 0 ? 1 : 0;
    better += score.verdict() > 0 ? 1 : 0;
  }
  if (tests == 0) return "–";
  if (worse + better == 0) return "none of " + std::to_string(tests);
  std::string text;
  if (worse > 0) text += std::to_string(worse) + " ▼";
  if (better > 0) text += (text.empty() ? "" : ", ") + std::to_string(better) + " ▲";
  return text + " of " + std::to_string(tests);
}

// Where there are several runs, each has a place of its own.
std::string link_to(const Study& study, size_t run) { return study.runs.size() > 1 ? run_id(run) : ""; }

std::string measure_note(const Measure& measure, size_t run) {
  if (measure.baselines.size() != 1 || std::isnan(measure.values[run])) return "";
  const double before = measure.baselines[0].first;
  return measure.higher_is_better ? signed_text(measure.values[run] - before) : change_text(measure.values[run], before);
}

Table runs_table(const Study& study) {
  const std::vector<Measure> all = measures(study);
  const bool several_models = models_of(study) != study.runs.front().model;
  const auto any = [&](const auto& has) { return std::any_of(study.runs.begin(), study.runs.end(), has); };
  const bool settings = any([](const Run& run) {  // that the names do not tell
    return std::any_of(run.settings.begin(), run.settings.end(), [&](const auto& setting) { return run.name.find(setting.second) == std::string::npos; });
  });
  const bool quantized = any([](const Run& run) { return run.quantization.has_value(); });
  const bool tested = any([](const Run& run) { return run_verdicts(run) != "–"; });
  const bool events = any([](const Run& run) { return !run.events.empty(); }), gates = any([](const Run& run) { return !run.gates.empty(); });
  std::vector<bool> best;
  if (any([](const Run& run) { return run.is_pareto; }))
    for (const Run& run : study.runs) best.push_back(run.is_pareto);
  else if (!all.empty() && trades(study)) best = optimal(study, all.front());
  Table table;
  table.head = {"run"};
  if (several_models) table.head.push_back("model");
  if (settings)
    for (const Axis& axis : study.axes) table.head.push_back(short_key(axis.key));
  if (quantized) table.head.insert(table.head.end(), {"bits per weight", "weights"});
  for (const Measure& measure : all) table.head.push_back(measure.name);
  if (tested) table.head.push_back("significant tasks");
  if (quantized) table.head.insert(table.head.end(), {"quantizing", "peak memory"});
  if (events) table.head.push_back("events");
  if (gates) table.head.push_back("gates met");
  for (size_t r = 0; r < study.runs.size(); ++r) {
    const Run& run = study.runs[r];
    const bool is_best = r < best.size() && best[r];
    std::vector<Cell> row = {Cell{run.name, is_best ? "● Pareto-optimal" : "", is_best ? "best" : "", "", link_to(study, r)}};
    if (several_models) row.push_back({run.model});
    if (settings)
      for (const Axis& axis : study.axes) {
        const auto own = std::find_if(run.settings.begin(), run.settings.end(), [&](const auto& s) { return s.first == axis.key; });
        row.push_back({own == run.settings.end() ? "–" : own->second});
      }
    if (quantized) {
      row.push_back({run.quantization ? fixed_text(run.quantization->bits_per_weight, 2) : "–"});
      row.push_back(bytes_cell(run.weight_bytes()));
    }
    for (const Measure& measure : all) {
      row.push_back(score_cell(measure.values[r]));
      row.back().note = measure_note(measure, r);
    }
    if (tested) row.push_back({run_verdicts(run)});
    if (quantized) {
      row.push_back(seconds_cell(run.quantization ? run.quantization->seconds : kUnknown));
      row.push_back(bytes_cell(run.quantization ? run.quantization->peak_bytes : kUnknown));
    }
    if (events) row.push_back({count_text(static_cast<std::int64_t>(run.events.size()))});
    if (gates) {
      const auto met = std::count_if(run.gates.begin(), run.gates.end(), [](const Gate& gate) { return gate.met; });
      row.push_back({run.gates.empty() ? "–" : count_text(met) + " of " + std::to_string(run.gates.size())});
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

// Each run's first metrics beside each other; shades by the difference from the unquantized model.
std::optional<Table> tasks_table(const Study& study, double& most) {
  std::vector<const Score*> columns;
  for (const Score* score : distinct_scores(study.runs, "task"))
    if (score->is_first) columns.push_back(score);
  if (columns.empty()) return std::nullopt;
  most = 0;
  for (const Run& run : study.runs)
    for (const Score* column : columns)
      if (const Score* score = run.find(column->key()); score != nullptr && score->value >= -1 && score->value <= 1 &&
          !std::isnan(score->difference())) most = std::max(most, std::abs(score->difference()));
  Table table;
  table.is_map = true;
  table.legend = shade_legend(most, true);
  table.head = {"run"};
  const auto named = [](const Score* column) {
    return short_name(column->name) + ", " + column->metric + (column->shots > 0 ? ", " + counted(column->shots, "shot") : "");
  };
  for (const Score* column : columns) {
    const bool is_twin = std::count_if(columns.begin(), columns.end(), [&](const Score* other) { return named(other) == named(column); }) > 1;
    table.head.push_back(named(column) + (is_twin ? ", " + column->split + ", " + counted(column->count, "document") : ""));
  }
  for (size_t r = 0; r < study.runs.size(); ++r) {
    table.rows.push_back({Cell{study.runs[r].name, "", "", "", link_to(study, r)}});
    for (const Score* column : columns) {
      const Score* score = study.runs[r].find(column->key());
      Cell cell{score == nullptr ? "–" : score_text(score->value)};
      if (score != nullptr && !std::isnan(score->difference())) {
        cell.note = signed_text(score->difference()) + (score->verdict() != 0 ? " " + verdict_sign(score->verdict()) : "");
        const bool on_scale = score->value >= -1 && score->value <= 1;
        cell.css = on_scale ? shade(score->higher_is_better ? score->difference() : -score->difference(), most) : "";
        cell.title = "unquantized " + score_text(score->baseline) + ", p " + chance_text(score->p_value) + (std::isnan(score->p_value_holm) ? ""
            : ", after Holm's correction " + chance_text(score->p_value_holm));
      }
      table.rows.back().push_back(std::move(cell));
    }
  }
  return table;
}

}  // namespace

std::vector<double> sizes(const Study& study, bool& is_bytes) {
  std::set<double> parameters;
  for (const Run& run : study.runs)
    if (run.quantization) parameters.insert(run.parameters);
  is_bytes = parameters.size() > 1;
  std::vector<double> all;
  for (const Run& run : study.runs) all.push_back(!run.quantization ? kUnknown : is_bytes ? run.weight_bytes() : run.quantization->bits_per_weight);
  return all;
}

std::vector<Measure> measures(const Study& study) {
  std::vector<Measure> all;
  const auto add_baseline = [](Measure& measure, double value, const Run& run) {
    const auto same = [&](const auto& known) { return std::abs(known.first - value) <= 1e-9 * std::abs(value); };
    if (!std::isnan(value) && std::none_of(measure.baselines.begin(), measure.baselines.end(), same)) measure.baselines.emplace_back(value, run.model);
  };
  for (const Score* score : distinct_scores(study.runs, "perplexity")) {
    if (all.size() == 3) break;
    Measure measure{"perplexity, " + short_name(score->name), false, {}, {}, false};
    const bool is_twin = std::any_of(all.begin(), all.end(), [&](const Measure& other) { return other.name == measure.name; });
    if (is_twin) measure.name += " (" + score->split + ", " + score->detail + ")";
    for (const Run& run : study.runs) {
      const Score* own = run.find(score->key());
      measure.values.push_back(own == nullptr ? kUnknown : own->value);
      if (own != nullptr) add_baseline(measure, own->baseline, run);
    }
    all.push_back(std::move(measure));
  }
  if (const std::vector<std::string> tasks = common_tasks(study.runs); !tasks.empty()) {
    Measure measure{"mean over " + counted(static_cast<std::int64_t>(tasks.size()), "task"), true, {}, {}, false};
    measure.is_task = tasks.size() == 1;
    if (measure.is_task)
      for (const Score* score : distinct_scores(study.runs, "task"))
        if (score->key() == tasks[0]) measure.name = short_name(score->name) + ", " + score->metric;
    for (const Run& run : study.runs) {
      measure.values.push_back(mean_score(run, tasks, false));
      add_baseline(measure, mean_score(run, tasks, true), run);
    }
    all.push_back(std::move(measure));
  }
  for (Measure& measure : all)
    if (measure.baselines.size() == 1) measure.baselines[0].second.clear();
  return all;
}

std::optional<Section> trade_off_section(const Study& study) {
  Figures figures;
  for (const Measure& measure : measures(study))
    if (std::optional<Figure> figure = trade_off(study, measure)) figures.figures.push_back(std::move(*figure));
  if (figures.figures.empty()) return std::nullopt;
  return Section{"trade-off", "Size against quality", {std::move(figures)}};
}

std::optional<Section> runs_section(const Study& study) {
  if (study.runs.size() + study.missing.size() < 2) return std::nullopt;
  Section section{"runs", "All runs", {}};
  section.blocks.push_back(runs_table(study));
  if (!study.missing.empty()) {
    Table missing;
    missing.caption = "Missing";
    missing.head = {"run", "why"};
    for (const Missing& item : study.missing) missing.rows.push_back({Cell{item.name}, Cell{item.reason}});
    section.blocks.push_back(missing);
  }
  double most = 0;
  if (std::optional<Table> tasks = tasks_table(study, most)) {
    tasks->caption = "Tasks of each run";
    section.blocks.push_back(std::move(*tasks));
    if (most > 0) section.blocks.push_back(shade_note(""));
  }
  return section;
}

}  // namespace miq::executor::report
