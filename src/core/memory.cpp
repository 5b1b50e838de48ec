#include "miq/core/memory.h"

#include <sys/resource.h>
#include <unistd.h>

#ifdef __linux__
#include <malloc.h>
#endif

#include <charconv>
#include <climits>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

namespace miq {
namespace {

// The value in kB of a "Name:   123 kB" line of a /proc file; 0 when it is not there.
std::int64_t proc_bytes(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(key + ":", 0) != 0) continue;
    std::istringstream words(line.substr(key.size() + 1));
    std::int64_t kib = 0;
    words >> kib;
    return kib * 1024;
  }
  return 0;
}

// A cgroup's remaining memory, or a very large number without a limit.
std::int64_t cgroup_available() {
  std::int64_t limit = 0, used = 0;
  std::ifstream max_file("/sys/fs/cgroup/memory.max"), current_file("/sys/fs/cgroup/memory.current");
  if (!(max_file >> limit) || !(current_file >> used)) return std::numeric_limits<std::int64_t>::max();
  return std::max<std::int64_t>(0, limit - used);
}

}  // namespace

std::int64_t anonymous_rss_bytes() { return proc_bytes("/proc/self/status", "RssAnon"); }

AnonymousPeak::AnonymousPeak() : peak_(anonymous_rss_bytes()) {
  thread_ = std::thread([this] {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, std::chrono::milliseconds(20), [this] { return done_; }))
      peak_ = std::max<std::int64_t>(peak_, anonymous_rss_bytes());
  });
}

AnonymousPeak::~AnonymousPeak() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

std::int64_t AnonymousPeak::bytes() { return std::max<std::int64_t>(peak_, anonymous_rss_bytes()); }

std::int64_t peak_rss_bytes() {
  if (const std::int64_t peak = proc_bytes("/proc/self/status", "VmHWM"); peak > 0) return peak;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

void reset_peak_rss() {
  std::ofstream clear("/proc/self/clear_refs");
  clear << "5";
}

#if defined(__GLIBC__)
namespace {
void set_thresholds(int mapped, int trimmed) {
  mallopt(M_MMAP_THRESHOLD, mapped);
  mallopt(M_TRIM_THRESHOLD, trimmed);
}
}  // namespace
RetainedMemory::RetainedMemory() { set_thresholds(1 << 30, INT_MAX); }
RetainedMemory::~RetainedMemory() {
  set_thresholds(32 << 20, 64 << 20);  // the most that glibc adapts itself to
  return_freed_memory();
}
#else
RetainedMemory::RetainedMemory() = default;
RetainedMemory::~RetainedMemory() = default;
#endif

void return_freed_memory() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

std::int64_t available_memory_bytes() {
  const std::int64_t system = proc_bytes("/proc/meminfo", "MemAvailable");
  return std::min(system > 0 ? system : std::int64_t{1} << 30, cgroup_available());
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::string format_bytes(std::int64_t bytes) {
  static const char* const kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::abs(value) >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

std::optional<std::int64_t> parse_bytes(const std::string& text) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, problem] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (problem != std::errc() || number < 0) return std::nullopt;
  const char* unit_start = stop;
  while (unit_start != end && *unit_start == ' ') ++unit_start;
  static const std::map<std::string, double> kUnits = {
      {"", 1},     {"B", 1},      {"KB", 1e3},          {"MB", 1e6},          {"GB", 1e9},          {"TB", 1e12},
      {"KiB", 1024}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0}};
  const auto unit = kUnits.find(std::string(unit_start, end));
  if (unit == kUnits.end() || number * unit->second >= 9.2e18) return std::nullopt;
  return static_cast<std::int64_t>(number * unit->second);
}

}  // namespace miq
