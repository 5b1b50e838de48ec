// GPUs as their drivers tell them, through the drivers' own libraries, which need not be there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace miq {

/// A GPU, or what is wrong with a driver.
struct DriverReport {
  std::string text;
  std::string fix;           ///< empty: all is well
  std::string name;          ///< of a GPU; empty: this is about a driver
  std::int64_t memory_bytes = 0;
};

/// What the drivers of all vendors say. `usable`: whether LibTorch computes on such devices.
std::vector<DriverReport> ask_drivers(bool usable);

}  // namespace miq
