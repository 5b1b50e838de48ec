// Small text helpers: fixed-point numbers, aligned tables, JSON parsed with a depth limit.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace miq {

/// "20.968" for (20.9682, 3); "inf", "nan" as such.
std::string format_fixed(double value, int decimals);
/// "1m 05s", "12.3 s".
std::string format_seconds(double seconds);

/// Rows as aligned columns, the first row as the header; numbers to the right. No trailing newline.
std::string format_table(const std::vector<std::vector<std::string>>& rows);

/// The text with bytes that are not UTF-8 replaced by U+FFFD: names from damaged files end in messages.
std::string printable(const std::string& text);

/// JSON for people and programs: indented, bytes that are not UTF-8 replaced.
std::string to_text(const nlohmann::ordered_json& value);

/// The number, or null where it is not finite: JSON has no NaN.
nlohmann::ordered_json number_or_null(double value);

/// Parses JSON from an untrusted file. @throws Error{io} with `where` and the parser's position on a
/// syntax error or a nesting deeper than 200.
nlohmann::json parse_json(const std::string& text, const std::string& where);

}  // namespace miq
