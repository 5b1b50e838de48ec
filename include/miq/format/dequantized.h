// The plainest export: a Hugging Face checkpoint whose weights are the quantized values, in the
// original's types. Anything that reads the original reads it.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "miq/core/checkpoint.h"
#include "miq/quantizer/quantized_linear.h"

namespace miq::format {

/// What a transform changes beside weights of linears.
struct ModelChanges {
  std::vector<TensorSpec> extra;                             ///< tensors that the original lacks (an untied head)
  nlohmann::json config = nlohmann::json::object();          ///< merged into config.json
  std::map<std::string, std::string> files;                  ///< name -> content: over what the original folder has
  std::map<std::string, at::ScalarType> dtypes;              ///< tensors that are stored in another type than the source's
};

/// Writes the checkpoint as blocks finish. `source` gives the tensors that stay as they are.
class DequantizedWriter {
 public:
  /// Copies config and tokenizer files of `original`, where it is a folder, into `folder` and lays out the shards.
  /// `quantized`: names of the linears (without .weight) that put() will bring.
  /// @throws Error{io} for what cannot be copied or written.
  DequantizedWriter(const std::filesystem::path& original, const std::filesystem::path& folder, const TensorSource& source,
                    std::set<std::string> quantized, std::int64_t shard_bytes, const ModelChanges& changes = {});
  /// @throws Error{numeric} when the values do not fit the type that `changes.dtypes` gives the tensor.
  void put(const std::string& linear, const quantizer::QuantizedLinear& quantized);
  /// A tensor (not a quantized linear's) in place of the source's; stored in the announced type.
  void put(const std::string& tensor, const at::Tensor& values);
  /// Copies a tensor of the source as it is.
  void copy(const std::string& tensor);
  /// Copies what is still missing, and closes. @throws Error{internal} when a linear never came.
  void finish();

 private:
  const TensorSource* source_;
  std::set<std::string> waiting_, unwritten_;
  std::map<std::string, at::ScalarType> dtypes_;  // as announced
  std::unique_ptr<CheckpointWriter> writer_;
};

}  // namespace miq::format
