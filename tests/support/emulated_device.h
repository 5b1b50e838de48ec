// A device that stands in for a GPU where there is none: LibTorch's PrivateUse1 backend, over memory that the host may not touch. Whatever
// would fail on a GPU fails here: host code that reads a device pointer (a segmentation fault, which is explained), operators whose tensors
// lie on several devices, copies that nobody waited for (they are done no earlier), generators of the wrong device, memory that is too small.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace miq::test::emulated {

constexpr int kDevices = 2;

/// Registers the backend as "emulated". From then on it is this process' accelerator: "cuda" of parse_device().
void install();

at::Device device(int index = 0);

struct Use {
  std::int64_t now = 0, peak = 0;  ///< bytes
};
Use device_memory(int index = 0);
Use pinned_memory();
void reset_peaks();

/// How much a device has while it lives: more throws c10::OutOfMemoryError, as a GPU's allocator does.
class Limit {
 public:
  explicit Limit(std::int64_t bytes, int index = 0);
  ~Limit();
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;

 private:
  int index_;
  std::int64_t before_;
};

/// Since the start: copies between pinned and device memory that were queued, tensors that were recorded on a stream, and allocations
/// that there was no room for.
struct Counts {
  std::int64_t queued_copies = 0, recorded_streams = 0, out_of_memory = 0;
};
Counts counts();

/// While it lives, device pointers can be used by the host: as a kernel that is run there does.
class HostAccess {
 public:
  HostAccess();
  ~HostAccess();
  HostAccess(const HostAccess&) = delete;
  HostAccess& operator=(const HostAccess&) = delete;
};

}  // namespace miq::test::emulated
