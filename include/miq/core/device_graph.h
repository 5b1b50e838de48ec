// Work on a GPU recorded once and replayed: launching many small kernels costs more than they take.
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <memory>

namespace miq {

class DeviceGraph {
 public:
  /// Whether work on `device` can be recorded with this LibTorch.
  static bool available(const c10::Device& device);

  /// Runs `work`, whose launches on `device` are recorded instead of done. It must have run before (libraries set themselves up on first use), wait for
  /// nothing, and read and write tensors that live as long as this; what it allocates lives as long as this, too.
  DeviceGraph(const c10::Device& device, const std::function<void()>& work);
  ~DeviceGraph();
  DeviceGraph(const DeviceGraph&) = delete;
  DeviceGraph& operator=(const DeviceGraph&) = delete;

  /// Queues what was recorded on the current stream.
  void replay();

 private:
  struct Recording;
  std::unique_ptr<Recording> recording_;
};

}  // namespace miq
