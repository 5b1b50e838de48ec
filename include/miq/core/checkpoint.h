// A checkpoint's tensors by name, wherever they lie: safetensors or torch.save, one file or shards with an index.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "miq/core/safetensors.h"

namespace miq {

/// The rows of a matrix as a container packs them: blocks of codes with scales (GGUF).
struct PackedRows {
  std::int32_t type = 0;  ///< ggml_type
  at::Tensor blocks;      ///< uint8 [O, bytes of a row], rows in the order of tensor()
};

/// Read access to named tensors. Other containers (GGUF) implement the same.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual std::vector<TensorSpec> specs() const = 0;  ///< sorted by name
  virtual bool has(const std::string& name) const = 0;
  /// A CPU tensor that must not be written to. @throws Error{io}
  virtual at::Tensor tensor(const std::string& name) const = 0;
  /// The same matrix as it is packed, which must not be written to; nullopt where the container stores its values. @throws Error{io}
  virtual std::optional<PackedRows> packed(const std::string& /*name*/) const { return std::nullopt; }
  /// A hint: `name` will soon be read (true), or its pages can go (false).
  virtual void advise(const std::string& name, bool needed) const {}
  virtual std::int64_t bytes() const = 0;  ///< of all tensors
  /// Whether tensor() gives views of the files (as a rule), which take no memory beside the page cache.
  virtual bool gives_views() const { return true; }
};

/// Opens the checkpoint of a Hugging Face folder: safetensors, else pytorch_model.bin, single or with an index; or one
/// .safetensors, .bin, .pt or .pth file.
/// @throws Error{io}: no such folder, no weights in it, a shard that the index names is missing or lacks its tensors;
/// what SafetensorsFile::open and TorchFile::open throw.
std::shared_ptr<TensorSource> open_checkpoint(const std::filesystem::path& path);

/// Whether `folder` holds weights that open_checkpoint takes.
bool has_checkpoint(const std::filesystem::path& folder);

/// Writes `model.safetensors`, or shards of at most `shard_bytes` and `model.safetensors.index.json`, into `folder`, in the
/// order in which tensors come. A shard is closed when it is full; the shards' final names, which tell their number, come last.
class CheckpointWriter {
 public:
  /// `tensors`, `bytes`: how much is expected; both may be exceeded. @throws Error{io} when there is not so much space.
  CheckpointWriter(std::filesystem::path folder, std::int64_t tensors, std::int64_t bytes, std::int64_t shard_bytes);
  /// @throws Error{internal} for a name that comes twice, Error{io}.
  void write(const std::string& name, const at::Tensor& tensor);
  void finish();

 private:
  void open_shard();
  std::filesystem::path folder_;
  std::int64_t tensors_, bytes_, shard_bytes_, written_ = 0;
  std::optional<SafetensorsWriter> shard_;
  std::vector<std::filesystem::path> shards_;
  std::map<std::string, size_t> shard_of_;
};

}  // namespace miq
