#include "miq/core/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "miq/core/error.h"

namespace miq {
namespace fs = std::filesystem;
namespace {

std::string fix_for(int error_number) {
  switch (error_number) {
    case ENOENT: return "check the path";
    case EACCES:
    case EPERM:
    case EROFS: return "check the permissions";
    case ENOSPC:
    case EDQUOT: return "free some disk space or choose another folder";
    default: return "";
  }
}

void write_all(int descriptor, std::string_view content, const fs::path& path) {
  while (!content.empty()) {
    const ssize_t count = ::write(descriptor, content.data(), content.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      throw_system_error("write", path, errno);
    }
    content.remove_prefix(static_cast<size_t>(count));
  }
}

// Syncs a folder, so that a rename in it survives a crash. Best effort: some file systems refuse.
void sync_folder(const fs::path& folder) {
  const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

// Removes what runs that were killed left beside `final_path`: partial folders whose process is gone.
void remove_abandoned(const fs::path& final_path) {
  const std::string prefix = final_path.filename().string() + ".partial-";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(final_path.has_parent_path() ? final_path.parent_path() : ".", ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind(prefix, 0) != 0) continue;
    pid_t process = 0;
    const char* const end = name.data() + name.size();
    const auto [stop, problem] = std::from_chars(name.data() + prefix.size(), end, process);
    const bool is_number = problem == std::errc() && stop == end && process > 0;
    if (is_number && ::kill(process, 0) != 0 && errno == ESRCH) fs::remove_all(entry.path(), ignored);
  }
}

}  // namespace

void throw_system_error(const std::string& action, const fs::path& path, int error_number) {
  throw Error(ErrorKind::io, "cannot " + action + " a file or folder: " + std::strerror(error_number), path.string(),
              fix_for(error_number));
}

std::string read_file(const fs::path& path, std::int64_t limit_bytes) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw_system_error("open", path, errno);
  std::string content;
  try {
    struct stat info {};
    if (::fstat(descriptor, &info) != 0) throw_system_error("open", path, errno);
    if (S_ISDIR(info.st_mode)) throw_system_error("read", path, EISDIR);
    char buffer[1 << 16];
    if (info.st_size > 0 && info.st_size <= limit_bytes) content.reserve(static_cast<size_t>(info.st_size));
    for (;;) {
      const ssize_t count = ::read(descriptor, buffer, sizeof buffer);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw_system_error("read", path, errno);
      if (count == 0) break;
      content.append(buffer, static_cast<size_t>(count));
      if (static_cast<std::int64_t>(content.size()) > limit_bytes)
        throw Error(ErrorKind::io, "the file is larger than " + std::to_string(limit_bytes) + " bytes", path.string());
    }
  } catch (...) {
    ::close(descriptor);
    throw;
  }
  ::close(descriptor);
  return content;
}

void rename_synced(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw_system_error("rename", to, errno);
  sync_folder(to.parent_path());
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  const fs::path partial = path.string() + ".partial-" + std::to_string(::getpid());
  const int descriptor = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) throw_system_error("create", partial, errno);
  try {
    write_all(descriptor, content, path);
    if (::fsync(descriptor) != 0) throw_system_error("write", path, errno);
    if (::rename(partial.c_str(), path.c_str()) != 0) throw_system_error("rename", path, errno);
  } catch (...) {
    ::close(descriptor);
    ::unlink(partial.c_str());
    throw;
  }
  ::close(descriptor);
  sync_folder(path.parent_path());
}

StagedFolder::StagedFolder(fs::path final_path) : final_(std::move(final_path)) {
  if (!final_.has_filename()) final_ = final_.parent_path();  // "model/" means "model"
  partial_ = final_.string() + ".partial-" + std::to_string(::getpid());
  std::error_code problem;
  fs::create_directories(final_.has_parent_path() ? final_.parent_path() : ".", problem);
  if (problem) throw_system_error("create", final_.parent_path(), problem.value());
  remove_abandoned(final_);
  fs::remove_all(partial_, problem);
  if (!fs::create_directory(partial_, problem)) throw_system_error("create", partial_, problem ? problem.value() : EEXIST);
}

StagedFolder::~StagedFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(partial_, ignored);
}

void StagedFolder::commit() {
  sync_folder(partial_);
  const fs::path former = final_.string() + ".former-" + std::to_string(::getpid());
  const bool replaces = fs::exists(final_);
  if (replaces && ::rename(final_.c_str(), former.c_str()) != 0) throw_system_error("rename", final_, errno);
  if (::rename(partial_.c_str(), final_.c_str()) != 0) {
    const int problem = errno;
    if (replaces) ::rename(former.c_str(), final_.c_str());
    throw_system_error("rename", partial_, problem);
  }
  committed_ = true;
  std::error_code ignored;
  if (replaces) fs::remove_all(former, ignored);
  sync_folder(final_.parent_path());
}

}  // namespace miq
