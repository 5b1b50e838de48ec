#include "miq/core/device_memory.h"

#include <c10/core/CachingDeviceAllocator.h>

namespace miq {

std::int64_t peak_device_bytes(const c10::Device& device) {
  if (device.is_cpu()) return 0;
  const auto statistics = at::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return statistics.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
}

void reset_peak_device_bytes(const c10::Device& device) {
  if (!device.is_cpu()) at::getDeviceAllocator(device.type())->resetPeakStats(device.index());
}

}  // namespace miq
