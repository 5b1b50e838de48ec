#include "export_target.h"

#include <algorithm>

#include "gguf_target.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/gguf.h"
#include "miq/core/log.h"
#include "miq/dataset/tokenizer.h"
#include "miq/format/gguf.h"
#include "transform_place.h"

namespace miq::executor {
namespace {

const char* const kDequantized = "dequantized";
const char* const kGguf = "gguf";

quantizer::Grid fitted(quantizer::Grid grid, const ExportTarget& target) {
  if (target.format != nullptr) grid.scale_dtype = target.format->scale_dtype(grid, target.options);
  if (target.is_gguf() && grid.is_integer() && grid.granularity == quantizer::Granularity::group) grid.scale_dtype = at::kHalf;
  return grid;
}

}  // namespace

ExportTarget export_target(const ExportConfig& config, const model::Architecture& architecture) {
  ExportTarget target;
  target.name = config.format;
  target.options.variant = config.variant;
  const auto dtype = dtype_from_name(architecture.torch_dtype);
  target.options.model_dtype = dtype && (*dtype == at::kHalf || *dtype == at::kBFloat16) ? *dtype : at::kFloat;
  const std::vector<std::string> names = format::export_names();
  if (std::find(names.begin(), names.end(), config.format) == names.end())
    throw Error(ErrorKind::config, "unknown export format '" + config.format + "'", "export.format", "did you mean " + nearest_name(config.format, names) + "? miq list formats tells all");
  std::vector<std::string> variants;
  if (config.format == kGguf) variants = format::gguf_variants();
  if (config.format != kDequantized && config.format != kGguf) {
    target.format = &format::find_format(config.format);
    for (const char* variant : target.format->variants) variants.push_back(variant);
  }
  if (!config.variant.empty() && std::find(variants.begin(), variants.end(), config.variant) == variants.end()) {
    std::string known;
    for (const std::string& variant : variants) known += (known.empty() ? "" : ", ") + variant;
    throw Error(ErrorKind::config, "the format " + config.format + " has no variant '" + config.variant + "'", "export.variant", known.empty() ? "leave it out" : "it has " + known);
  }
  return target;
}

void fit_recipe(quantizer::Recipe& recipe, const ExportTarget& target) {
  for (quantizer::Rule& rule : recipe.rules) rule.layer.grid = fitted(rule.layer.grid, target);
  recipe.otherwise.grid = fitted(recipe.otherwise.grid, target);
}

namespace {

format::Scheme planned_scheme(const PlannedLinear& planned, const TransformPlace& place) {
  const quantizer::LayerRecipe& layer = *planned.choice.layer;
  return {.name = planned.name,
          .out_features = planned.out_features,
          .in_features = planned.in_features,
          .grid = layer.grid,
          .activation = layer.activation,
          .group_of_column = makes_group_of_column(layer),
          .outliers = layer.rounding.kind == "spqr" && layer.rounding.outlier_threshold > 0,
          .zero_point_of_zero = layer.grid.is_integer() && !layer.grid.symmetric,
          .divisor = place.divisor_online,
          .rotated_input = place.rotated_input,
          .rotated_output = place.rotated_output};
}

}  // namespace

std::vector<format::Scheme> planned_schemes(const model::Architecture& architecture, const std::vector<PlannedLinear>& plan, const std::optional<PlannedLinear>& head) {
  const std::vector<TransformPlace> places = transform_places(architecture, plan);
  std::vector<format::Scheme> schemes;
  for (size_t i = 0; i < plan.size(); ++i)
    if (!plan[i].choice.layer->keep_float) schemes.push_back(planned_scheme(plan[i], places[i]));
  if (head) schemes.push_back(planned_scheme(*head, {}));
  return schemes;
}

void check_export(const ExportTarget& target, const std::vector<format::Scheme>& schemes) {
  if (target.format == nullptr) return;
  for (const format::Scheme& scheme : schemes)
    if (const auto reason = target.format->why_not(scheme, target.options))
      throw Error(ErrorKind::unsupported, "the format " + target.name + " cannot hold it: " + *reason, scheme.name, "change export.format or the recipe; miq holds everything");
  if (target.format->why_not_together == nullptr || schemes.empty()) return;
  if (const auto reason = target.format->why_not_together(schemes))
    throw Error(ErrorKind::unsupported, *reason, "export.format", "change export.format or the recipe; miq holds everything");
}

namespace {

void complete_gguf(const std::filesystem::path& original, format::ModelChanges& changes) {
  if (!find_gguf(original)) return;
  changes.files["config.json"] = model::checkpoint_config(original).dump(2) + "\n";
  try {
    changes.files.merge(dataset::gguf_tokenizer_files(original));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::unsupported) throw;
    log_warning(std::string("the export will have no tokenizer: ") + error.what());
  }
}

}  // namespace

std::unique_ptr<format::ExportWriter> open_export_writer(const ExportTarget& target, const model::LanguageModel& model, const std::filesystem::path& original,
                                                         const std::filesystem::path& folder, std::vector<format::Scheme> schemes, std::vector<std::string> kept,
                                                         std::int64_t shard_bytes, format::ModelChanges changes) {
  if (target.is_gguf()) return open_gguf_writer(target, model, original, folder, schemes, changes);
  complete_gguf(original, changes);
  const model::Architecture& a = model.architecture();
  std::set<std::string> linears(kept.begin(), kept.end());
  for (const format::Scheme& scheme : schemes) linears.insert(scheme.name);
  if (linears.count(a.head) == 0) kept.push_back(a.head);
  // Routers are linears too for those that read which are not quantized.
  for (std::int64_t l = 0; l < a.num_layers; ++l)
    if (a.is_sparse(l)) kept.push_back(a.block_name(l) + a.names.router);
  // Blocks of a quantized original are read as float32, which nobody wants stored.
  if (!model.source().gives_views())
    for (const TensorSpec& spec : model.source().specs())
      if (spec.dtype == at::kFloat && spec.name.ends_with(".weight") && linears.count(spec.name.substr(0, spec.name.size() - 7)) != 0)
        changes.dtypes[spec.name] = target.options.model_dtype;
  return format::make_export_writer({original, folder, &model.source(), target.format, target.options, std::move(schemes), std::move(kept), shard_bytes, std::move(changes)});
}

std::vector<ExportWarning> export_warnings(const ExportTarget& target, const std::vector<format::Scheme>& schemes) {
  std::vector<ExportWarning> warnings;
  if (schemes.empty()) return warnings;
  const auto first = [&](const auto& holds) { return std::find_if(schemes.begin(), schemes.end(), holds); };
  if (target.format == nullptr) {
    if (const auto found = first([](const format::Scheme& s) { return s.activation.enabled(); }); found != schemes.end())
      warnings.push_back({found->name, "the format " + target.name + " holds weights only: what reads it will not quantize activations", "export compressed-tensors or miq, or score with miq run"});
    if (const auto found = first([](const format::Scheme& s) { return s.rotated_input || s.rotated_output; }); found != schemes.end())
      warnings.push_back({found->name, "a rotation at run time is undone in the dequantized weights", "export miq, which keeps it"});
    if (target.is_gguf())
      for (ExportWarning& warning : gguf_warnings(target, schemes)) warnings.push_back(std::move(warning));
    return warnings;
  }
  for (const std::string& warning : target.format->warnings(schemes, target.options)) warnings.push_back({schemes.front().name, warning, "serve it elsewhere, or choose another format"});
  return warnings;
}

}  // namespace miq::executor
