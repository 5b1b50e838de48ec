#include "miq/core/device_memory.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>

#include "miq/core/error.h"

namespace miq {
namespace {

constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);

}  // namespace

std::int64_t peak_device_bytes(const c10::Device& device) {
  if (device.is_cpu()) return 0;
  const auto statistics = at::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return statistics.allocated_bytes[kAll].peak;
}

void reset_peak_device_bytes(const c10::Device& device) {
  if (!device.is_cpu()) at::getDeviceAllocator(device.type())->resetPeakStats(device.index());
}

DeviceMemory device_memory(const c10::Device& device) {
  if (device.is_cpu()) throw Error(ErrorKind::internal, "the memory of a CPU is none of a device");
  auto* const allocator = at::getDeviceAllocator(device.type());
  const auto [free, total] = allocator->getMemoryInfo(device.index());
  const auto statistics = allocator->getDeviceStats(device.index());
  const std::int64_t reserve = statistics.reserved_bytes[kAll].current - statistics.allocated_bytes[kAll].current;
  return {static_cast<std::int64_t>(free) + std::max<std::int64_t>(0, reserve), static_cast<std::int64_t>(total)};
}

at::Tensor host_tensor(c10::IntArrayRef sizes, at::ScalarType dtype) {
  try {
    return at::empty(sizes, at::TensorOptions(dtype).pinned_memory(true));
  } catch (const c10::Error&) {
    return at::empty(sizes, dtype);
  }
}

void empty_device_cache(const c10::Device& device) {
  if (!device.is_cpu()) at::getDeviceAllocator(device.type())->emptyCache();
}

}  // namespace miq
