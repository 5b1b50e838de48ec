#include "work_on_devices.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <exception>
#include <numeric>
#include <set>
#include <thread>

namespace miq::executor {
namespace {

// The tasks of each device, in ascending order.
std::vector<std::vector<size_t>> share_out(size_t devices, const std::vector<DeviceTask>& tasks) {
  std::vector<size_t> dearest(tasks.size());
  std::iota(dearest.begin(), dearest.end(), size_t{0});
  std::stable_sort(dearest.begin(), dearest.end(), [&](size_t a, size_t b) { return tasks[a].cost + tasks[a].group_cost > tasks[b].cost + tasks[b].group_cost; });
  std::vector<std::vector<size_t>> own(devices);
  std::vector<double> load(devices, 0);
  std::vector<std::set<size_t>> groups(devices);
  for (const size_t t : dearest) {
    const auto end_on = [&](size_t d) { return load[d] + tasks[t].cost + (groups[d].count(tasks[t].group) ? 0 : tasks[t].group_cost); };
    size_t best = 0;
    for (size_t d = 1; d < devices; ++d)
      if (end_on(d) < end_on(best)) best = d;
    load[best] = end_on(best);
    groups[best].insert(tasks[t].group);
    own[best].push_back(t);
  }
  for (auto& list : own) std::sort(list.begin(), list.end());
  return own;
}

}  // namespace

void work_on_devices(const std::vector<at::Device>& devices, const std::vector<DeviceTask>& tasks) {
  if (devices.size() == 1 || tasks.size() == 1) {
    for (const DeviceTask& task : tasks) task.work(0);
    return;
  }
  const std::vector<std::vector<size_t>> own = share_out(devices.size(), tasks);
  std::vector<std::exception_ptr> problems(tasks.size());
  std::vector<std::thread> threads;
  for (size_t d = 0; d < devices.size(); ++d) {
    if (own[d].empty()) continue;
    threads.emplace_back([&, d, inference = c10::InferenceMode::is_enabled(), grad = c10::GradMode::is_enabled()] {
      const c10::InferenceMode mode(inference);
      c10::GradMode::set_enabled(grad && !inference);
      for (const size_t t : own[d]) {
        try {
          const c10::DeviceGuard guard(devices[d]);
          tasks[t].work(d);
        } catch (...) {
          problems[t] = std::current_exception();
          return;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& problem : problems)
    if (problem) std::rethrow_exception(problem);
}

}  // namespace miq::executor
