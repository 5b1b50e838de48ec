// Unicode regular expressions (PCRE2), bounded in time.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace miq::dataset {

class Regex {
 public:
  /// @throws Error{io} for a pattern PCRE2 does not take, naming `where`.
  Regex(const std::string& pattern, const std::string& where);
  /// Non-overlapping matches [begin, end) in valid UTF-8, from left to right; empty ones are left out.
  /// @throws Error{unsupported} when a match would take too many steps.
  std::vector<std::pair<size_t, size_t>> matches(std::string_view text) const;
  /// The same, each with its groups behind the whole; a group that took no part is {0, 0}.
  std::vector<std::vector<std::pair<size_t, size_t>>> captures(std::string_view text) const;

 private:
  struct Code;
  template <class Visit>
  void scan(std::string_view text, const Visit& visit) const;
  std::shared_ptr<Code> code_;
  std::string where_;
};

}  // namespace miq::dataset
