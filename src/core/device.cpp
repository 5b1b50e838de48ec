#include "miq/core/device.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <charconv>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "miq/core/device_drivers.h"
#include "miq/core/device_memory.h"
#include "miq/core/error.h"
#include "miq/core/memory.h"
#include "miq/core/process_group.h"

namespace miq {
namespace {

// The CPU's feature flags as Linux names them; empty where /proc has none.
const std::set<std::string>& cpu_flags() {
  static const std::set<std::string> flags = [] {
    std::set<std::string> found;
    std::ifstream in("/proc/cpuinfo");
    for (std::string line; std::getline(in, line);) {
      if (line.rfind("flags", 0) != 0) continue;
      std::istringstream words(line.substr(line.find(':') + 1));
      for (std::string word; words >> word;) found.insert(word);
      break;
    }
    return found;
  }();
  return flags;
}

}  // namespace

int gpu_count() { return at::accelerator::getAccelerator() ? static_cast<int>(at::accelerator::deviceCount()) : 0; }

bool is_built_for_gpus() {
  for (const c10::DeviceType type : {c10::DeviceType::CUDA, c10::DeviceType::HIP, c10::DeviceType::PrivateUse1})
    if (c10::impl::hasDeviceGuardImpl(type)) return true;
  return false;
}

at::Device parse_device(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  const int count = gpu_count();
  if (name == "auto") return count > 0 ? parse_device("cuda") : at::Device(at::kCPU);
  int index = 0;
  bool known = name == "cuda";
  if (name.rfind("cuda:", 0) == 0) {
    const char* end = name.data() + name.size();
    const auto [stop, problem] = std::from_chars(name.data() + 5, end, index);
    known = problem == std::errc() && stop == end && index >= 0;
  }
  if (!known) throw Error(ErrorKind::config, "unknown device '" + name + "'", "device", "use cpu, cuda, cuda:N or auto");
  // Each rank of a machine takes a GPU of its own, unless the launcher shows each its own alone.
  const bool shown_one = count == 1 && (std::getenv("CUDA_VISIBLE_DEVICES") != nullptr || std::getenv("ROCR_VISIBLE_DEVICES") != nullptr || std::getenv("HIP_VISIBLE_DEVICES") != nullptr);
  if (name == "cuda" && !shown_one) index = process_group::local_rank();
  if (index >= count && count > 0 && name == "cuda")
    throw Error(ErrorKind::unsupported, "rank " + std::to_string(process_group::rank()) + " is number " + std::to_string(index + 1) + " on its machine, which has " + std::to_string(count) + " GPUs", "device",
                "start no more ranks on a machine than it has GPUs, or use device: cpu");
  if (index >= count) {
    throw Error(ErrorKind::unsupported,
                count == 0 ? "this LibTorch sees no GPU" : count == 1 ? "there is only one GPU" : "there are only " + std::to_string(count) + " GPUs",
                "device: " + name, "use device: cpu, or configure with a CUDA or ROCm build of LibTorch (Torch_DIR)");
  }
  const c10::DeviceType type = at::accelerator::getAccelerator(/*checked=*/true).value();
  at::globalContext().lazyInitDevice(type);
  return {type, static_cast<c10::DeviceIndex>(index)};
}

std::vector<at::Device> parse_devices(const std::string& name) {
  const at::Device first = parse_device(name);
  std::vector<at::Device> all = {first};
  if (first.is_cpu() || name.find(':') != std::string::npos || process_group::world_size() > 1) return all;
  for (int i = 0; i < gpu_count(); ++i)
    if (i != first.index()) all.emplace_back(first.type(), static_cast<c10::DeviceIndex>(i));
  return all;
}

Tf32Products::Tf32Products(const at::Device& device, bool allowed) {
  if (device.is_cpu()) return;
  switch (at::globalContext().float32MatmulPrecision()) {
    case at::Float32MatmulPrecision::HIGHEST: before_ = "highest"; break;
    case at::Float32MatmulPrecision::HIGH: before_ = "high"; break;
    case at::Float32MatmulPrecision::MEDIUM: before_ = "medium"; break;
  }
  at::globalContext().setFloat32MatmulPrecision(allowed ? "high" : "highest");
}

Tf32Products::~Tf32Products() {
  if (!before_.empty()) at::globalContext().setFloat32MatmulPrecision(before_);
}

bool has_cpu_feature(const std::string& flag) { return cpu_flags().count(flag) > 0; }

bool has_fast_bfloat16(const at::Device& device) {
  return !device.is_cpu() || has_cpu_feature("avx512_bf16") || has_cpu_feature("amx_bf16");
}

bool has_fast_float16(const at::Device& device) { return !device.is_cpu() || has_cpu_feature("amx_fp16"); }

std::string describe(const at::Device& device) {
  if (!device.is_cpu()) {
    const std::string name = loaded_driver_gpu_name(device.index());
    return device.str() + " (" + (name.empty() ? "" : name + ", ") + format_bytes(device_memory(device).total) + ")";
  }
  return "cpu (" + std::to_string(at::get_num_threads()) + " threads, " + at::get_cpu_capability() + ")";
}

}  // namespace miq
