// What a model is called in a GGUF file: the inverse of reading one (src/model/gguf_model.h).
// Source: llama.cpp convert_hf_to_gguf.py and gguf-py.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "miq/core/gguf_writer.h"
#include "miq/model/architecture.h"

namespace miq::model {

/// A model's metadata and names in a GGUF file.
class GgufModel {
 public:
  /// `name`: of the model, for people; `parameters`: how many weights it has.
  /// @throws Error{unsupported} for families and features that GGUF has no place for, naming the families it has.
  GgufModel(const Architecture& architecture, const std::string& name, std::int64_t parameters);

  /// general.* and the architecture's keys; those of the tokenizer and of the types are not among them.
  const GgufMetadata& metadata() const { return metadata_; }
  /// Float32 tensors that Hugging Face's checkpoint does not have: the divisors of rotary frequencies.
  const std::map<std::string, at::Tensor>& extra() const { return extra_; }
  /// What llama.cpp does otherwise than the model.
  const std::vector<std::string>& warnings() const { return warnings_; }
  /// Where a tensor goes; nullopt: it is left out (buffers, a tied head).
  /// @throws Error{unsupported} for one that has no place.
  std::optional<GgufPlace> place(const std::string& tensor) const;

 private:
  Architecture architecture_;
  GgufMetadata metadata_;
  std::map<std::string, at::Tensor> extra_;
  std::map<std::string, GgufPlace> places_;  // by the name without .weight or .bias
  std::vector<std::string> warnings_;
};

}  // namespace miq::model
