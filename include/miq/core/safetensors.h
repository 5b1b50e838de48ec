// Safetensors: an 8-byte little-endian header length, a JSON header, raw little-endian data.
// Source: https://github.com/huggingface/safetensors (format section of its README).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace miq {

/// A tensor's place in a file, or its shape and type before there is one.
struct TensorSpec {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<std::int64_t> shape;

  std::int64_t numel() const;
  std::int64_t bytes() const;
};

/// A safetensors file, mapped read-only. Tensors are views of the mapping: nothing is read until it
/// is used, and the mapping lives as long as any of them.
class SafetensorsFile {
 public:
  /// @throws Error{io} for anything but a well-formed file: too short, header not JSON or longer
  /// than 100 MB, unknown dtype, offsets that overlap, leave gaps, do not fit the shape or the file.
  static SafetensorsFile open(const std::filesystem::path& path);
  static SafetensorsFile open(std::shared_ptr<const class MappedFile> file);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, TensorSpec>& specs() const { return specs_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool has(const std::string& name) const { return specs_.count(name) != 0; }
  /// A CPU view that must not be written to. @throws Error{io} when there is none of that name.
  at::Tensor tensor(const std::string& name) const;
  /// Tells the kernel that `name` will soon be read (true) or is no longer needed (false).
  void advise(const std::string& name, bool needed) const;

 private:
  std::filesystem::path path_;
  std::shared_ptr<const class MappedFile> mapping_;
  std::map<std::string, TensorSpec> specs_;
  std::map<std::string, std::int64_t> offsets_;  // from the file's start
  std::map<std::string, std::string> metadata_;
};

/// Writes one safetensors file, tensor by tensor in any order; the header follows at the end, into the room left for it. The
/// file stands under `path` from the start: write into a StagedFolder.
class SafetensorsWriter {
 public:
  /// `tensors`: how many may come at most; `bytes`: of data expected, reserved at once, so that a full disk is found before the
  /// work. @throws Error{io}
  SafetensorsWriter(std::filesystem::path path, std::int64_t tensors, std::int64_t bytes);
  ~SafetensorsWriter();
  SafetensorsWriter(SafetensorsWriter&&) noexcept;

  /// Tensors whose size is not a multiple of 8 bytes wait for finish(), behind all others: readers map tensors, which
  /// must be aligned, and the format allows no gaps. @throws Error{internal} for a name that comes twice, Error{io} when the
  /// disk is full.
  void write(const std::string& name, const at::Tensor& tensor);
  bool has_room_for(const std::string& name) const;  ///< in the header
  std::int64_t bytes() const { return bytes_; }      ///< of data so far
  /// Writes the header, syncs and closes. @throws Error{io}.
  void finish();

 private:
  void append(const std::string& name, const at::Tensor& tensor);
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::int64_t header_room_ = 0, header_used_ = 0, bytes_ = 0, end_ = 0;
  std::vector<std::pair<TensorSpec, std::int64_t>> written_;  // with offsets
  std::map<std::string, at::Tensor> waiting_;
  std::set<std::string> names_;
};

/// Writes all tensors at once; for small files and tests.
void save_safetensors(const std::filesystem::path& path, const std::map<std::string, at::Tensor>& tensors);

}  // namespace miq
