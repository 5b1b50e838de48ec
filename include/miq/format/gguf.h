// GGUF exports: one file for llama.cpp with weights in ggml's types. Codes go over as they are where a type holds the grid;
// else the quantized values are quantized once more.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "miq/core/checkpoint.h"
#include "miq/core/gguf_writer.h"
#include "miq/format/export_writer.h"
#include "miq/format/format.h"

namespace miq::format {

/// What the model and its tokenizer are in a GGUF file (from libraries that this one does not know).
struct GgufNames {
  GgufMetadata metadata;  ///< without general.file_type and general.quantization_version
  /// Where a tensor of the checkpoint goes; nullopt: it is left out.
  std::function<std::optional<GgufPlace>(const std::string& tensor)> place;
  std::map<std::string, at::Tensor> extra;  ///< float32 tensors under their names in the file
};

/// The types and mixes of FormatOptions::variant, as llama-quantize names them, in lower case: "f16", "q8_0", "q4_k_m" ...
/// With "-pure" behind it, every matrix gets the mix's main type.
std::vector<std::string> gguf_variants();

/// The variant that an export of these linears gets when the user names none: "" when all have a type without loss (each gets
/// the smallest one, what is not quantized stays as it is), else the mix nearest to their bits.
std::string choose_gguf_variant(const std::vector<Scheme>& schemes);

/// What a linear loses when it is written as this ggml_type: one sentence; nullopt: nothing.
std::optional<std::string> gguf_loss(const Scheme& scheme, std::int32_t type);
/// The smallest type that holds the weights of such a linear without loss.
std::optional<std::int32_t> lossless_gguf_type(const Scheme& scheme);

/// Codes and scales as blocks of `type`, uint8 [O, bytes of a row]; the minimum of Q4_1 and Q5_1 is rounded to float16.
/// nullopt: codes, scales or the linear's parts do not fit the type.
std::optional<at::Tensor> gguf_blocks_of_codes(const quantizer::QuantizedLinear& linear, std::int32_t type);
/// The reverse: a matrix that lies in blocks of Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0 as a quantized linear of groups of 32.
/// nullopt: another type, or blocks whose values scale * (code - zero) cannot give.
std::optional<quantizer::QuantizedLinear> quantized_from_gguf(const PackedRows& rows);

/// A tensor of the file, as planned.
struct GgufPlanned {
  GgufTensorSpec spec;
  std::vector<std::string> sources;  ///< the checkpoint's tensors in it: one, or one for each expert
};

/// Writes one GGUF file as blocks finish. `source` gives the tensors that stay as they are.
class GgufExport : public ExportWriter {
 public:
  /// `schemes`: the linears that put() will bring quantized; `added`: tensors that the source lacks (an untied head).
  /// @throws Error{config} for an unknown variant; what names.place and GgufWriter throw.
  GgufExport(const std::filesystem::path& file, const TensorSource& source, const std::vector<Scheme>& schemes, const FormatOptions& options,
             GgufNames names, const std::vector<TensorSpec>& added = {});

  const std::vector<GgufPlanned>& tensors() const { return planned_; }
  /// The ggml_type of a tensor of the checkpoint; nullopt for one that is left out.
  std::optional<std::int32_t> type_of(const std::string& tensor) const;

  /// `importance_I`: weights of the columns' errors where the linear is quantized once more (K types alone use them).
  void put(const std::string& linear, const quantizer::QuantizedLinear& quantized, const at::Tensor& importance_I = {});
  void put(const std::vector<NamedLinear>& fused) override;
  void put(const std::string& tensor, const at::Tensor& values) override;
  void copy(const std::string& tensor);  ///< of the source
  /// Linears that were to go over without loss, but did not fit.
  const std::vector<std::string>& requantized() const { return requantized_; }
  /// Copies what is still missing, and closes. @throws Error{internal} when a linear never came.
  void finish() override;

 private:
  struct Target {
    GgufPlace place;
    std::int32_t type = 0;
  };
  void write(const std::string& tensor, const at::Tensor& data);
  const Target& take(const std::string& tensor);

  const TensorSource* source_;
  std::vector<GgufPlanned> planned_;
  std::map<std::string, Target> targets_;  // by the checkpoint's names
  std::set<std::string> waiting_, unwritten_;
  std::vector<std::string> requantized_;
  std::unique_ptr<GgufWriter> writer_;
};

}  // namespace miq::format
