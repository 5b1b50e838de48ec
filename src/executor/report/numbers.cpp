#include "numbers.h"

#include <charconv>
#include <cmath>
#include <cstdio>

#include "miq/core/memory.h"
#include "miq/core/text.h"

namespace miq::executor::report {
namespace {

constexpr const char* kNone = "–";

std::string superscript(int number) {
  static const char* const kDigits[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = number < 0 ? "⁻" : "";
  for (const char digit : std::to_string(std::abs(number))) text += kDigits[digit - '0'];
  return text;
}

// "1.19 × 10⁶".
std::string scientific(double value, int decimals) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*e", decimals, value);
  const std::string whole = text;
  const size_t e = whole.find('e');
  return whole.substr(0, e) + " × 10" + superscript(std::stoi(whole.substr(e + 1)));
}

// Commas between thousands.
std::string grouped(std::string digits) {
  size_t end = digits.find('.');
  if (end == std::string::npos) end = digits.size();
  for (size_t at = end; at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

}  // namespace

std::string fixed_text(double value, int decimals) {
  if (std::isnan(value)) return kNone;
  const std::string size = grouped(format_fixed(std::abs(value), decimals));
  return value < 0 && size.find_first_not_of("0.") != std::string::npos ? "−" + size : size;
}

std::string score_text(double value) {
  if (std::isnan(value)) return kNone;
  if (value < 0) return "−" + score_text(-value);
  if (value >= 1e6) return scientific(value, 2);
  return fixed_text(value, value < 9.9995 ? 3 : value < 99.995 ? 2 : value < 9999.95 ? 1 : 0);
}

std::string signed_text(double value) {
  if (std::isnan(value)) return kNone;
  const std::string size = score_text(std::abs(value));
  if (size == "0.000") return "±0";
  return (value < 0 ? "−" : "+") + size;
}

std::string change_text(double value, double before) {
  const double ratio = value / before;
  if (!std::isfinite(ratio) || ratio < 0) return kNone;
  if (ratio >= 10) return "× " + (ratio >= 1e6 ? scientific(ratio, 1) : grouped(format_fixed(ratio, 0)));
  const double percent = 100 * (ratio - 1);
  const int decimals = std::abs(percent) < 1 ? 2 : std::abs(percent) < 99.95 ? 1 : 0;
  const std::string size = format_fixed(std::abs(percent), decimals);
  if (size.find_first_not_of("0.") == std::string::npos) return "±0 %";
  return (percent < 0 ? "−" : "+") + size + " %";
}

std::string chance_text(double p) {
  if (std::isnan(p)) return kNone;
  return p > 0 && p < 0.0005 ? scientific(p, 0) : format_fixed(p, 3);
}

std::string percent_text(double share) { return std::isnan(share) ? kNone : format_fixed(100 * share, 1) + " %"; }

std::string count_text(std::int64_t count) { return count < 0 ? kNone : grouped(std::to_string(count)); }

std::string large_count_text(double count) {
  if (!(count >= 0)) return kNone;
  if (count < 1e6) return grouped(format_fixed(count, 0));
  if (count < 1e9) return format_fixed(count / 1e6, 1) + " million";
  return format_fixed(count / 1e9, 2) + " billion";
}

std::string bytes_text(double bytes) { return bytes >= 0 && bytes < 9e18 ? format_bytes(static_cast<std::int64_t>(std::llround(bytes))) : kNone; }

std::string seconds_text(double seconds) {
  if (!(seconds >= 0 && seconds < 1e15)) return kNone;
  return seconds > 0 && seconds < 0.95 ? format_fixed(seconds, 2) + " s" : format_seconds(seconds);
}

std::string counted(std::int64_t count, const std::string& singular, const std::string& plural) {
  return grouped(std::to_string(count)) + " " + (count == 1 ? singular : plural.empty() ? singular + "s" : plural);
}

std::string exact_text(double value) {
  if (std::isnan(value)) return "";
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, value);
  return {text, end.ptr};
}

std::string short_name(const std::string& name) {
  const size_t slash = name.rfind('/');
  const bool is_file = name.ends_with(".txt") || name.ends_with(".jsonl") || name.ends_with(".yaml") || name.ends_with(".yml");
  return slash == std::string::npos || !is_file ? name : name.substr(slash + 1);
}

std::string shortened(const std::string& text, size_t length) {
  size_t count = 0;
  for (size_t i = 0; i < text.size(); ++i)
    if ((text[i] & 0xC0) != 0x80 && ++count > length) {  // the first character too many: cut one earlier, for the ellipsis
      size_t cut = i;
      do --cut;
      while (cut > 0 && (text[cut] & 0xC0) == 0x80);
      return text.substr(0, cut) + "…";
    }
  return text;
}

}  // namespace miq::executor::report
