// The memory of a GPU, and what LibTorch's allocator has taken of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace miq {

/// The most bytes that tensors on `device` took at one time since the start or the last reset; 0 on a CPU.
std::int64_t peak_device_bytes(const c10::Device& device);
void reset_peak_device_bytes(const c10::Device& device);

struct DeviceMemory {
  std::int64_t free = 0;   ///< what can still be allocated: the allocator's own reserves count as free
  std::int64_t total = 0;
};
/// Of a GPU. @throws Error{internal} for a CPU (core/memory.h tells of that).
DeviceMemory device_memory(const c10::Device& device);
/// A tensor of the host's memory, not filled, that copies to and from GPUs need not wait for (pinned); ordinary memory where the system lets
/// no more of it be locked.
at::Tensor host_tensor(c10::IntArrayRef sizes, at::ScalarType dtype);
/// Gives what the GPU's allocator keeps in reserve back, so that it can be had in larger pieces. Nothing for a CPU.
void empty_device_cache(const c10::Device& device);

}  // namespace miq
