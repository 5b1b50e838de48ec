#include "miq/format/quantized_checkpoint.h"

#include <algorithm>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/text.h"

namespace miq::format {
namespace fs = std::filesystem;

DeclaredQuantization declared_quantization(const fs::path& folder, const nlohmann::json& config) {
  for (const char* key : {"quantization_config", "compression_config"})
    if (config.contains(key) && config[key].is_object()) return {config[key], std::string("config.json ") + key};
  const std::pair<const char*, const char*> older[] = {{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}, {"hf_quant_config.json", "modelopt"}};
  for (const auto& [name, method] : older) {
    std::error_code problem;
    const fs::path path = folder / name;
    if (!fs::is_regular_file(path, problem)) continue;
    nlohmann::json object = parse_json(read_file(path, 1 << 24), path.string());
    if (object.is_object() && object.contains("quantization") && object["quantization"].is_object()) object = object["quantization"];
    if (!object.is_object()) throw Error(ErrorKind::io, "not a JSON object", path.string());
    if (!object.contains("quant_method")) object["quant_method"] = method;
    return {object, name};
  }
  return {};
}

QuantizedCheckpoint::QuantizedCheckpoint(const Format& format, std::shared_ptr<const TensorSource> stored, std::unique_ptr<Decoder> decoder)
    : format_(&format), stored_(std::move(stored)), decoder_(std::move(decoder)) {
  for (const Scheme& scheme : decoder_->linears()) by_name_[scheme.name] = &scheme;
  for (const TensorSpec& spec : stored_->specs())
    if (decoder_->owns(spec.name)) parts_[spec.name.substr(0, spec.name.rfind('.'))].push_back(spec.name);
}

namespace {

// "a.b" of "a.b.weight"; "" for others.
std::string linear_of(const std::string& tensor) { return tensor.ends_with(".weight") ? tensor.substr(0, tensor.size() - 7) : ""; }

}  // namespace

std::vector<TensorSpec> QuantizedCheckpoint::specs() const {
  std::vector<TensorSpec> specs;
  for (TensorSpec& spec : stored_->specs())
    if (!decoder_->owns(spec.name)) specs.push_back(std::move(spec));
  for (const auto& [name, scheme] : by_name_) specs.push_back({name + ".weight", at::kFloat, {scheme->out_features, scheme->in_features}});
  std::sort(specs.begin(), specs.end(), [](const TensorSpec& a, const TensorSpec& b) { return a.name < b.name; });
  return specs;
}

bool QuantizedCheckpoint::has(const std::string& name) const {
  return is_quantized(linear_of(name)) || (stored_->has(name) && !decoder_->owns(name));
}

at::Tensor QuantizedCheckpoint::tensor(const std::string& name) const {
  const std::string linear = linear_of(name);
  if (is_quantized(linear)) return quantizer::dequantize(decoder_->linear(linear), at::kFloat);
  return stored_->tensor(name);
}

void QuantizedCheckpoint::advise(const std::string& name, bool needed) const {
  if (const auto parts = parts_.find(linear_of(name)); parts != parts_.end())
    for (const std::string& part : parts->second) stored_->advise(part, needed);
  else
    stored_->advise(name, needed);
}

std::shared_ptr<const QuantizedCheckpoint> open_quantized(const fs::path& folder, const nlohmann::json& config, const nlohmann::json& quantization) {
  std::string known;
  for (const Format* format : formats()) {
    known += std::string(known.empty() ? "" : ", ") + format->name;
    if (!format->recognises(quantization)) continue;
    const std::shared_ptr<const TensorSource> stored = open_checkpoint(folder);
    return std::make_shared<QuantizedCheckpoint>(*format, stored, format->open(stored, quantization, config, folder.string()));
  }
  const std::string method = quantization.contains("quant_method") && quantization["quant_method"].is_string() ? quantization["quant_method"].get<std::string>() : "";
  throw Error(ErrorKind::unsupported, "the checkpoint is quantized" + (method.empty() ? std::string(" in an unknown way") : " by '" + printable(method) + "'") + ", which is not read",
              folder.string(), "read are " + known + " and GGUF; give the original");
}

}  // namespace miq::format
