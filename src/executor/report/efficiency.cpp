// What quantizing took, and what it saves.
#include <algorithm>
#include <cmath>

#include "document.h"
#include "figures.h"
#include "numbers.h"
#include "sections.h"
#include "svg.h"

namespace miq::executor::report {
namespace {

std::vector<std::string> phases_of(const Study& study) {
  std::vector<std::string> phases;
  for (const Run& run : study.runs)
    if (run.quantization)
      for (const auto& phase : run.quantization->phases)
        if (std::find(phases.begin(), phases.end(), phase.first) == phases.end()) phases.push_back(phase.first);
  return phases;
}

double phase_seconds(const Quantization& quantization, const std::string& name) {
  const auto found = std::find_if(quantization.phases.begin(), quantization.phases.end(), [&](const auto& phase) { return phase.first == name; });
  return found == quantization.phases.end() ? kUnknown : found->second;
}

Figure time_figure(const Study& study, const std::vector<std::string>& phases) {
  Bars bars;
  bars.label = "Seconds that quantizing took, by phase";
  const auto css = [](size_t p) { return "s" + std::to_string(p % kSeries); };
  for (const Run& run : study.runs) {
    if (!run.quantization) continue;
    const Quantization& q = *run.quantization;
    Bars::Bar bar{run.name, {}, seconds_text(q.seconds)};
    double told = 0;
    for (size_t p = 0; p < phases.size() && p < kSeries - 1; ++p) {
      const double seconds = phase_seconds(q, phases[p]);
      if (std::isnan(seconds)) continue;
      told += seconds;
      bar.segments.push_back({seconds, css(p), phases[p] + " " + seconds_text(seconds)});
    }
    if (q.seconds > told) bar.segments.push_back({q.seconds - told, "rest", "other " + seconds_text(q.seconds - told)});
    bars.bars.push_back(std::move(bar));
  }
  Figure figure{"Time to quantize", draw(bars), {}, ""};
  for (size_t p = 0; p < phases.size() && p < kSeries - 1; ++p) figure.legend.emplace_back(legend_swatch("bar " + css(p)), phases[p]);
  figure.legend.emplace_back(legend_swatch("bar rest"), "other");
  return figure;
}

Figure memory_figure(const Study& study) {
  Bars bars;
  bars.label = "Peak memory of quantizing";
  for (const Run& run : study.runs)
    if (run.quantization && run.quantization->peak_bytes > 0) bars.bars.push_back({run.name,
        {{run.quantization->peak_bytes, "s0", bytes_text(run.quantization->peak_bytes)}}, bytes_text(run.quantization->peak_bytes)});
  return {"Peak memory", draw(bars), {}, "Pages of mapped files count while they are in memory."};
}

Figure size_figure(const Study& study) {
  Bars bars;
  bars.label = "Bytes of all weights, quantized and unquantized";
  std::vector<std::pair<std::string, double>> originals;
  for (const Run& run : study.runs) {
    if (!run.quantization || !(run.model_bytes > 0)) continue;
    const std::pair<std::string, double> original(run.model, run.model_bytes);
    if (std::find(originals.begin(), originals.end(), original) != originals.end()) continue;
    originals.push_back(original);
    const double linears = run.original_linear_bytes();
    bars.bars.push_back({run.model + ", unquantized", {{linears, "s0", "linears " + bytes_text(linears)}, {run.model_bytes - linears, "rest", "the rest " +
        bytes_text(run.model_bytes - linears)}}, bytes_text(run.model_bytes)});
  }
  for (const Run& run : study.runs) {
    if (!run.quantization || !(run.model_bytes > 0)) continue;
    const double linears = run.quantization->bytes, all = run.weight_bytes();
    bars.bars.push_back({run.name, {{linears, "s0", "linears " + bytes_text(linears)}, {all - linears, "rest", "the rest " + bytes_text(all - linears)}}, bytes_text(all)});
  }
  return {"Weights", draw(bars), {{legend_swatch("bar s0"), "quantized layers"}, {legend_swatch("bar rest"), "the rest, as it was"}},
      "Reckoned from the quantized layers and what they were before; files in model/ are in the table."};
}

Table table_of(const Study& study, const std::vector<std::string>& phases) {
  const bool disk = std::any_of(study.runs.begin(), study.runs.end(), [](const Run& run) { return !std::isnan(run.disk_bytes); });
  Table table;
  table.head = {"run", "seconds", "CPU seconds"};
  for (const std::string& phase : phases) table.head.push_back(phase + ", s");
  table.head.insert(table.head.end(), {"peak memory", "quantized layers", "were", "all weights", "of the original"});
  if (disk) table.head.push_back("in model/");
  for (const Run& run : study.runs) {
    if (!run.quantization) continue;
    const Quantization& q = *run.quantization;
    std::vector<Cell> row = {Cell{run.name}, Cell{fixed_text(q.seconds, 2)}, Cell{fixed_text(q.cpu_seconds, 2)}};
    for (const std::string& phase : phases) row.push_back({fixed_text(phase_seconds(q, phase), 2)});
    row.insert(row.end(), {bytes_cell(q.peak_bytes), bytes_cell(q.bytes), bytes_cell(run.original_linear_bytes()), bytes_cell(run.weight_bytes()),
        Cell{percent_text(run.weight_bytes() / run.model_bytes)}});
    if (disk) row.push_back(bytes_cell(run.disk_bytes));
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace

std::optional<Section> efficiency_section(const Study& study) {
  if (std::none_of(study.runs.begin(), study.runs.end(), [](const Run& run) { return run.quantization.has_value(); })) return std::nullopt;
  const std::vector<std::string> phases = phases_of(study);
  Figures figures{{time_figure(study, phases), memory_figure(study), size_figure(study)}};
  const auto is_empty = [](const Figure& figure) { return figure.svg.find("<rect") == std::string::npos; };
  figures.figures.erase(std::remove_if(figures.figures.begin(), figures.figures.end(), is_empty), figures.figures.end());
  Section section{"efficiency", "Time, memory, size", {}};
  if (!figures.figures.empty()) section.blocks.push_back(std::move(figures));
  section.blocks.push_back(Fold{"Seconds and bytes of each run", "", {table_of(study, phases)}});
  return section;
}

}  // namespace miq::executor::report
