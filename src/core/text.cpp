#include "miq/core/text.h"

#include <cmath>
#include <cstdio>

#include "miq/core/error.h"

namespace miq {
namespace {

// Columns a terminal shows for UTF-8 text: its code points.
size_t display_width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

bool is_numeric(const std::string& text) {
  return !text.empty() && (std::isdigit(static_cast<unsigned char>(text[0])) || text[0] == '+' || text[0] == '-' ||
                           text[0] == '.' || text == "nan" || text == "inf");
}

}  // namespace

std::string format_fixed(double value, int decimals) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char text[64];
  if (std::abs(value) >= 1e9)
    std::snprintf(text, sizeof text, "%.*e", decimals, value);
  else
    std::snprintf(text, sizeof text, "%.*f", decimals, value);
  return text;
}

std::string format_seconds(double seconds) {
  if (seconds < 60) return format_fixed(seconds, 1) + " s";
  const std::int64_t whole = std::llround(seconds);
  char text[64];
  if (whole < 3600)
    std::snprintf(text, sizeof text, "%dm %02ds", static_cast<int>(whole / 60), static_cast<int>(whole % 60));
  else
    std::snprintf(text, sizeof text, "%lldh %02dm", static_cast<long long>(whole / 3600), static_cast<int>(whole / 60 % 60));
  return text;
}

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c) {
      if (c == widths.size()) widths.push_back(0);
      widths[c] = std::max(widths[c], display_width(row[c]));
    }
  std::vector<bool> right(widths.size(), rows.size() > 1);  // a column of numbers is right-aligned, its header too
  for (size_t r = 1; r < rows.size(); ++r)
    for (size_t c = 0; c < rows[r].size(); ++c)
      if (!rows[r][c].empty() && !is_numeric(rows[r][c])) right[c] = false;
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (size_t c = 0; c < rows[r].size(); ++c) {
      const std::string pad(widths[c] - display_width(rows[r][c]), ' ');
      if (c > 0) line += "  ";
      line += right[c] ? pad + rows[r][c] : rows[r][c] + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    if (r > 0) text += "\n";
    text += line;
    if (r == 0) {
      size_t total = widths.empty() ? 0 : 2 * (widths.size() - 1);
      for (size_t width : widths) total += width;
      text += "\n" + std::string(total, '-');
    }
  }
  return text;
}

std::string printable(const std::string& text) {
  using Json = nlohmann::json;
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

std::string to_text(const nlohmann::ordered_json& value) {
  return value.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

nlohmann::ordered_json number_or_null(double value) { return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(); }

nlohmann::json parse_json(const std::string& text, const std::string& where) {
  constexpr int kMaxDepth = 200;
  bool too_deep = false;
  const nlohmann::json::parser_callback_t guard = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  // The parser itself keeps its stack on the heap; the guard bounds what it builds.
  try {
    nlohmann::json parsed = nlohmann::json::parse(text, guard);
    if (too_deep) throw Error(ErrorKind::io, "JSON nested deeper than " + std::to_string(kMaxDepth), where);
    return parsed;
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::io, std::string("not valid JSON: ") + error.what(), where, "the file may be truncated or damaged");
  }
}

}  // namespace miq
