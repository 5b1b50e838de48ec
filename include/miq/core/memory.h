// Memory and time of this process, and byte counts as people write them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace miq {

/// Anonymous resident memory of this process now, in bytes: what it allocated, without the pages of
/// mapped files, which the kernel takes back when it needs them (Linux: RssAnon).
std::int64_t anonymous_rss_bytes();
/// Highest resident set since the start or the last reset, mapped files included, in bytes.
std::int64_t peak_rss_bytes();
/// Starts the peak anew from now (Linux; elsewhere it does nothing).
void reset_peak_rss();

/// Watches anonymous_rss_bytes() from a thread of its own, fifty times a second, while it lives.
class AnonymousPeak {
 public:
  AnonymousPeak();
  ~AnonymousPeak();
  AnonymousPeak(const AnonymousPeak&) = delete;
  AnonymousPeak& operator=(const AnonymousPeak&) = delete;
  std::int64_t bytes();  ///< the highest so far

 private:
  std::atomic<std::int64_t> peak_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool done_ = false;
  std::thread thread_;
};
/// While it lives, memory that is freed stays with the process for the next use: large buffers that come and go cost a page fault
/// for every page each time else. Its end gives it back (glibc; elsewhere it does nothing).
class RetainedMemory {
 public:
  RetainedMemory();
  ~RetainedMemory();
  RetainedMemory(const RetainedMemory&) = delete;
  RetainedMemory& operator=(const RetainedMemory&) = delete;
};

/// Gives memory that was freed back to the system, where the allocator keeps it (glibc).
void return_freed_memory();
/// Memory that can still be allocated without swapping, in bytes (Linux: MemAvailable and the
/// cgroup's limit, the smaller).
std::int64_t available_memory_bytes();
/// CPU seconds of all threads so far, user and system.
double cpu_seconds();

/// "270.5 MiB". Powers of 1024.
std::string format_bytes(std::int64_t bytes);
/// Parses "5GiB", "512 MiB", "4GB" (powers of 1000), "1024"; nullopt when it is none of these or
/// does not fit 63 bits.
std::optional<std::int64_t> parse_bytes(const std::string& text);

}  // namespace miq
