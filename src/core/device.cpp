#include "miq/core/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>

#include <charconv>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "miq/core/error.h"
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

at::Device parse_device(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  if (name == "auto") return at::hasCUDA() ? parse_device("cuda") : at::Device(at::kCPU);
  int index = 0;
  bool known = name == "cuda";
  if (name.rfind("cuda:", 0) == 0) {
    const char* end = name.data() + name.size();
    const auto [stop, problem] = std::from_chars(name.data() + 5, end, index);
    known = problem == std::errc() && stop == end && index >= 0;
  }
  if (!known) throw Error(ErrorKind::config, "unknown device '" + name + "'", "device", "use cpu, cuda, cuda:N or auto");
  const int count = at::hasCUDA() ? static_cast<int>(at::globalContext().hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0) : 0;
  // Each rank of a machine takes a GPU of its own, unless the launcher shows each its own alone.
  const bool shown_one = count == 1 && (std::getenv("CUDA_VISIBLE_DEVICES") != nullptr || std::getenv("ROCR_VISIBLE_DEVICES") != nullptr || std::getenv("HIP_VISIBLE_DEVICES") != nullptr);
  if (name == "cuda" && !shown_one) index = process_group::local_rank();
  if (index >= count && count > 0 && name == "cuda")
    throw Error(ErrorKind::unsupported, "rank " + std::to_string(process_group::rank()) + " is number " + std::to_string(index + 1) + " on its machine, which has " + std::to_string(count) + " GPUs", "device",
                "start no more ranks on a machine than it has GPUs, or use device: cpu");
  if (index >= count) {
    throw Error(ErrorKind::unsupported,
                count == 0 ? "this LibTorch sees no GPU" : "there are only " + std::to_string(count) + " GPUs",
                "device: " + name, "use device: cpu, or configure with a CUDA or ROCm build of LibTorch (Torch_DIR)");
  }
  return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
}

bool has_cpu_feature(const std::string& flag) { return cpu_flags().count(flag) > 0; }

bool has_fast_bfloat16(const at::Device& device) {
  return !device.is_cpu() || has_cpu_feature("avx512_bf16") || has_cpu_feature("amx_bf16");
}

bool has_fast_float16(const at::Device& device) { return !device.is_cpu() || has_cpu_feature("amx_fp16"); }

std::string describe(const at::Device& device) {
  if (!device.is_cpu()) return device.str();
  return "cpu (" + std::to_string(at::get_num_threads()) + " threads, " + at::get_cpu_capability() + ")";
}

}  // namespace miq
