#include "miq/executor/open_model.h"

#include <algorithm>
#include <map>

#include "miq/core/gguf.h"
#include "miq/core/gguf_writer.h"
#include "miq/format/gguf.h"
#include "miq/format/quantized_checkpoint.h"
#include "quantized_kernel.h"

namespace miq::executor {
namespace {

class QuantizedKernels : public model::KernelSource {
 public:
  QuantizedKernels(std::shared_ptr<const format::QuantizedCheckpoint> checkpoint, const at::Device& device) : checkpoint_(std::move(checkpoint)), device_(device) {}
  bool has(const std::string& linear) const override { return checkpoint_->is_quantized(linear); }
  std::shared_ptr<const model::LinearKernel> kernel(const std::string& linear) const override {
    return make_quantized_kernel(std::make_shared<const quantizer::QuantizedLinear>(to_device(checkpoint_->linear(linear), device_)));
  }
  std::int64_t bytes(const std::string& linear) const override {
    const format::Scheme& scheme = checkpoint_->scheme(linear);
    return static_cast<std::int64_t>(quantizer::bits_per_weight(scheme.grid, scheme.out_features, scheme.in_features) *
                                     static_cast<double>(scheme.out_features * scheme.in_features) / 8);
  }

 private:
  std::shared_ptr<const format::QuantizedCheckpoint> checkpoint_;
  at::Device device_;
};

// Blocks of a GGUF file whose values are codes of groups of 32. What is packed is looked up when it is asked for: rows of q and k are
// put in order on the way, which reads them.
class GgufKernels : public model::KernelSource {
 public:
  GgufKernels(std::shared_ptr<const TensorSource> source, const at::Device& device) : source_(std::move(source)), device_(device) {}
  bool has(const std::string& linear) const override { return bytes(linear) > 0; }
  std::shared_ptr<const model::LinearKernel> kernel(const std::string& linear) const override {
    auto quantized = format::quantized_from_gguf(*source_->packed(linear + ".weight"));
    return quantized ? make_quantized_kernel(std::make_shared<const quantizer::QuantizedLinear>(to_device(std::move(*quantized), device_))) : nullptr;
  }
  std::int64_t bytes(const std::string& linear) const override {
    const auto [entry, is_new] = bytes_.emplace(linear, 0);
    if (!is_new) return entry->second;
    const auto rows = source_->packed(linear + ".weight");
    static constexpr std::int32_t kCodes[] = {kGgmlQ4_0, kGgmlQ4_1, kGgmlQ5_0, kGgmlQ5_1, kGgmlQ8_0};  // K types are held dense
    if (rows && std::find(std::begin(kCodes), std::end(kCodes), rows->type) != std::end(kCodes)) entry->second = rows->blocks.numel();
    return entry->second;
  }

 private:
  std::shared_ptr<const TensorSource> source_;
  at::Device device_;
  mutable std::map<std::string, std::int64_t> bytes_;  // 0: not packed so
};

}  // namespace

model::Weights open_weights(const std::filesystem::path& path, const at::Device& device) {
  std::error_code problem;
  if (!find_gguf(path) && std::filesystem::is_directory(path, problem)) {
    const nlohmann::json config = model::checkpoint_config(path);
    const format::DeclaredQuantization declared = format::declared_quantization(path, config);
    if (!declared.content.is_null()) {
      auto checkpoint = format::open_quantized(path, config, declared.content);
      return {checkpoint, std::make_shared<QuantizedKernels>(checkpoint, device)};
    }
  }
  const std::shared_ptr<const TensorSource> tensors = model::open_tensors(path);
  return {tensors, find_gguf(path) ? std::make_shared<const GgufKernels>(tensors, device) : nullptr};
}

model::LanguageModel open_model(const std::filesystem::path& path, const std::string& family, const at::Device& device) {
  return model::LanguageModel::open(path, family, at::kFloat, device, open_weights(path, device));
}

}  // namespace miq::executor
