// Files of torch.save: zip archives and the kind before PyTorch 1.6. Nothing in them is ever run.
// Source: torch/serialization.py and torch/_utils.py (what the stored calls mean).
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "miq/core/safetensors.h"

namespace miq {

/// The tensors of a state dict that torch.save wrote, mapped read-only. Dicts and lists inside it give dotted names
/// ("layer.weight", "scales.0"); where the outermost dict has no tensors itself, the one under "state_dict", "model" or
/// "module" is taken for the whole. What is no tensor is left out.
class TorchFile {
 public:
  /// @throws Error{io} for a file that is damaged or holds no tensors, places outside their storages, expanded tensors
  /// much larger than the file; Error{unsupported} for one that refers to anything but tensors and plain values (it
  /// could run code when unpickled), big-endian or compressed.
  static TorchFile open(const std::filesystem::path& path);
  static TorchFile open(std::shared_ptr<const class MappedFile> file);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, TensorSpec>& specs() const { return specs_; }
  bool has(const std::string& name) const { return specs_.count(name) != 0; }
  /// A contiguous CPU tensor: a view that must not be written to where the stored one is contiguous and aligned,
  /// else a copy. @throws Error{io} when there is none of that name.
  at::Tensor tensor(const std::string& name) const;
  void advise(const std::string& name, bool needed) const;  ///< as MappedFile::advise

 private:
  friend class TorchFileReader;
  struct Place {
    std::int64_t offset = 0, bytes = 0;  // from the file's start; from the first element to the last
    std::vector<std::int64_t> strides;   // in elements; empty when contiguous
  };
  std::filesystem::path path_;
  std::shared_ptr<const class MappedFile> mapping_;
  std::map<std::string, TensorSpec> specs_;
  std::map<std::string, Place> places_;
};

}  // namespace miq
