// Text as Python's str and re treat it: the references' normalisations, extractions and metrics are written in these terms.
// Bytes that are not UTF-8 are replaced by U+FFFD where characters matter.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace miq::dataset {

/// str.strip(): without the whitespace (str.isspace) at both ends.
std::string strip(std::string_view text);

/// str.lstrip(), str.rstrip(). Text is valid UTF-8.
std::string_view lstrip(std::string_view text);
std::string_view rstrip(std::string_view text);

/// str.strip(characters) for ASCII characters.
std::string strip(std::string_view text, std::string_view characters);

/// str.split(): the pieces between runs of whitespace, none empty.
std::vector<std::string> split_words(std::string_view text);

/// str.split(separator): every piece, also empty ones; the separator is not empty.
std::vector<std::string> split_at(std::string_view text, std::string_view separator);

/// separator.join(pieces).
std::string join(const std::vector<std::string>& pieces, std::string_view separator);

/// str.lower(), with the final sigma and U+0130.
std::string lower(std::string_view text);

/// str.islower(): there are cased characters, and all are lower-case.
bool is_lower(std::string_view text);

/// len(): code points.
std::int64_t code_points(std::string_view text);

/// str.replace(from, to), `from` not empty.
std::string replace(std::string_view text, std::string_view from, std::string_view to);

/// Without the 32 ASCII punctuation characters (string.punctuation).
std::string remove_punctuation(std::string_view text);
bool is_punctuation(char character);

/// re.finditer: of each match the texts of the whole (0) and of its groups, "" where a group took no part. Matches of nothing are left out.
/// @throws Error{config} for a pattern that PCRE2 does not take.
std::vector<std::vector<std::string>> find_all(const std::string& pattern, std::string_view text);

/// re.search(pattern, text) is not None, for patterns that match something.
bool contains_match(const std::string& pattern, std::string_view text);

/// re.sub(pattern, replacement, text), \1 - \9 in the replacement are groups. Matches of nothing are left alone.
std::string substitute(const std::string& pattern, std::string_view replacement, std::string_view text);

/// re.split(pattern, text) for a pattern without groups.
std::vector<std::string> split_pattern(const std::string& pattern, std::string_view text);

}  // namespace miq::dataset
