#include "miq/dataset/python_text.h"

#include <utf8proc.h>

#include <unordered_map>

#include "miq/core/error.h"
#include "python_values.h"
#include "regex.h"
#include "utf8.h"

namespace miq::dataset {
namespace {

std::string well_formed(std::string_view text) { return is_valid_utf8(text) ? std::string(text) : valid_utf8(text); }

bool is_cased(std::uint32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT: return true;
    default: return false;
  }
}

// Case_Ignorable, by its categories and the punctuation of Word_Break MidLetter.
bool is_case_ignorable(std::uint32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: break;
  }
  for (const std::uint32_t mark : {0x27u, 0x2Eu, 0x3Au, 0xB7u, 0x387u, 0x2018u, 0x2019u, 0x2024u, 0x2027u})
    if (code == mark) return true;
  return false;
}

std::vector<std::uint32_t> codes_of(const std::string& text) {
  std::vector<std::uint32_t> codes;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = utf8_at(text, at);
    codes.push_back(next.code);
    at += next.bytes;
  }
  return codes;
}

// A sigma ends a word when a cased letter stands before it and none after it, whatever has no case aside.
bool is_final_sigma(const std::vector<std::uint32_t>& codes, size_t at) {
  size_t before = at, after = at + 1;
  while (before > 0 && is_case_ignorable(codes[before - 1])) --before;
  while (after < codes.size() && is_case_ignorable(codes[after])) ++after;
  return before > 0 && is_cased(codes[before - 1]) && !(after < codes.size() && is_cased(codes[after]));
}

// Patterns are few and come again for every document.
const Regex& compiled(const std::string& pattern) {
  thread_local std::unordered_map<std::string, Regex> cache;
  if (const auto found = cache.find(pattern); found != cache.end()) return found->second;
  if (cache.size() > 256) cache.clear();
  try {
    return cache.emplace(pattern, Regex(pattern, "")).first->second;
  } catch (const Error& error) {
    throw Error(ErrorKind::config, error.message(), "", error.fix());
  }
}

}  // namespace

bool is_python_space(std::uint32_t code) { return is_space(code) || (code >= 0x1C && code <= 0x1F); }

std::string_view lstrip(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Char c = utf8_at(text, at);
    if (!is_python_space(c.code)) break;
    at += c.bytes;
  }
  return text.substr(at);
}

std::string_view rstrip(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t at = end - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    if (!is_python_space(utf8_at(text, at).code)) break;
    end = at;
  }
  return text.substr(0, end);
}

std::string strip(std::string_view text) {
  const std::string whole = well_formed(text);
  size_t begin = whole.size(), end = 0;
  for (size_t at = 0; at < whole.size();) {
    const Utf8Char next = utf8_at(whole, at);
    if (!is_python_space(next.code)) {
      begin = std::min(begin, at);
      end = at + next.bytes;
    }
    at += next.bytes;
  }
  return end == 0 ? std::string() : whole.substr(begin, end - begin);
}

std::string strip(std::string_view text, std::string_view characters) {
  const size_t begin = text.find_first_not_of(characters);
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(characters) + 1 - begin));
}

std::vector<std::string> split_words(std::string_view text) {
  const std::string whole = well_formed(text);
  std::vector<std::string> words;
  bool inside = false;
  for (size_t at = 0; at < whole.size();) {
    const Utf8Char next = utf8_at(whole, at);
    if (is_python_space(next.code)) {
      inside = false;
    } else {
      if (!inside) words.emplace_back();
      words.back().append(whole, at, next.bytes);
      inside = true;
    }
    at += next.bytes;
  }
  return words;
}

std::vector<std::string> split_at(std::string_view text, std::string_view separator) {
  if (separator.empty()) throw Error(ErrorKind::internal, "split at an empty separator");
  std::vector<std::string> pieces;
  for (size_t at = 0;;) {
    const size_t next = text.find(separator, at);
    pieces.emplace_back(text.substr(at, next == std::string_view::npos ? next : next - at));
    if (next == std::string_view::npos) return pieces;
    at = next + separator.size();
  }
}

std::string join(const std::vector<std::string>& pieces, std::string_view separator) {
  std::string out;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i > 0) out += separator;
    out += pieces[i];
  }
  return out;
}

std::string lower(std::string_view text) {
  const std::vector<std::uint32_t> codes = codes_of(well_formed(text));
  std::string out;
  for (size_t i = 0; i < codes.size(); ++i) {
    if (codes[i] == 0x130) out += "i\xCC\x87";
    else if (codes[i] == 0x3A3 && is_final_sigma(codes, i)) out += "\xCF\x82";
    else append_utf8(out, static_cast<std::uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(codes[i]))));
  }
  return out;
}

bool is_lower(std::string_view text) {
  bool found = false;
  for (const std::uint32_t code : codes_of(well_formed(text))) {
    if (!is_cased(code)) continue;
    if (utf8proc_category(static_cast<utf8proc_int32_t>(code)) != UTF8PROC_CATEGORY_LL) return false;
    found = true;
  }
  return found;
}

std::int64_t code_points(std::string_view text) { return static_cast<std::int64_t>(codes_of(well_formed(text)).size()); }

std::string replace(std::string_view text, std::string_view from, std::string_view to) { return join(split_at(text, from), to); }

bool is_punctuation(char character) {
  const auto c = static_cast<unsigned char>(character);
  return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
}

std::string remove_punctuation(std::string_view text) {
  std::string out;
  for (const char c : text)
    if (!is_punctuation(c)) out += c;
  return out;
}

std::vector<std::vector<std::string>> find_all(const std::string& pattern, std::string_view text) {
  const std::string whole = well_formed(text);
  std::vector<std::vector<std::string>> found;
  for (const auto& spans : compiled(pattern).captures(whole)) {
    found.emplace_back();
    for (const auto& span : spans) found.back().push_back(whole.substr(span.first, span.second - span.first));
  }
  return found;
}

bool contains_match(const std::string& pattern, std::string_view text) { return !find_all(pattern, text).empty(); }

std::string substitute(const std::string& pattern, std::string_view replacement, std::string_view text) {
  const std::string whole = well_formed(text);
  std::string out;
  size_t at = 0;
  for (const auto& spans : compiled(pattern).captures(whole)) {
    out.append(whole, at, spans[0].first - at);
    for (size_t i = 0; i < replacement.size(); ++i) {
      const bool group = replacement[i] == '\\' && i + 1 < replacement.size() && replacement[i + 1] >= '1' && replacement[i + 1] <= '9';
      if (!group) {
        out += replacement[i];
        continue;
      }
      const auto number = static_cast<size_t>(replacement[++i] - '0');
      if (number < spans.size()) out.append(whole, spans[number].first, spans[number].second - spans[number].first);
    }
    at = spans[0].second;
  }
  return out.append(whole, at, std::string::npos);
}

std::vector<std::string> split_pattern(const std::string& pattern, std::string_view text) {
  const std::string whole = well_formed(text);
  std::vector<std::string> pieces;
  size_t at = 0;
  for (const auto& spans : compiled(pattern).captures(whole)) {
    pieces.push_back(whole.substr(at, spans[0].first - at));
    at = spans[0].second;
  }
  pieces.push_back(whole.substr(at));
  return pieces;
}

}  // namespace miq::dataset
