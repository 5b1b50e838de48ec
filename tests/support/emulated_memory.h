// The memory and the streams of the emulated device (emulated_device.h).
#pragma once

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "support/emulated_device.h"

namespace miq::test::emulated {

/// Device memory: of the device that is the current one, filled with 0xff (NaN, -1), so that what nobody wrote is seen.
c10::DeviceAllocator& device_allocator();
c10::Allocator& pinned_allocator();
bool is_pinned(const void* pointer);
int device_of(const void* pointer);  ///< -1 for memory of no device
/// Where the host finds what lies at a device pointer: the same pages, mapped a second time.
void* host_address(const void* device_pointer);

const c10::impl::DeviceGuardImplInterface& device_guard();
int current_device();
c10::Stream current_stream(int index);
/// Work that is done when something else of its stream is done, or waited for.
void queue(const c10::Stream& stream, std::function<void()> work);
void finish_stream(const c10::Stream& stream);
void count_recorded_stream();

/// The kernels of src/gpu that were compiled for the CPU become the device's, where this build has them.
void install_kernels();

}  // namespace miq::test::emulated
