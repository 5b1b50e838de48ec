#include "python_values.h"

#include <utf8proc.h>

#include "utf8.h"

namespace miq::dataset {
namespace {

struct Title {
  std::uint32_t code;
  const char* title;
};
// Characters whose title case is more than one character (Unicode's SpecialCasing.txt, Latin and Armenian).
constexpr Title kLongTitles[] = {{0xDF, "Ss"},   {0xFB00, "Ff"},  {0xFB01, "Fi"},   {0xFB02, "Fl"},   {0xFB03, "Ffi"}, {0xFB04, "Ffl"},
                                 {0xFB05, "St"}, {0xFB06, "St"},  {0x587, "Եւ"},    {0x149, "ʼN"},    {0x1F0, "J̌"},   {0x1E96, "H̱"},
                                 {0x1E97, "T̈"}, {0x1E98, "W̊"}, {0x1E99, "Y̊"},   {0x1E9A, "Aʾ"}};

bool is_printable(std::uint32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return code == ' ';
    default: return true;
  }
}

std::string quoted(const std::string& text) {
  const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = utf8_at(text, at);
    char escape[16] = "";
    if (c.code == '\\' || c.code == static_cast<unsigned char>(quote)) out += '\\', out += static_cast<char>(c.code);
    else if (c.code == '\n') out += "\\n";
    else if (c.code == '\r') out += "\\r";
    else if (c.code == '\t') out += "\\t";
    else if (is_printable(c.code)) out.append(text, at, c.bytes);
    else std::snprintf(escape, sizeof escape, c.code < 0x100 ? "\\x%02x" : c.code < 0x10000 ? "\\u%04x" : "\\U%08x", c.code);
    out += escape;
    at += c.bytes;
  }
  return out + quote;
}

}  // namespace

std::string capitalized(std::string_view text) {
  if (text.empty()) return "";
  const Utf8Char first = utf8_at(text, 0);
  const auto* const special = std::find_if(std::begin(kLongTitles), std::end(kLongTitles), [&](const Title& t) { return t.code == first.code; });
  std::string out;
  if (special != std::end(kLongTitles)) out = special->title;
  else append_utf8(out, static_cast<std::uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(first.code))));
  return out + lower(text).substr(lower(text.substr(0, first.bytes)).size());  // the whole, as a sigma looks at what stands before it
}

std::int64_t white_space_pieces(std::string_view text) {
  std::int64_t pieces = 1;
  bool in_space = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = utf8_at(text, at);
    const bool space = is_python_space(c.code);
    if (space && !in_space) ++pieces;
    in_space = space;
    at += c.bytes;
  }
  return pieces;
}

size_t byte_of_character(std::string_view text, std::int64_t index) {
  size_t at = 0;
  while (index-- > 0 && at < text.size()) at += utf8_at(text, at).bytes;
  return std::min(at, text.size());
}

std::string python_repr(const nlohmann::json& value) {
  if (value.is_string()) return quoted(value.get_ref<const std::string&>());
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_array()) {
    std::string out;
    for (const auto& item : value) out += (out.empty() ? "" : ", ") + python_repr(item);
    return "[" + out + "]";
  }
  if (value.is_object()) {
    std::string out;
    for (const auto& [key, item] : value.items()) out += (out.empty() ? "" : ", ") + quoted(key) + ": " + python_repr(item);
    return "{" + out + "}";
  }
  return value.dump();
}

std::string python_str(const nlohmann::json& value) { return value.is_string() ? value.get<std::string>() : python_repr(value); }

}  // namespace miq::dataset
