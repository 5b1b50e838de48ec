// Files mapped into memory: nothing is read before it is used, and the kernel takes pages back by itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

namespace miq {

/// A file mapped read-only, or bytes that stand for one. It lives as long as a tensor made from it.
class MappedFile {
 public:
  /// @throws Error{io} with the system's reason: no such file, a folder, not readable.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  /// A copy of `bytes` on the heap, called `name` in messages.
  static std::shared_ptr<const MappedFile> copy(std::string_view bytes, const std::filesystem::path& name);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const char* data() const { return data_; }
  std::int64_t size() const { return size_; }
  /// `bytes` from `offset` on, which the caller has checked to lie inside.
  std::string_view view(std::int64_t offset, std::int64_t bytes) const {
    return {data_ + offset, static_cast<std::size_t>(bytes)};
  }
  /// Tells the kernel that these bytes will soon be read (true) or that their pages can go (false).
  void advise(std::int64_t offset, std::int64_t bytes, bool needed) const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  char* data_ = nullptr;
  std::int64_t size_ = 0;
  bool on_heap_ = false;
};

/// The dense tensor at `offset`, which the caller has checked to lie inside the file: a view that must not
/// be written to, or a copy where the bytes are not aligned for the type.
at::Tensor mapped_tensor(const std::shared_ptr<const MappedFile>& file, std::int64_t offset, at::IntArrayRef shape,
                         at::ScalarType dtype);

}  // namespace miq
