#include "miq/core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "miq/core/file.h"

namespace miq {
namespace fs = std::filesystem;

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path) {
  // Not blocking: a named pipe would otherwise wait for a writer.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) throw_system_error("open", path, errno);
  struct stat info {};
  const bool failed = ::fstat(descriptor, &info) != 0;
  if (failed || !S_ISREG(info.st_mode)) {
    const int problem = failed ? errno : S_ISDIR(info.st_mode) ? EISDIR : ESPIPE;
    ::close(descriptor);
    throw_system_error("read", path, problem);
  }
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  if (info.st_size > 0) {
    void* data = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int problem = errno;
    ::close(descriptor);
    if (data == MAP_FAILED) throw_system_error("map", path, problem);
    file->data_ = static_cast<char*>(data);
    file->size_ = static_cast<std::int64_t>(info.st_size);
  } else {
    ::close(descriptor);
  }
  return file;
}

std::shared_ptr<const MappedFile> MappedFile::copy(std::string_view bytes, const fs::path& name) {
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = name;
  file->data_ = new char[bytes.size()];
  file->on_heap_ = true;
  file->size_ = static_cast<std::int64_t>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), file->data_);
  return file;
}

MappedFile::~MappedFile() {
  if (on_heap_)
    delete[] data_;
  else if (data_ != nullptr)
    ::munmap(data_, static_cast<size_t>(size_));
}

void MappedFile::advise(std::int64_t offset, std::int64_t bytes, bool needed) const {
  if (on_heap_) return;
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  auto begin = reinterpret_cast<std::uintptr_t>(data_) + static_cast<std::uintptr_t>(offset);
  auto end = begin + static_cast<std::uintptr_t>(bytes);
  // Whole pages only when letting go: a neighbour may still be in use.
  begin = needed ? begin / page * page : (begin + page - 1) / page * page;
  end = needed ? end : end / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, needed ? MADV_WILLNEED : MADV_DONTNEED);
}

at::Tensor mapped_tensor(const std::shared_ptr<const MappedFile>& file, std::int64_t offset, at::IntArrayRef shape,
                         at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(dtype);
  if (c10::multiply_integers(shape) == 0) return at::empty(shape, options);
  char* const data = const_cast<char*>(file->data()) + offset;
  if (reinterpret_cast<std::uintptr_t>(data) % c10::elementSize(dtype) != 0) {
    at::Tensor copy = at::empty(shape, options);
    std::memcpy(copy.mutable_data_ptr(), data, copy.nbytes());
    return copy;
  }
  return at::from_blob(
      data, shape, [file](void*) {}, options);
}

}  // namespace miq
