// A quantized checkpoint of any format, ours or another program's, as a source of tensors: its own, and a dense float32 `.weight`
// for each quantized linear, made on demand.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "miq/format/format.h"

namespace miq::format {

/// What a checkpoint's configuration says of its quantization.
struct DeclaredQuantization {
  nlohmann::json content;  ///< null: nothing
  std::string source;      ///< "config.json quantization_config"
};

/// Of quantization_config (or compression_config) of config.json, else of quantize_config.json, quant_config.json or
/// hf_quant_config.json, with the quant_method that those imply. @throws Error{io} when one of these files is malformed.
DeclaredQuantization declared_quantization(const std::filesystem::path& folder, const nlohmann::json& config);

class QuantizedCheckpoint : public TensorSource {
 public:
  QuantizedCheckpoint(const Format& format, std::shared_ptr<const TensorSource> stored, std::unique_ptr<Decoder> decoder);

  const Format& format() const { return *format_; }
  const std::vector<Scheme>& linears() const { return decoder_->linears(); }
  bool is_quantized(const std::string& linear) const { return by_name_.count(linear) != 0; }
  const Scheme& scheme(const std::string& linear) const { return *by_name_.at(linear); }
  quantizer::QuantizedLinear linear(const std::string& name) const { return decoder_->linear(name); }
  /// The tensors as they are stored.
  const TensorSource& stored() const { return *stored_; }

  std::vector<TensorSpec> specs() const override;
  bool has(const std::string& name) const override;
  at::Tensor tensor(const std::string& name) const override;
  void advise(const std::string& name, bool needed) const override;
  std::int64_t bytes() const override { return stored_->bytes(); }
  bool gives_views() const override { return false; }

 private:
  const Format* format_;
  std::shared_ptr<const TensorSource> stored_;
  std::unique_ptr<Decoder> decoder_;
  std::map<std::string, const Scheme*> by_name_;
  std::map<std::string, std::vector<std::string>> parts_;  // of each linear
};

/// Opens what declared_quantization found. @throws Error{unsupported} for a method that is not read, naming those that are;
/// what the format's decoder throws.
std::shared_ptr<const QuantizedCheckpoint> open_quantized(const std::filesystem::path& folder, const nlohmann::json& config, const nlohmann::json& quantization);

}  // namespace miq::format
