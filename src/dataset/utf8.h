// UTF-8: decoding one character at a time, and replacing what is not valid.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace miq::dataset {

/// The character at `at` of valid UTF-8 and how many bytes it takes.
struct Utf8Char {
  std::uint32_t code;
  size_t bytes;
};
Utf8Char utf8_at(std::string_view text, size_t at);

/// Appends a code point.
void append_utf8(std::string& out, std::uint32_t code);

/// Every maximal ill-formed stretch becomes U+FFFD (Unicode 3.9, the practice of Rust and Python).
std::string valid_utf8(std::string_view bytes);
bool is_valid_utf8(std::string_view bytes);

/// Unicode White_Space and general category N*.
bool is_space(std::uint32_t code);
bool is_number(std::uint32_t code);

}  // namespace miq::dataset
