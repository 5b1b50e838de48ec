// Pieces of work that any of several devices can do.
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <vector>

namespace miq::executor {

struct DeviceTask {
  size_t group;       ///< tasks of a group share something that a device makes once, for the first of them that it has
  double cost;        ///< of the task, in any unit
  double group_cost;  ///< of what its group shares
  std::function<void(size_t device)> work;  ///< told which of the devices does it
};

/// Runs all tasks and waits for them: the dearest first to the device that would be done with it first, from where they go in their own order, each device
/// in a thread of its own, with the device as the current one. With one device: here. @throws what the first task (in order) that failed threw.
void work_on_devices(const std::vector<at::Device>& devices, const std::vector<DeviceTask>& tasks);

}  // namespace miq::executor
