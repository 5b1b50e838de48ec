// Declarations that c10d's ProcessGroupGloo.hpp names. LibTorch holds gloo but ships none of its headers, and everything of gloo
// is behind c10d's own pointers: names are enough, nothing here is ever defined, called or laid out.
#pragma once

#include <chrono>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
