// A job's quantization: the recipe's last settlements, the pipeline, the export, and what is told of it.
#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "allocation.h"
#include "block_journal.h"
#include "job_run.h"
#include "miq/core/device.h"
#include "miq/core/device_memory.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/memory.h"
#include "miq/core/process_group.h"
#include "miq/core/text.h"
#include "quantized_kernel.h"

namespace miq::executor {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Of the residual stream, which is the whole model's.
quantizer::Transform JobRun::rotation() const {
  const quantizer::Transform& transform = config_.recipe.otherwise.transform;
  return transform.kind == quantizer::TransformKind::rotation ? transform : quantizer::Transform();
}

// Bfloat16 where that is several times faster and the accuracy of the statistics does not suffer (docs/design.md), else the model's.
at::ScalarType JobRun::calibration_dtype() const {
  if (config_.calibration_dtype != "auto") return model::resolve_compute_dtype(config_.calibration_dtype, model_->architecture(), model_->device());
  return has_fast_bfloat16(model_->device()) ? at::kBFloat16 : at::kFloat;
}

PipelineOptions JobRun::pipeline_options() const {
  PipelineOptions options;
  options.calibration_ids = calibration_ids_;
  options.compute_dtype = calibration_dtype();
  options.config = config_.pipeline;
  options.rotation = rotation();
  options.distillation = config_.recipe.distillation;
  options.strict = config_.strict;
  options.keep_blocks = keeps_blocks();
  options.folder = config_.output;
  options.solve_on = parse_devices(config_.device);
  return options;
}

// The plan's layers with the bits that the budget gives them.
void JobRun::allocate(const PipelineOptions& options) {
  const fs::path known = resume("allocation.json");
  std::string text;
  if (!known.empty() && fs::exists(known)) text = read_file(known);
  process_group::broadcast(text);  // rank 0 has the folder
  Json chosen = Json::object();
  if (!text.empty()) {
    chosen = parse_json(text, known.string());
  } else {
    for (const auto& [name, bits] : choose_bits(*model_, plan_, config_.recipe.allocation, options)) chosen[name] = bits;
    if (!known.empty()) write_file_atomically(known, to_text(chosen));
  }
  for (const auto& [name, bits] : chosen.items()) {
    const auto planned = std::find_if(plan_.begin(), plan_.end(), [&, &wanted = name](const PlannedLinear& entry) { return entry.name == wanted; });
    if (planned == plan_.end()) throw Error(ErrorKind::io, "no linear of the model is called '" + name + "'", known.string(), "start anew with --overwrite");
    if (!bits.is_number_integer() || bits < 2 || bits > 8) throw Error(ErrorKind::io, "no width of '" + name + "': " + bits.dump(), known.string(), "start anew with --overwrite");
    allocated_.push_back(*planned->choice.layer);
    allocated_.back().grid.bits = bits.get<int>();
    planned->choice.layer = &allocated_.back();
  }
}

std::unique_ptr<format::ExportWriter> JobRun::open_writer(const fs::path& folder) const {
  const model::Architecture& a = model_->architecture();
  format::ModelChanges changes;
  const bool rotated = rotation().kind == quantizer::TransformKind::rotation;
  if (rotated && a.normalised_head) changes.config["norm_head"] = false;
  if ((rotated || head_) && a.tie_word_embeddings) {
    changes.extra.push_back({a.head + ".weight", model_->head_VH().scalar_type(), model_->head_VH().sizes().vec()});
    changes.config["tie_word_embeddings"] = false;
  }
  std::vector<std::string> kept;
  for (const PlannedLinear& planned : plan_)
    if (planned.choice.layer->keep_float) kept.push_back(planned.name);
  return open_export_writer(target_, *model_, config_.model.path, folder, planned_schemes(a, plan_, head_), std::move(kept), config_.export_->shard_size, std::move(changes));
}

// The last linear, of the whole vocabulary: rounded part by part, without data.
void JobRun::quantize_head(PipelineResult& done, format::ExportWriter* writer) {
  const quantizer::LayerRecipe& layer = *head_->choice.layer;
  const at::Tensor weight = model_->function_head_VH();
  const bool by_rows = layer.grid.granularity == quantizer::Granularity::group || layer.grid.granularity == quantizer::Granularity::channel;
  const std::int64_t rows = by_rows ? 8192 : weight.size(0);
  std::vector<at::Tensor> codes, scales, zeros;
  quantizer::QuantizedLinear part;
  double squares = 0, errors = 0;
  for (std::int64_t v = 0; v < weight.size(0); v += rows) {
    const at::Tensor values = weight.narrow(0, v, std::min(rows, weight.size(0) - v)).to(at::kFloat).contiguous();
    part = round_linear({head_->name, values, nullptr}, layer.grid, layer.range, layer.rounding);
    codes.push_back(part.codes_OI);
    scales.push_back(part.params.scales_OG);
    zeros.push_back(part.params.zeros_OG);
    const double square = values.square().sum(at::kDouble).item<double>();
    squares += square;
    errors += part.relative_error * part.relative_error * square;
  }
  part.codes_OI = at::cat(codes);
  part.params = {at::cat(scales), at::cat(zeros)};
  part.relative_error = std::sqrt(errors / std::max(squares, 1e-30));
  const auto quantized = std::make_shared<const quantizer::QuantizedLinear>(std::move(part));
  done.layers.push_back({*head_, std::nan(""), quantized->relative_error, quantized->bits_per_weight(), quantized->bytes(), {}});
  if (writer != nullptr) writer->put({{head_->name, quantized}});
  model_->replace_head(make_quantized_kernel(quantized));
}

void JobRun::quantize() {
  reset_peak_rss();
  for (const at::Device& device : parse_devices(config_.device)) reset_peak_device_bytes(device);
  AnonymousPeak anonymous;
  const auto start = std::chrono::steady_clock::now();
  const double cpu_start = cpu_seconds();
  PipelineOptions options = pipeline_options();
  std::optional<StagedFolder> folder;
  std::unique_ptr<format::ExportWriter> writer;
  if (config_.recipe.allocation.bits > 0) {
    allocate(options);
    if (config_.export_) check_export(target_, planned_schemes(model_->architecture(), plan_, head_));  // of the widths that were chosen
  }
  if (config_.export_ && writes()) {
    folder.emplace(fs::path(config_.output) / "model");
    writer = open_writer(folder->path());
    options.on_tensor = [&](const std::string& name, const at::Tensor& tensor) { writer->put(name, tensor); };
    options.on_linears = [&](const std::vector<format::NamedLinear>& fused) { writer->put(fused); };
  }
  std::optional<BlockJournal> journal;
  if (writes()) options.journal = &journal.emplace(journal_folder());
  PipelineResult done = run_pipeline(*model_, plan_, options);
  if (head_) quantize_head(done, writer.get());
  if (writer) {
    writer->finish();
    folder->commit();
  }
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() + done.earlier.seconds;
  for (const auto& [phase, earlier] : done.earlier.seconds_by_phase) done.seconds_by_phase[phase] += earlier;
  tell_quantization(done, seconds, cpu_seconds() - cpu_start + done.earlier.cpu_seconds, anonymous.bytes());
  if (options.keep_blocks)
    model_->replace_blocks(std::move(done.blocks));
  else if (evaluates() && has_evaluation())
    open_model((fs::path(config_.output) / "model").string());
}

void JobRun::tell_quantization(const PipelineResult& done, double seconds, double cpu, std::int64_t peak_anonymous_bytes) {
  Json layers = Json::array();
  double bits = 0, weights = 0;
  std::int64_t bytes = 0;
  for (const LayerReport& layer : done.layers) {
    const quantizer::LayerRecipe& recipe = *layer.planned.choice.layer;
    const double count = static_cast<double>(layer.planned.out_features * layer.planned.in_features);
    bits += layer.bits_per_weight * count;
    weights += count;
    bytes += layer.bytes;
    Json own = Json::array();
    for (const quantizer::Event& event : layer.events) {
      own.push_back({{"code", event.code}, {"detail", event.detail}});
      events_.push_back({{"layer", layer.planned.name}, {"code", event.code}, {"detail", event.detail}});
    }
    const bool grouped = recipe.grid.granularity == quantizer::Granularity::group;
    layers.push_back({{"name", layer.planned.name},
                      {"rule", layer.planned.choice.rule},
                      {"preset", recipe.preset},
                      {"bits", recipe.grid.bits},
                      {"group_size", grouped ? Json(recipe.grid.group_size) : Json(-1)},
                      {"bits_per_weight", layer.bits_per_weight},
                      {"loss", number_or_null(layer.loss)},
                      {"relative_error", layer.relative_error},
                      {"events", own}});
  }
  results_["quantization"] = {{"seconds", seconds},
                             {"cpu_seconds", cpu},
                             {"peak_rss_bytes", peak_rss_bytes()},
                             {"peak_anonymous_bytes", peak_anonymous_bytes},
                             {"seconds_by_phase", done.seconds_by_phase},
                             {"calibration_dtype", dtype_name(calibration_dtype())},
                             {"bits_per_weight", weights > 0 ? bits / weights : 0.0},
                             {"bytes", bytes},
                             {"layers", layers}};
  if (model_->device().is_cpu()) return;
  std::int64_t most = 0;  // of several GPUs, the one that took most
  for (const at::Device& device : parse_devices(config_.device)) most = std::max(most, peak_device_bytes(device));
  results_["quantization"]["peak_device_bytes"] = most;
}

}  // namespace miq::executor
