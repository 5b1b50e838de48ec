// A bound of a quality gate, as it is written.
#pragma once

#include <string>

namespace miq::executor {

enum class Relative { none, times, plus };

struct Bound {
  std::string compare;  ///< <, <=, >, >= or ==
  double number = 0;
  std::string unit;     ///< behind the number; only where nothing is relative
  Relative relative = Relative::none;
};

/// @throws Error{config} with `where` for what is none.
Bound parse_bound(const std::string& given, const std::string& where);

}  // namespace miq::executor
