// Of `miq doctor`: LibTorch, processor, threads, memory, disks.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fcntl.h>
#include <sched.h>
#include <torch/version.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <regex>
#include <sstream>

#include "doctor_checks.h"
#include "dry_run.h"
#include "miq/core/device.h"
#include "miq/core/error.h"
#include "miq/core/memory.h"
#include "miq/quantizer/packed_linear.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// The first group of the pattern in LibTorch's account of its build.
std::string found(const std::string& text, const std::string& pattern) {
  std::smatch match;
  return std::regex_search(text, match, std::regex(pattern)) ? match[1].str() : "";
}

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

// Processors that this process may run on.
int allowed_cores() {
  for (const char* binds : {"GOMP_CPU_AFFINITY", "OMP_PROC_BIND"})  // this thread alone would be seen
    if (!variable(binds).empty()) return static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
}

// The cgroup's limit in processors; 0: none. Version 2, then version 1.
double cgroup_cores() {
  std::string quota;
  double period = 0;
  if (std::ifstream both("/sys/fs/cgroup/cpu.max"); both >> quota >> period) return quota == "max" || period <= 0 ? 0 : std::strtod(quota.c_str(), nullptr) / period;
  double microseconds = 0;
  std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  return quota_file >> microseconds && period_file >> period && microseconds > 0 && period > 0 ? microseconds / period : 0;
}

// Settings of the environment that make work slower, with why.
Checks harmful_settings(int cores) {
  Checks checks;
  const auto note = [&](const std::string& name, const std::string& what, const std::string& fix) { checks.push_back(make_check("threads", "note", name + "=" + variable(name.c_str()) + ": " + what, fix)); };
  const std::string policy = variable("OMP_WAIT_POLICY");
  if (policy == "ACTIVE" || policy == "active") note("OMP_WAIT_POLICY", "waiting threads keep their core busy, which hurts wherever another program runs too", "set OMP_WAIT_POLICY=PASSIVE");
  for (const char* name : {"GOMP_CPU_AFFINITY", "KMP_AFFINITY"})
    if (!variable(name).empty()) note(name, "threads are bound to processors: two programs with the same setting share one core while others are idle", "unset " + std::string(name));
  if (const std::string bind = variable("OMP_PROC_BIND"); !bind.empty() && bind != "false" && bind != "FALSE")
    note("OMP_PROC_BIND", "threads are bound to processors: two programs with the same setting share one core while others are idle", "unset OMP_PROC_BIND");
  if (const std::string dynamic = variable("OMP_DYNAMIC"); dynamic == "true" || dynamic == "TRUE") note("OMP_DYNAMIC", "the number of threads changes while work goes on, and with it the order of sums", "unset OMP_DYNAMIC");
  for (const char* name : {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT"})
    if (const int value = std::atoi(variable(name).c_str()); value > 0 && value < cores) note(name, "fewer threads than the " + std::to_string(cores) + " processors", "unset " + std::string(name) + " if nothing else needs them");
  for (const char* name : {"ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"})
    if (!variable(name).empty()) note(name, "the processor's instructions are limited", "unset " + std::string(name));
  return checks;
}

// Whether hidden states can rest in a file without a name there.
std::string unnamed_file_problem(const fs::path& folder) {
  std::string path = (folder / ".miq-doctor-XXXXXX").string();
  const int descriptor = ::mkstemp(path.data());
  if (descriptor < 0) return std::generic_category().message(errno);
  const bool unlinked = ::unlink(path.c_str()) == 0;
  const int problem = ::posix_fallocate(descriptor, 0, 1 << 20);
  const char byte = 1;
  const bool written = problem == 0 && ::pwrite(descriptor, &byte, 1, (1 << 20) - 1) == 1;
  ::close(descriptor);
  if (problem != 0) return std::generic_category().message(problem);
  return !unlinked ? "a file that is open cannot be removed" : written ? "" : std::generic_category().message(errno);
}

Json disk_check(const std::string& what, const fs::path& folder, bool is_needed, const std::string& fix) {
  constexpr std::int64_t kFew = std::int64_t{5} << 30;
  std::error_code problem;
  const fs::path there = existing_part(folder);
  const fs::space_info space = fs::space(there, problem);
  if (problem) return make_check("disk", is_needed ? "problem" : "note", what + " " + folder.string() + ": " + problem.message(), fix);
  const auto free = static_cast<std::int64_t>(space.available);
  Json facts = {{"folder", folder.string()}, {"free_bytes", free}};
  const std::string text = what + " " + folder.string() + ": " + format_bytes(free) + " free of " + format_bytes(static_cast<std::int64_t>(space.capacity));
  if (!is_needed) return make_check("disk", "ok", text, "", facts);
  if (::access(there.c_str(), W_OK | X_OK) != 0) return make_check("disk", "problem", text + ", but it may not be written", fix, facts);
  if (const std::string reason = unnamed_file_problem(there); !reason.empty()) return make_check("disk", "problem", text + ", but no file without a name can be made: " + reason, fix, facts);
  return make_check("disk", free < kFew ? "note" : "ok", text + "; files without a name work", free < kFew ? "a checkpoint of 7 billion parameters takes 4 GiB at 4 bits, 13 GiB at 16" : "", facts);
}

}  // namespace

Checks check_libtorch() {
  const std::string config = at::show_config();
  const std::string blas = found(config, "BLAS_INFO=([^,\\s]+)"), onednn = found(at::get_mkldnn_version(), "v([0-9.]+)"), mkl = found(at::get_mkl_version(), "Version ([0-9.]+)");
  const std::string openmp = found(at::get_openmp_version(), "OpenMP ([0-9]+)");
  Json facts = {{"version", TORCH_VERSION}, {"cpu_capability", at::get_cpu_capability()}, {"blas", blas}, {"onednn", onednn}, {"mkl", mkl}, {"openmp", openmp}};
  Checks checks;
  checks.push_back(make_check("libtorch", "ok", std::string(TORCH_VERSION) + ", " + at::get_cpu_capability() + "; BLAS " + (blas.empty() ? "unknown" : blas) + (mkl.empty() ? "" : ", MKL " + mkl) +
                                  (onednn.empty() ? "" : ", oneDNN " + onednn), "", facts));
  if (onednn.empty()) checks.push_back(make_check("libtorch", "note", "it is built without oneDNN: products in bfloat16 are slow", "use the torch wheel's LibTorch, or build it with USE_MKLDNN=1"));
  if (!at::hasLAPACK()) checks.push_back(make_check("libtorch", "problem", "it is built without LAPACK: Hessians cannot be factored", "use the torch wheel's LibTorch, or build it with LAPACK"));
  if (openmp.empty()) checks.push_back(make_check("libtorch", "note", "it is built without OpenMP: one thread does all the work", "use the torch wheel's LibTorch"));
#ifdef USE_C10D_GLOO
  checks.push_back(make_check("libtorch", "ok", "processes can work together over gloo", "", {{"gloo", true}}));
#else
  checks.push_back(make_check("libtorch", "note", "it is built without gloo: processes cannot work together", "only needed for more than one process; use the torch wheel's LibTorch", {{"gloo", false}}));
#endif
  return checks;
}

Checks check_cpu() {
  static const std::pair<const char*, const char*> kFeatures[] = {{"avx2", "AVX2"}, {"fma", "FMA"}, {"f16c", "F16C"}, {"avx512f", "AVX-512"}, {"avx512_vnni", "AVX-512 VNNI"}, {"avx_vnni", "AVX-VNNI"},
                                                                  {"avx512_bf16", "AVX-512 BF16"}, {"amx_bf16", "AMX-BF16"}, {"amx_int8", "AMX-INT8"}, {"amx_fp16", "AMX-FP16"}};
  Json features = Json::array();
  std::string list;
  for (const auto& [flag, name] : kFeatures)
    if (has_cpu_feature(flag)) {
      features.push_back(flag);
      list += (list.empty() ? "" : ", ") + std::string(name);
    }
  static const char* const kKernels[] = {"portable", "AVX2", "AVX-512"};
  const std::string kernels = kKernels[static_cast<int>(quantizer::simd())];
  const bool fast = has_fast_bfloat16(at::kCPU);
  Checks checks;
  checks.push_back(make_check("cpu", list.empty() ? "note" : "ok", (list.empty() ? "none of the instructions that our kernels know" : list) + "; packed kernels: " + kernels + "; bfloat16 products are " + (fast ? "fast" : "not faster than float32's"),
                              list.empty() ? "it works, slowly" : "", {{"features", features}, {"kernels", kernels}, {"fast_bfloat16", fast}}));
  const int threads = at::get_num_threads(), allowed = allowed_cores();
  const double limit = cgroup_cores();
  const int cores = limit > 0 ? std::max(1, std::min(allowed, static_cast<int>(std::ceil(limit)))) : allowed;
  Json facts = {{"threads", threads}, {"processors", allowed}, {"cgroup_limit", limit > 0 ? Json(limit) : Json()}};
  char quota[48] = "";
  if (limit > 0) std::snprintf(quota, sizeof quota, ", of which the cgroup gives %.1f", limit);
  const std::string text = std::to_string(threads) + (threads == 1 ? " thread on " : " threads on ") + std::to_string(allowed) + (allowed == 1 ? " processor" : " processors") + quota;
  if (threads > cores) checks.push_back(make_check("threads", "note", text + ": too many, they wait for each other", "set OMP_NUM_THREADS=" + std::to_string(cores), facts));
  else checks.push_back(make_check("threads", "ok", text, "", facts));
  for (Json& check : harmful_settings(cores)) checks.push_back(std::move(check));
  return checks;
}

Checks check_memory() {
  constexpr std::int64_t kFew = std::int64_t{1} << 30;
  const std::int64_t available = available_memory_bytes(), total = static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  std::int64_t limit = 0;
  std::ifstream("/sys/fs/cgroup/memory.max") >> limit;  // "max" leaves 0
  const std::string text = format_bytes(available) + " available of " + format_bytes(total) + (limit > 0 && limit < total ? ", the cgroup allows " + format_bytes(limit) : "");
  const Json facts = {{"available_bytes", available}, {"total_bytes", total}, {"cgroup_limit_bytes", limit > 0 && limit < total ? Json(limit) : Json()}};
  return {make_check("memory", available < kFew ? "note" : "ok", text, available < kFew ? "give jobs --memory SIZE, and pipeline.offload: disk (docs/scaling.md)" : "", facts)};
}

Checks check_disk(const DoctorConfig& config) {
  Checks checks = {disk_check("output", config.output, true, "choose another folder with --output")};
  std::error_code problem;
  const fs::path temporary = fs::temp_directory_path(problem);
  if (problem) checks.push_back(make_check("disk", "note", "there is no folder for temporary files: " + problem.message(), "set TMPDIR"));
  else checks.push_back(disk_check("temporary files", temporary, true, "set TMPDIR"));
  checks.push_back(disk_check("data", config.data_dir, false, "choose another folder with --data-dir or MIQ_DATA"));
  return checks;
}

}  // namespace miq::executor
