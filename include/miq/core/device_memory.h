// What LibTorch's allocator has taken of a GPU's memory.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace miq {

/// The most bytes that tensors on `device` took at one time since the start or the last reset; 0 on a CPU.
std::int64_t peak_device_bytes(const c10::Device& device);
void reset_peak_device_bytes(const c10::Device& device);

}  // namespace miq
