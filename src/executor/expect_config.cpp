// `expect` of a configuration: gates as they are written, before it is known what they are of.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>

#include "expect.h"
#include "expect_bound.h"
#include "miq/core/error.h"

namespace miq::executor {
namespace {

constexpr const char* kForms = "write for example \"<= 25\", \"<= 1.03 x baseline\", \">= baseline - 0.02\" or \"<= 4GiB\"";
constexpr const char* kOperators[] = {"<=", ">=", "==", "<", ">"};

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

}  // namespace

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

namespace {

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

}  // namespace miq::executor
