#include "expect.h"

#include <cmath>

#include "expect_bound.h"
#include "figures.h"
#include "miq/core/error.h"
#include "miq/core/memory.h"
#include "miq/core/text.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void refuse(const std::string& what, const std::string& where, const std::string& fix) { throw Error(ErrorKind::config, what, where, fix); }

// The bound's number in the figure's unit.
double in_unit(const Bound& bound, const Expectation& gate, Unit unit) {
  if (bound.unit.empty()) return bound.number;
  if (unit == Unit::bytes)
    if (const auto one = parse_bytes("1" + bound.unit)) return bound.number * static_cast<double>(*one);
  if (unit == Unit::seconds)
    for (const auto& [name, seconds] : {std::pair("s", 1.0), {"min", 60.0}, {"h", 3600.0}})
      if (bound.unit == name) return bound.number * seconds;
  const char* const fix = unit == Unit::bytes ? "write for example \"<= 4GiB\"" : unit == Unit::seconds ? "write for example \"<= 90 s\", min or h" : "leave it out";
  refuse("'" + gate.bound + "': '" + bound.unit + "' is no unit of " + gate.what, gate.where, fix);
}

std::string shown(const std::string& what, const Json& value) {
  if (!value.is_number()) return "-";
  const double number = value.get<double>();
  if (unit_of(what) == Unit::bytes && number >= 0) return format_bytes(static_cast<std::int64_t>(number));
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", number);
  return text;
}

bool holds(double value, const std::string& compare, double limit) {
  if (compare == "<") return value < limit;
  if (compare == "<=") return value <= limit;
  if (compare == ">") return value > limit;
  if (compare == ">=") return value >= limit;
  return value == limit;
}

// The figure of a gate, with its bound checked against what the job will know.
std::pair<Figure, Bound> settled(const Expectation& gate, const std::vector<Figure>& figures) {
  Figure figure = find_figure(figures, gate.what, gate.where);
  const Bound bound = parse_bound(gate.bound, gate.where);
  in_unit(bound, gate, unit_of(figure.name));
  if (bound.relative != Relative::none && figure.baseline.empty()) refuse("'" + gate.bound + "': " + gate.what + " has no baseline", gate.where, "give a number alone");
  if (bound.relative != Relative::none && !figure.no_baseline.empty()) refuse("'" + gate.bound + "': there is no baseline: " + figure.no_baseline, gate.where, figure.no_baseline_fix);
  return {std::move(figure), bound};
}

}  // namespace

void check_expectations(const JobConfig& config, JobMode mode) {
  if (config.expect.empty()) return;
  const std::vector<Figure> figures = list_figures(config, mode);
  for (const Expectation& gate : config.expect) settled(gate, figures);
}

Json judge_expectations(const JobConfig& config, JobMode mode, const Json& results) {
  const std::vector<Figure> figures = list_figures(config, mode);
  Json judged = Json::array();
  for (const Expectation& gate : config.expect) {
    const auto [figure, bound] = settled(gate, figures);
    const double value = value_of(figure, figure.value, results);
    double limit = in_unit(bound, gate, unit_of(figure.name));
    if (bound.relative == Relative::times) limit *= value_of(figure, figure.baseline, results);
    if (bound.relative == Relative::plus) limit += value_of(figure, figure.baseline, results);
    judged.push_back({{"what", gate.what},
                      {"bound", gate.bound},
                      {"value", number_or_null(value)},
                      {"limit", number_or_null(limit)},
                      {"met", std::isfinite(value) && std::isfinite(limit) && holds(value, bound.compare, limit)}});
  }
  return judged;
}

std::string expectation_table(const Json& judged) {
  std::vector<std::vector<std::string>> rows = {{"expected", "bound", "value", "limit", "met"}};
  for (const Json& gate : judged) {
    const std::string what = gate.at("what");
    rows.push_back({what, gate.at("bound"), shown(what, gate.at("value")), shown(what, gate.at("limit")), gate.at("met").get<bool>() ? "yes" : "NO"});
  }
  return format_table(rows);
}

void require_met(const Json& results) {
  std::string missed;
  size_t count = 0;
  const Json judged = results.value("expect", Json::array());
  for (const Json& gate : judged) {
    if (gate.at("met").get<bool>()) continue;
    const std::string what = gate.at("what"), bound = gate.at("bound");
    const bool relative = bound.find("baseline") != std::string::npos;
    missed += (count++ > 0 ? "; " : "") + what + " is " + (gate.at("value").is_number() ? shown(what, gate.at("value")) : "not a number") + ", not " + bound +
              (relative ? " (" + shown(what, gate.at("limit")) + ")" : "");
  }
  if (count == 0) return;
  const Json output = results.at("config").value("output", Json());
  throw Error(ErrorKind::numeric, std::to_string(count) + " of " + std::to_string(judged.size()) + (judged.size() == 1 ? " quality gate" : " quality gates") + " missed: " + missed,
              output.is_string() ? (std::filesystem::path(output.get<std::string>()) / "results.json").string() : "expect", "change the recipe, or the bound");
}

}  // namespace miq::executor
