#include "expect.h"

#include <charconv>
#include <cmath>
#include <cstring>

#include "figures.h"
#include "miq/core/error.h"
#include "miq/core/memory.h"
#include "miq/core/text.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kForms = "write for example \"<= 25\", \"<= 1.03 x baseline\", \">= baseline - 0.02\" or \"<= 4GiB\"";
constexpr const char* kOperators[] = {"<=", ">=", "==", "<", ">"};

enum class Relative { none, times, plus };

struct Bound {
  std::string compare;  // one of kOperators
  double number = 0;
  std::string unit;     // behind the number; only where nothing is relative
  Relative relative = Relative::none;
};

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

// The number at the start of `text`, which is cut off with the blanks behind it.
std::optional<double> take_number(std::string& text) {
  double number = 0;
  const auto [stop, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc() || !std::isfinite(number)) return std::nullopt;
  text = trimmed(text.substr(static_cast<size_t>(stop - text.data())));
  return number;
}

[[noreturn]] void refuse(const std::string& what, const std::string& where, const std::string& fix = kForms) { throw Error(ErrorKind::config, what, where, fix); }

Bound parse_bound(const std::string& given, const std::string& where) {
  std::string text = trimmed(given);
  Bound bound;
  for (const char* compare : kOperators)
    if (text.rfind(compare, 0) == 0) {
      bound.compare = compare;
      break;
    }
  if (bound.compare.empty()) refuse("'" + given + "' is no bound: it starts with none of <, <=, >, >=, ==", where);
  text = trimmed(text.substr(bound.compare.size()));
  static const std::string kBaseline = "baseline";
  if (text.rfind(kBaseline, 0) == 0) {  // baseline [+|- NUMBER]
    text = trimmed(text.substr(kBaseline.size()));
    bound.relative = Relative::plus;
    if (text.empty()) return bound;
    const double sign = text[0] == '-' ? -1 : 1;
    if (text[0] != '+' && text[0] != '-') refuse("'" + given + "': baseline is followed by neither + nor -", where);
    text = trimmed(text.substr(1));
    const auto number = take_number(text);
    if (!number || *number < 0 || !text.empty()) refuse("'" + given + "': no number behind the sign", where);
    bound.number = sign * *number;
    return bound;
  }
  const auto number = take_number(text);
  if (!number) refuse("'" + given + "': no number behind " + bound.compare, where);
  bound.number = *number;
  for (const char* times : {"x", "*", "\xC3\x97"})
    if (text.rfind(times, 0) == 0 && trimmed(text.substr(std::strlen(times))) == kBaseline) {
      bound.relative = Relative::times;
      return bound;
    }
  bound.unit = text;
  return bound;
}

std::vector<std::string> split_bounds(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == ',') parts.emplace_back();
    else parts.back() += c;
  }
  for (std::string& part : parts) part = trimmed(part);
  return parts;
}

void add_bounds(const std::string& what, const std::string& text, const std::string& where, std::vector<Expectation>& gates) {
  for (const std::string& bound : split_bounds(text)) {
    parse_bound(bound, where);
    gates.push_back({what, bound, where});
  }
}

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

Expectation read_expectation(const std::string& text, const std::string& where) {
  size_t depth = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '[') ++depth;
    if (text[at] == ']' && depth > 0) --depth;
    if (depth > 0 || std::strchr("<>=", text[at]) == nullptr) continue;
    const Expectation gate{trimmed(text.substr(0, at)), trimmed(text.substr(at)), where};
    if (gate.what.empty()) break;
    parse_bound(gate.bound, where);
    return gate;
  }
  refuse("'" + text + "' is no gate: a figure and a bound", where, "write for example \"perplexity.wikitext2 <= 1.03 x baseline\"");
}

std::vector<Expectation> read_expectations(ConfigReader& reader) {
  std::vector<Expectation> gates;
  const YAML::Node node = reader.take("expect");
  if (!node.IsDefined() || node.IsNull()) return gates;
  if (!node.IsMap()) reader.fail("expect", "must be a mapping from figures to bounds", "write expect: {perplexity.wikitext2: \"<= 1.03 x baseline\"}");
  const ConfigReader keys = reader.nested("expect", node);  // each key once
  for (const auto& entry : node) {
    const std::string what = entry.first.Scalar(), where = keys.where(what.c_str());
    if (entry.second.IsScalar()) {
      add_bounds(what, entry.second.Scalar(), where, gates);
    } else if (entry.second.IsSequence() && entry.second.size() > 0) {
      for (const auto& bound : entry.second) {
        if (!bound.IsScalar()) refuse("a bound of " + what + " is not text", where);
        add_bounds(what, bound.Scalar(), where, gates);
      }
    } else {
      refuse(what + " has no bound", where, entry.second.IsMap() ? "write the whole name: " + what + ".NAME: \"<= NUMBER\"" : kForms);
    }
  }
  return gates;
}

void dump_expectations(FieldVisitor& dumper, std::vector<Expectation> gates) {
  std::vector<std::pair<std::string, std::string>> joined;
  for (const Expectation& gate : gates) {
    const auto known = std::find_if(joined.begin(), joined.end(), [&](const auto& entry) { return entry.first == gate.what; });
    if (known == joined.end()) joined.emplace_back(gate.what, gate.bound);
    else known->second += ", " + gate.bound;
  }
  for (auto& [what, bounds] : joined) dumper.text(what.c_str(), bounds, "");
}

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
