#include "miq/executor/convert.h"

#include <ATen/ATen.h>

#include <filesystem>

#include "export_target.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/hub_cache.h"
#include "miq/core/log.h"
#include "miq/core/progress.h"
#include "miq/executor/open_model.h"
#include "miq/format/quantized_checkpoint.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;

// The linear with its scales in a type that the target stores: its usual one, else the narrowest that changes nothing.
format::NamedLinear adapt(const std::string& name, quantizer::QuantizedLinear linear, const ExportTarget& target) {
  if (target.format != nullptr) {
    const at::ScalarType usual = target.format->scale_dtype(linear.grid, target.options), own = linear.grid.scale_dtype;
    std::optional<std::string> reason;
    bool found = false;
    for (const at::ScalarType dtype : {usual, own, at::kHalf, at::kBFloat16, at::kFloat}) {
      if (!linear.grid.bilevel.enabled() && !format::holds(dtype, linear.params.scales_OG)) continue;
      linear.grid.scale_dtype = dtype;
      reason = target.format->why_not(format::scheme_of(name, linear), target.options);
      if (found = !reason; found) break;
    }
    if (!found)
      throw Error(ErrorKind::unsupported, "the format " + target.name + " cannot hold it without loss: " + reason.value_or("its scales are not numbers of " + dtype_name(usual)), name,
                  "convert to miq or dequantized, or quantize the original with export.format: " + target.name);
  }
  return {name, std::make_shared<const quantizer::QuantizedLinear>(std::move(linear))};
}

struct Conversion {
  const ConvertConfig& config;
  model::LanguageModel model;
  std::shared_ptr<const format::QuantizedCheckpoint> quantized;  // null: a plain checkpoint
  ExportTarget target;

  std::vector<format::Scheme> schemes() const {
    std::vector<format::Scheme> list;
    if (!quantized) return list;
    list = quantized->linears();
    if (target.format == nullptr) return list;
    for (format::Scheme& scheme : list)
      if (!scheme.grid.bilevel.enabled()) scheme.grid.scale_dtype = target.format->scale_dtype(scheme.grid, target.options);
    return list;
  }

  std::vector<std::string> kept() const {
    std::vector<std::string> list;
    const auto architecture = std::make_shared<const model::Architecture>(model.architecture());
    for (std::int64_t l = 0; l < architecture->num_layers; ++l) {
      model::Block block(architecture, l);
      for (const model::Linear* linear : block.linears())
        if (!quantized || !quantized->is_quantized(linear->name)) list.push_back(linear->name);
    }
    return list;
  }

  // Everything that is stored in plain numbers, where a type is asked for.
  format::ModelChanges changes() const {
    format::ModelChanges changes;
    for (const std::string& name : cache_scales()) {
      const at::Tensor scale = quantized->stored().tensor(name);
      changes.extra.push_back({name, scale.scalar_type(), scale.sizes().vec()});
    }
    const auto dtype = dtype_from_name(config.dtype);
    if (!dtype) return changes;
    for (const TensorSpec& spec : model.source().specs())
      if (at::isFloatingType(spec.dtype)) changes.dtypes[spec.name] = *dtype;
    for (const char* key : {"dtype", "torch_dtype"}) changes.config[key] = config.dtype;
    return changes;
  }

  // Scales of the KV cache, which only servers read, and only in this format.
  std::vector<std::string> cache_scales() const {
    std::vector<std::string> names;
    if (!quantized || target.format != &quantized->format()) return names;
    for (const TensorSpec& spec : quantized->stored().specs())
      if (spec.name.ends_with(".k_scale") || spec.name.ends_with(".v_scale")) names.push_back(spec.name);
    return names;
  }

  void write(format::ExportWriter& writer) const {
    if (!quantized) return writer.finish();
    for (const std::string& name : cache_scales()) writer.put(name, quantized->stored().tensor(name));
    std::set<std::string> left;
    for (const format::Scheme& scheme : quantized->linears()) left.insert(scheme.name);
    const auto put = [&](const std::vector<std::string>& names) {
      std::vector<format::NamedLinear> fused;
      for (const std::string& name : names)
        if (left.erase(name) != 0) fused.push_back(adapt(name, quantized->linear(name), target));
      if (!fused.empty()) writer.put(fused);
      for (const std::string& name : names) model.source().advise(name + ".weight", false);
    };
    const auto architecture = std::make_shared<const model::Architecture>(model.architecture());
    Progress progress("converting", architecture->num_layers, "block");
    for (std::int64_t l = 0; l < architecture->num_layers; ++l) {
      model::Block block(architecture, l);
      for (std::int64_t stage = 0; stage < block.num_stages(); ++stage)
        for (const auto& group : block.groups(stage)) {
          std::vector<std::string> names;
          for (const model::Linear* linear : group) names.push_back(linear->name);
          put(names);
        }
      progress.advance();
    }
    while (!left.empty()) put({*left.begin()});  // the head
    writer.finish();
  }
};

std::int64_t folder_bytes(const fs::path& folder) {
  std::int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(folder)) bytes += entry.is_regular_file() ? static_cast<std::int64_t>(entry.file_size()) : 0;
  return bytes;
}

}  // namespace

nlohmann::ordered_json convert_checkpoint(const ConvertConfig& config) {
  const c10::InferenceMode inference;
  const fs::path from = resolve_model_path(config.from);
  if (config.output.empty()) throw Error(ErrorKind::config, "no folder for the export", "--output", "give --output DIR");
  std::error_code differs;
  if (fs::equivalent(from, config.output, differs)) throw Error(ErrorKind::config, "the export would replace the checkpoint it is made from", config.output, "choose another output");
  const model::Weights weights = open_weights(from);
  Conversion conversion{config, model::LanguageModel::open(from, config.architecture, at::kFloat, at::kCPU, weights),
                        std::dynamic_pointer_cast<const format::QuantizedCheckpoint>(weights.tensors), {}};
  conversion.target = export_target(config.target, conversion.model.architecture());
  if (const auto dtype = dtype_from_name(config.dtype)) conversion.target.options.model_dtype = *dtype;
  if (!conversion.quantized && conversion.target.format != nullptr)
    throw Error(ErrorKind::unsupported, "the checkpoint is not quantized: there are no codes to convert", from.string(), "quantize it: miq quantize --model ... with export.format: " + conversion.target.name);
  if (!conversion.cache_scales().empty())
    conversion.target.options.kv_cache_scheme = format::declared_quantization(from, model::checkpoint_config(from)).content.value("kv_cache_scheme", nlohmann::json());
  const std::vector<format::Scheme> schemes = conversion.schemes();
  check_export(conversion.target, schemes);
  StagedFolder folder(config.output);
  const auto writer = open_export_writer(conversion.target, conversion.model, from, folder.path(), schemes, conversion.kept(), config.target.shard_size, conversion.changes());
  conversion.write(*writer);
  folder.commit();
  nlohmann::ordered_json warnings = nlohmann::ordered_json::array();
  for (const ExportWarning& warning : export_warnings(conversion.target, schemes)) warnings.push_back(warning.linear + ": " + warning.what);
  return {{"from", conversion.quantized ? conversion.quantized->format().name : "plain"}, {"format", conversion.target.name}, {"output", config.output},
          {"linears", schemes.size()}, {"bytes", folder_bytes(config.output)}, {"warnings", warnings}};
}

}  // namespace miq::executor
