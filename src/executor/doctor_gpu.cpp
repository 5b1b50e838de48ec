// Of `miq doctor`: GPUs.
#include "doctor_checks.h"
#include "miq/core/device.h"
#include "miq/core/device_drivers.h"
#include "miq/core/gpu_kernels.h"

namespace miq::executor {

Checks check_gpus() {
  const int seen = gpu_count();
  Checks checks;
  for (const DriverReport& report : ask_drivers(seen > 0)) {
    nlohmann::ordered_json facts = nlohmann::ordered_json::object();
    if (!report.name.empty()) facts = {{"name", report.name}, {"memory_bytes", report.memory_bytes}, {"usable", report.fix.empty()}};
    checks.push_back(make_check("gpu", report.fix.empty() ? "ok" : "note", report.text, report.fix, facts));
  }
  if (is_built_for_gpus() && seen == 0) checks.push_back(make_check("gpu", "note", "this LibTorch is built for GPUs and sees none", "device: auto computes on the CPU; see that the driver works"));
  if (seen > 0 && gpu_kernels(parse_device("cuda")) == nullptr)
    checks.push_back(make_check("gpu", "note", "this build has no fused kernels: weights are rounded by way of the CPU, and packed ones unpacked for every product", "configure with MIQ_GPU (docs/gpu.md)"));
  if (checks.empty()) checks.push_back(make_check("gpu", "ok", "none; device: auto computes on the CPU"));
  return checks;
}

}  // namespace miq::executor
