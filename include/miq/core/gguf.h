// GGUF v3: llama.cpp's container. Layout: docs of ggml (gguf.md); block types as in ggml-quants.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace miq {

/// A tensor of a GGUF file. `shape` is in the order of the other formats: the fastest axis last.
struct GgufTensor {
  std::string name;
  std::int32_t type = 0;  ///< ggml_type
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0, bytes = 0;  ///< offset from the file's start
};

/// "F32", "Q4_K" ...; "type 99" for one that is not known.
std::string ggml_type_name(std::int32_t type);
bool ggml_is_plain(std::int32_t type);  ///< no blocks: a tensor is a view of the file
/// What GgufFile::tensor() gives for a type: float32 for block types.
at::ScalarType ggml_value_dtype(std::int32_t type);

/// The .gguf file that `path` means: itself, or the only one of a folder that has no other weights.
std::optional<std::filesystem::path> find_gguf(const std::filesystem::path& path);

/// A GGUF file, mapped read-only.
class GgufFile {
 public:
  /// @throws Error{io} for anything but a well-formed file: magic, counts and lengths that the file cannot hold, keys
  /// or tensors that come twice, data that is not where llama.cpp demands it or lies outside; Error{unsupported} for
  /// versions but 2 and 3, big-endian files, and types of tensors that are not known.
  static GgufFile open(const std::filesystem::path& path);
  static GgufFile open(std::shared_ptr<const class MappedFile> file);

  const std::filesystem::path& path() const { return path_; }
  /// Keys and values; arrays as JSON arrays. Texts may have bytes that are not UTF-8.
  const nlohmann::json& metadata() const { return metadata_; }
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }
  /// F32, F16, BF16, F64 and integers as views of the file; block types dequantized to float32, to the bit
  /// as ggml does. @throws Error{io} none of that name, Error{unsupported} for a type it cannot read.
  at::Tensor tensor(const std::string& name) const;
  /// Entries `begin` to `begin + count` of the first axis (at least two axes), for tensors that hold several matrices.
  /// @throws as tensor(); Error{internal} for entries outside.
  at::Tensor rows(const std::string& name, std::int64_t begin, std::int64_t count) const;
  /// The blocks of matrix `index` (of `rows` rows) of a tensor of a block type: a view, uint8 [rows, bytes of a row].
  /// @throws as rows().
  at::Tensor blocks(const std::string& name, std::int64_t index, std::int64_t rows) const;
  void advise(const std::string& name, bool needed) const;  ///< as SafetensorsFile::advise

 private:
  friend class GgufReader;
  const GgufTensor& find(const std::string& name) const;
  at::Tensor read(const GgufTensor& tensor, const std::vector<std::int64_t>& shape, std::int64_t offset) const;
  std::filesystem::path path_;
  std::shared_ptr<const class MappedFile> mapping_;
  nlohmann::json metadata_;
  std::map<std::string, GgufTensor> tensors_;
};

}  // namespace miq
