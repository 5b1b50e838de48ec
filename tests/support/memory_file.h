// A file that lies in memory only: for tests that open thousands of small files.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

namespace miq::test {

/// Linux: a memfd, opened by its path under /proc.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("miq-test", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {
    if (descriptor_ < 0) throw std::runtime_error("cannot make a file in memory");
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Replaces the content; nothing may have it mapped.
  void write(std::string_view content) {
    if (::ftruncate(descriptor_, static_cast<off_t>(content.size())) != 0 ||
        ::pwrite(descriptor_, content.data(), content.size(), 0) != static_cast<ssize_t>(content.size()))
      throw std::runtime_error("cannot write a file in memory");
  }

 private:
  int descriptor_;
  std::filesystem::path path_;
};

}  // namespace miq::test
