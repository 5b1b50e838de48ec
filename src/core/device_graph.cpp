#include "miq/core/device_graph.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "miq/core/error.h"

// LibTorch 2.12 has graphs of any accelerator; before, there were CUDA's.
#if __has_include(<ATen/core/GraphImplInterface.h>)
#include <ATen/core/GraphImplInterface.h>
#define MIQ_DEVICE_GRAPHS 1
namespace {
using Graph = at::GraphImplInterface;
bool has_graphs(c10::DeviceType type) { return at::has_graph_impl(type); }
std::unique_ptr<Graph> make_graph(c10::DeviceType type) { return at::create_graph_impl(type); }
}  // namespace
#elif defined(MIQ_GPU_CUDA)
#include <ATen/cuda/CUDAGraph.h>
#define MIQ_DEVICE_GRAPHS 1
namespace {
using Graph = at::cuda::CUDAGraph;
bool has_graphs(c10::DeviceType type) { return type == c10::DeviceType::CUDA; }
std::unique_ptr<Graph> make_graph(c10::DeviceType) { return std::make_unique<Graph>(); }
}  // namespace
#endif

namespace miq {

#ifdef MIQ_DEVICE_GRAPHS

struct DeviceGraph::Recording {
  std::unique_ptr<Graph> graph;
};

bool DeviceGraph::available(const c10::Device& device) { return !device.is_cpu() && has_graphs(device.type()); }

DeviceGraph::DeviceGraph(const c10::Device& device, const std::function<void()>& work) : recording_(std::make_unique<Recording>()) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  recording_->graph = make_graph(device.type());
  guard.synchronizeDevice(device.index());
  const c10::StreamGuard side(guard.getStreamFromGlobalPool(device));  // the default stream cannot be recorded
  recording_->graph->capture_begin();
  try {
    work();
  } catch (...) {
    try {
      recording_->graph->capture_end();
    } catch (...) {  // the first error is the one to tell
    }
    throw;
  }
  recording_->graph->capture_end();
}

void DeviceGraph::replay() { recording_->graph->replay(); }

#else

struct DeviceGraph::Recording {};

bool DeviceGraph::available(const c10::Device&) { return false; }
DeviceGraph::DeviceGraph(const c10::Device&, const std::function<void()>&) { throw Error(ErrorKind::internal, "this LibTorch records no device work"); }
void DeviceGraph::replay() {}

#endif

DeviceGraph::~DeviceGraph() = default;

}  // namespace miq
