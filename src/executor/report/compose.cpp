// The report's sections in their order, and the short ones among them.
#include <algorithm>
#include <map>
#include <set>

#include "document.h"
#include "miq/core/text.h"
#include "miq/executor/report.h"
#include "numbers.h"
#include "sections.h"

namespace miq::executor::report {
namespace {

// What the codes of events mean for someone who does not know them.
const std::map<std::string, std::string> kEventMeanings = {
    {"dead_columns", "inputs that were zero on all calibration data; their weights are rounded without data"},
    {"starved_hessian", "fewer calibration tokens than inputs: the statistics do not determine the layer; take more samples"},
    {"starved_expert", "the router sent an expert too few calibration tokens; take more samples"},
    {"damping_raised", "the layer's statistics were not positive definite; more damping was needed than was set"},
    {"factor_float64", "float32 was too coarse for the layer's statistics; float64 was used"},
    {"fallback_nearest", "the method failed on the layer, which was rounded to nearest instead"},
};

}  // namespace

Cell score_cell(double value) { return {score_text(value), "", "", "", "", value}; }
Cell bytes_cell(double bytes) { return {bytes_text(bytes), "", "", "", "", bytes}; }
Cell seconds_cell(double seconds) { return {seconds_text(seconds), "", "", "", "", seconds}; }
Cell chance_cell(double p) { return {chance_text(p), "", "", "", "", p}; }

bool is_numeric(const Table& table, size_t column) {
  const auto is_number = [](const std::string& text) {
    const char* const kSigns[] = {"–", "+", "−", "±", "×"};
    return text.empty() || std::isdigit(static_cast<unsigned char>(text[0])) != 0 || std::any_of(std::begin(kSigns), std::end(kSigns),
        [&](const char* sign) { return text.starts_with(sign); });
  };
  return column > 0 && std::all_of(table.rows.begin(), table.rows.end(), [&](const auto& row) { return column >= row.size() || (is_number(row[column].text) &&
      row[column].css != "words"); });
}

std::string listed(const std::vector<std::string>& items, size_t most) {
  const size_t shown = items.size() > most ? std::max<size_t>(most - 1, 1) : items.size();
  std::string text;
  for (size_t i = 0; i < shown; ++i) text += (i == 0 ? "" : i + 1 == items.size() ? " and " : ", ") + items[i];
  if (shown < items.size()) text += " and " + std::to_string(items.size() - shown) + " more";
  return text;
}

std::string capitalised(std::string text) {
  if (!text.empty()) text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  return text;
}

std::string short_key(const std::string& key) { return key.substr(key.rfind('.') + 1); }

std::string models_of(const Study& study) {
  std::vector<std::string> names;
  for (const Run& run : study.runs)
    if (std::find(names.begin(), names.end(), run.model) == names.end()) names.push_back(run.model);
  return listed(names, 4);
}

std::optional<Section> gates_section(const Study& study) {
  Table table;
  table.head = {"run", "gate", "limit", "value", "met"};
  for (const Run& run : study.runs)
    for (const Gate& gate : run.gates) {
      const std::string bound = gate.bound == "max" ? "≤" : gate.bound == "min" ? "≥" : gate.bound;
      const std::string value = gate.value.empty() || gate.value == "null" ? "–" : gate.value;
      table.rows.push_back({Cell{run.name}, Cell{gate.what}, Cell{bound + " " + gate.limit}, Cell{value}, Cell{gate.met ? "✓ met" : "✗ not met", "", gate.met ? "good" : "bad"}});
    }
  if (table.rows.empty()) return std::nullopt;
  return Section{"gates", "Quality gates", {table}};
}

std::optional<Section> events_section(const Study& study) {
  struct Group {
    std::int64_t count = 0;
    std::set<std::string> layers, runs;
    std::string example;
  };
  std::map<std::string, Group> groups;
  Table all;
  all.head = {"run", "layer", "code", "what happened"};
  constexpr size_t kMost = 500;
  std::int64_t total = 0;
  for (const Run& run : study.runs)
    for (const Event& event : run.events) {
      Group& group = groups[event.code];
      ++group.count;
      ++total;
      group.layers.insert(event.layer);
      group.runs.insert(run.name);
      if (group.example.empty()) group.example = event.detail;
      if (all.rows.size() < kMost) all.rows.push_back({Cell{run.name}, Cell{event.layer}, Cell{event.code}, Cell{event.detail}});
    }
  if (groups.empty()) return std::nullopt;
  Table table;
  table.head = {"code", "times", "layers", "runs", "meaning", "first of them"};
  for (const auto& [code, group] : groups) {
    const auto meaning = kEventMeanings.find(code);
    table.rows.push_back({Cell{code}, Cell{count_text(group.count)}, Cell{count_text(static_cast<std::int64_t>(group.layers.size()))},
        Cell{count_text(static_cast<std::int64_t>(group.runs.size()))},
                          Cell{meaning == kEventMeanings.end() ? "–" : meaning->second, "", "words"}, Cell{group.example, "", "words"}});
  }
  const bool all_shown = total <= static_cast<std::int64_t>(kMost);
  const std::string title = !all_shown ? "The first " + std::to_string(kMost) + " of " + count_text(total) : total == 1 ? "The event" : "All " + count_text(total);
  return Section{"events", "Warnings", {table, Fold{title, "", {all}}}};
}

std::optional<Section> environment_section(const Study& study) {
  Table table;
  table.head = {"miq", "LibTorch", "device", "threads", "compute type", "runs"};
  std::vector<std::pair<std::vector<std::string>, std::vector<std::string>>> kinds;
  for (const Run& run : study.runs) {
    const std::vector<std::string> kind = {run.version, run.libtorch, run.device, count_text(run.threads), run.dtype};
    auto found = std::find_if(kinds.begin(), kinds.end(), [&](const auto& known) { return known.first == kind; });
    if (found == kinds.end()) found = kinds.insert(kinds.end(), {kind, {}});
    found->second.push_back(run.name);
  }
  for (const auto& [kind, runs] : kinds) {
    table.rows.emplace_back();
    for (const std::string& text : kind) table.rows.back().push_back({text.empty() ? "–" : text});
    table.rows.back().push_back({runs.size() == study.runs.size() && runs.size() > 1 ? "all " + std::to_string(runs.size()) : listed(runs, 6)});
  }
  return Section{"environment", "Environment", {table}};
}

Document compose(const Study& study, const std::string& title) {
  Document document;
  const bool single = study.runs.size() == 1 && study.matrices.empty();
  document.title = !title.empty() ? title : !study.title.empty() ? study.title : models_of(study).empty() ? "Quantization report"
      : models_of(study) + (single && !study.runs[0].quantization ? ", scored" : ", quantized");
  if (single) document.subtitle = study.runs.front().name;
  else document.subtitle = counted(static_cast<std::int64_t>(study.runs.size()), study.axes.empty() && study.matrices.empty() ? "run" : "variant") +
      (study.missing.empty() ? "" : ", " + std::to_string(study.missing.size()) + " missing");
  document.footer = "Made by miq report (miq " MIQ_VERSION ") from what the runs wrote.";
  const auto add = [&](std::optional<Section> section) {
    if (section && !section->blocks.empty()) document.sections.push_back(std::move(*section));
  };
  add(summary_section(study));
  add(gates_section(study));
  add(trade_off_section(study));
  add(runs_section(study));
  add(matrices_section(study));
  std::vector<Section> details = detail_sections(study);
  std::vector<Section> last;
  for (Section& section : details) {
    if (section.id == "each" || section.id == "configuration") last.push_back(std::move(section));
    else add(std::move(section));
  }
  add(efficiency_section(study));
  add(events_section(study));
  for (Section& section : last) add(std::move(section));
  add(environment_section(study));
  return document;
}

}  // namespace miq::executor::report

namespace miq::executor {

std::string make_report(const std::vector<std::filesystem::path>& runs, ReportFormat format, const std::string& title) {
  const report::Study study = report::read_study(runs);
  if (format == ReportFormat::csv) return report::to_csv(study);
  const report::Document document = report::compose(study, printable(title));
  return format == ReportFormat::html ? report::to_html(document) : report::to_markdown(document);
}

}  // namespace miq::executor
