// Numbers as people write them, in UTF-8. Unknown (NaN) is "–".
#pragma once

#include <cstdint>
#include <string>

namespace miq::executor::report {

/// A score with about four digits: "0.414", "27.82", "1,578.6", "1.19 × 10⁶".
std::string score_text(double value);
/// The same with its sign, "−" a real one: "+0.040", "−0.088", "±0" for what rounds to nothing.
std::string signed_text(double value);
/// What became of `before`: "+17.3 %"; from ten times on "× 503".
std::string change_text(double value, double before);
/// A probability: "0.031", "2 × 10⁻⁵".
std::string chance_text(double p);
/// "41.4 %" of .414.
std::string percent_text(double share);
/// "853,120".
std::string count_text(std::int64_t count);
/// "853,120", "134.5 million", "6.74 billion".
std::string large_count_text(double count);
/// Fixed decimals.
std::string fixed_text(double value, int decimals);
/// Bytes and seconds; "–" where unknown.
std::string bytes_text(double bytes);
std::string seconds_text(double seconds);
/// "1 run", "3 runs"; the plural is the singular with an s unless given.
std::string counted(std::int64_t count, const std::string& singular, const std::string& plural = "");
/// The shortest digits that read back as the same number; "" where unknown. For programs.
std::string exact_text(double value);

/// The file's name where a corpus or task is a path to a file, else the name itself.
std::string short_name(const std::string& name);
/// At most `length` characters, the rest as "…".
std::string shortened(const std::string& text, size_t length);

}  // namespace miq::executor::report
