// Files: whole reads with clear errors, atomic writes, and folders that appear under their final
// name only when they are whole.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace miq {

/// The whole file. @throws Error{io} naming the path and the system's reason; also when it is
/// larger than `limit_bytes`.
std::string read_file(const std::filesystem::path& path, std::int64_t limit_bytes = std::int64_t{1} << 32);

/// Writes `path` under a temporary name, syncs, and renames: a reader sees the old file or the whole
/// new one. @throws Error{io}, leaving no temporary file.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// Renames a file that is written and synced, replacing a former one, so that the rename survives a crash. @throws Error{io}
void rename_synced(const std::filesystem::path& from, const std::filesystem::path& to);

/// A folder being written. Made as `<final>.partial-<pid>`; commit() renames it to its final name,
/// replacing a former one; without commit() the destructor removes it. What a killed process left of
/// its own is removed when the next one starts.
class StagedFolder {
 public:
  explicit StagedFolder(std::filesystem::path final_path);  ///< @throws Error{io}
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const std::filesystem::path& path() const { return partial_; }
  void commit();  ///< @throws Error{io}

 private:
  std::filesystem::path final_, partial_;
  bool committed_ = false;
};

/// Error{io} for a failed system call on `path`: `action` ("open", "write"), errno's text, and a fix
/// for the common causes (no such file, permission, disk full).
[[noreturn]] void throw_system_error(const std::string& action, const std::filesystem::path& path, int error_number);

}  // namespace miq
