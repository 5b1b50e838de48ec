// Python's functions that the references' prompts are made with, beside those of python_text.h. Text is valid UTF-8.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "miq/dataset/python_text.h"

namespace miq::dataset {

/// str.isspace() of a character: Unicode white space and the four separators of ASCII.
bool is_python_space(std::uint32_t code);
/// str.capitalize: the first character in title case, all the others lower.
std::string capitalized(std::string_view text);
/// How many pieces re.split(r"\s+", text) gives.
std::int64_t white_space_pieces(std::string_view text);
/// The byte at which the character number `index` begins; text.size() behind the last.
size_t byte_of_character(std::string_view text, std::int64_t index);

/// str(value): texts as they are; lists, mappings and numbers as Python prints them.
std::string python_str(const nlohmann::json& value);
std::string python_repr(const nlohmann::json& value);

}  // namespace miq::dataset
