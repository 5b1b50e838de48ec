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

/// The name of a GPU, from the driver's library that LibTorch has loaded (its own interface for all vendors has none); empty where it has loaded none.
std::string loaded_driver_gpu_name(int index);

}  // namespace miq
