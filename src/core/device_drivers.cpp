#include "miq/core/device_drivers.h"

#include <dlfcn.h>
#include <unistd.h>

#include <initializer_list>
#include <utility>

#include "miq/core/memory.h"

namespace miq {
namespace {

struct Library {
  explicit Library(std::initializer_list<const char*> names, int more = 0) {
    for (const char* name : names)
      if (handle == nullptr) handle = ::dlopen(name, RTLD_LAZY | RTLD_LOCAL | more);
  }
  ~Library() {
    if (handle != nullptr) ::dlclose(handle);
  }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  // A function of C: all of them return a status, 0 for success. One that is not there fails.
  template <class... Arguments>
  int call(const char* name, Arguments... arguments) const {
    const auto function = reinterpret_cast<int (*)(Arguments...)>(::dlsym(handle, name));
    return function == nullptr ? -1 : function(arguments...);
  }
  void* handle = nullptr;
};

constexpr std::initializer_list<const char*> kCudaDriver = {"libcuda.so.1"}, kHipRuntime = {"libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"};

// `usable`: whether this LibTorch computes on such devices.
DriverReport device_report(const std::string& name, std::int64_t bytes, const std::string& capability, bool usable, const std::string& kind) {
  return {name + ", " + format_bytes(bytes) + ", " + capability + (usable ? "" : "; this LibTorch cannot use it"), usable ? "" : "configure with a " + kind + " build of LibTorch (Torch_DIR)", name, bytes};
}

DriverReport trouble(std::string text, std::string fix) { return {std::move(text), std::move(fix), "", 0}; }

// The interface of libcuda: https://docs.nvidia.com/cuda/cuda-driver-api
std::vector<DriverReport> nvidia(bool usable) {
  const Library driver(kCudaDriver);
  const bool kernel_module = ::access("/proc/driver/nvidia/version", R_OK) == 0;
  if (driver.handle == nullptr) {
    if (!kernel_module) return {};
    return {trouble("NVIDIA's kernel module is loaded, but libcuda.so.1 is not found", "install the driver's library; in a container, run it with --gpus all")};
  }
  constexpr int kNoDevice = 100, kMajor = 75, kMinor = 76;
  const int status = driver.call("cuInit", 0u);
  if (status == kNoDevice && !kernel_module) return {};
  if (status != 0) return {trouble("NVIDIA's driver does not start: error " + std::to_string(status) + " of cuInit", "see that nvidia-smi works: the driver and its library must be of one version")};
  int version = 0, count = 0;
  driver.call("cuDriverGetVersion", &version);
  driver.call("cuDeviceGetCount", &count);
  std::vector<DriverReport> reports;
  for (int d = 0; d < count; ++d) {
    int device = 0, major = 0, minor = 0;
    size_t bytes = 0;
    char name[128] = "";
    if (driver.call("cuDeviceGet", &device, d) != 0) continue;
    driver.call("cuDeviceGetName", static_cast<char*>(name), 127, device);
    driver.call("cuDeviceTotalMem_v2", &bytes, device);
    driver.call("cuDeviceGetAttribute", &major, kMajor, device);
    driver.call("cuDeviceGetAttribute", &minor, kMinor, device);
    reports.push_back(device_report(name, static_cast<std::int64_t>(bytes), "compute capability " + std::to_string(major) + "." + std::to_string(minor) + ", driver for CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10), usable, "CUDA"));
  }
  return reports;
}

// The interface of HIP's runtime: https://rocm.docs.amd.com/projects/HIP
std::vector<DriverReport> amd(bool usable) {
  if (::access("/dev/kfd", F_OK) != 0) return {};
  const Library runtime(kHipRuntime);
  if (runtime.handle == nullptr) return {trouble("AMD's kernel driver is loaded, but the HIP runtime (libamdhip64.so) is not found", "install ROCm, and configure with a ROCm build of LibTorch (Torch_DIR)")};
  if (::access("/dev/kfd", R_OK | W_OK) != 0) return {trouble("/dev/kfd may not be opened", "add the user to the groups render and video")};
  int count = 0, version = 0;
  if (const int status = runtime.call("hipGetDeviceCount", &count); status != 0) return {trouble("the HIP runtime does not start: error " + std::to_string(status), "see that rocminfo works")};
  runtime.call("hipRuntimeGetVersion", &version);
  std::vector<DriverReport> reports;
  for (int d = 0; d < count; ++d) {
    char name[128] = "";
    size_t bytes = 0;
    runtime.call("hipDeviceGetName", static_cast<char*>(name), 127, d);
    runtime.call("hipDeviceTotalMem", &bytes, d);
    reports.push_back(device_report(name, static_cast<std::int64_t>(bytes), "HIP " + std::to_string(version / 10000000) + "." + std::to_string(version / 100000 % 100), usable, "ROCm"));
  }
  return reports;
}

}  // namespace

std::string loaded_driver_gpu_name(int index) {
  char name[128] = "";
  const Library cuda(kCudaDriver, RTLD_NOLOAD), hip(kHipRuntime, RTLD_NOLOAD);
  if (cuda.handle != nullptr && cuda.call("cuDeviceGetName", static_cast<char*>(name), 127, index) == 0) return name;
  if (hip.handle != nullptr && hip.call("hipDeviceGetName", static_cast<char*>(name), 127, index) == 0) return name;
  return {};
}

std::vector<DriverReport> ask_drivers(bool usable) {
  std::vector<DriverReport> reports = nvidia(usable);
  for (DriverReport& report : amd(usable)) reports.push_back(std::move(report));
  return reports;
}

}  // namespace miq
