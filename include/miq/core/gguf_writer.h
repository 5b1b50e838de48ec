// Writing GGUF v3: metadata with their types, and tensors in ggml's types. Layout: docs of ggml (gguf.md).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace miq {

/// A value of a GGUF key; its alternative is the type that is written.
using GgufValue = std::variant<std::uint32_t, std::int32_t, float, bool, std::string, std::vector<std::string>, std::vector<float>,
                               std::vector<std::int32_t>>;
/// In the order in which they are written.
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

/// ggml_type.
enum GgmlTypeId : std::int32_t {
  kGgmlF32 = 0,
  kGgmlF16 = 1,
  kGgmlQ4_0 = 2,
  kGgmlQ4_1 = 3,
  kGgmlQ5_0 = 6,
  kGgmlQ5_1 = 7,
  kGgmlQ8_0 = 8,
  kGgmlQ2_K = 10,
  kGgmlQ3_K = 11,
  kGgmlQ4_K = 12,
  kGgmlQ5_K = 13,
  kGgmlQ6_K = 14,
  kGgmlBf16 = 30,
};

/// Where a tensor of Hugging Face's checkpoint goes in a GGUF file.
struct GgufPlace {
  std::string name;
  std::int64_t heads = 0;    ///< above 0: rows of so many heads stand in the order of interleaved rotation
  std::int64_t expert = -1;  ///< its entry along the first axis of a tensor that holds `experts`
  std::int64_t experts = 0;
};

/// The rows of q and k (weights or biases) of `heads` heads from Hugging Face's order to that of interleaved rotation, and back.
/// Source: llama.cpp convert_hf_to_gguf.py (LlamaModel.permute). @throws Error{io} for rows that are not pairs in each head.
at::Tensor to_interleaved_rows(const at::Tensor& rows, std::int64_t heads);
at::Tensor from_interleaved_rows(const at::Tensor& rows, std::int64_t heads);

/// Values in a block of a type (1 for plain ones), and a block's bytes. @throws Error{internal} for an unknown type.
std::int64_t ggml_block_values(std::int32_t type);
std::int64_t ggml_block_bytes(std::int32_t type);
/// Whether ggml_encode() makes it.
bool ggml_can_encode(std::int32_t type);

/// `values` [..., I] in `type`. F32, F16, BF16: a tensor of that type and shape. Q4_0 - Q8_0: as ggml's reference quantizers,
/// to the bit. Q2_K - Q6_K: our own search, which minimises the squared error, weighted by `importance_I` (float32 [I], not
/// negative) when it is defined. Blocks: uint8 [..., bytes of a row].
/// @throws Error{numeric} for values that are not finite, or not in float16; Error{internal} for another type, or rows that
/// are not whole blocks.
at::Tensor ggml_encode(const at::Tensor& values, std::int32_t type, const at::Tensor& importance_I = {});
/// The values, float32 [..., I], of blocks as ggml_encode() gives them.
at::Tensor ggml_decode(const at::Tensor& blocks, std::int32_t type);

struct GgufTensorSpec {
  std::string name;
  std::int32_t type = 0;            ///< ggml_type
  std::vector<std::int64_t> shape;  ///< the fastest axis last
};

/// Writes one GGUF file whose tensors are known beforehand and arrive in any order. The file stands under `path`
/// from the start: write into a StagedFolder.
class GgufWriter {
 public:
  /// @throws Error{internal} for names that come twice, are empty or too long for llama.cpp (63 bytes), shapes that a type
  /// cannot have; Error{io} when the file cannot be made or the disk has no room for it.
  GgufWriter(std::filesystem::path path, const GgufMetadata& metadata, const std::vector<GgufTensorSpec>& tensors);
  ~GgufWriter();
  GgufWriter(const GgufWriter&) = delete;
  GgufWriter& operator=(const GgufWriter&) = delete;

  /// `data` as ggml_encode() gives it. @throws Error{internal} when it is not what was announced, or comes twice;
  /// Error{io} when the disk is full.
  void write(const std::string& name, const at::Tensor& data);
  /// One entry along the first axis (an expert's matrix). @throws likewise.
  void write_entry(const std::string& name, std::int64_t entry, const at::Tensor& data);
  /// Syncs and closes. @throws Error{internal} naming a tensor that is missing; Error{io}.
  void finish();

 private:
  struct Slot {
    GgufTensorSpec spec;
    std::int64_t offset = 0, bytes = 0;  // offset from the file's start
    std::vector<bool> written;           // each entry of the first axis; one for a tensor that comes whole
  };
  Slot& slot(const std::string& name);
  void put(Slot& slot, std::int64_t entries, std::int64_t entry, const at::Tensor& data);

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::map<std::string, Slot> slots_;
};

}  // namespace miq
