// Text functions of Python, as far as the references' prompts are made with them. Text is valid UTF-8.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace miq::dataset {

/// str.isspace of one character: Unicode white space and the separators U+001C .. U+001F.
bool is_python_space(std::uint32_t code);
/// str.strip, lstrip, rstrip without arguments.
std::string_view strip(std::string_view text);
std::string_view lstrip(std::string_view text);
std::string_view rstrip(std::string_view text);
/// str.replace: occurrences from left to right that do not overlap.
std::string replaced(std::string_view text, std::string_view from, std::string_view to);
/// str.lower, and str.capitalize: the first character in title case, all the others lower.
std::string lower(std::string_view text);
std::string capitalized(std::string_view text);
/// str.split(separator).
std::vector<std::string> split(std::string_view text, std::string_view separator);
/// How many pieces re.split(r"\s+", text) gives.
std::int64_t white_space_pieces(std::string_view text);
/// The byte at which the character number `index` begins; text.size() behind the last.
size_t byte_of_character(std::string_view text, std::int64_t index);
std::int64_t count_characters(std::string_view text);

/// str(value): texts as they are; lists, mappings and numbers as Python prints them.
std::string python_str(const nlohmann::json& value);
std::string python_repr(const nlohmann::json& value);

}  // namespace miq::dataset
