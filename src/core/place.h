// Where this process runs.
#pragma once

#include <string>

namespace miq {

struct Place {
  std::string machine;  ///< the same for processes of one machine, or of one container
  std::string cores;    ///< the same for processes that may run on the same cores
  int core_count = 1;
};

Place this_place();

}  // namespace miq
