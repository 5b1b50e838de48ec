// The export of a job: its format, what the format makes of the recipe, and what it cannot hold.
#pragma once

#include <string>
#include <vector>

#include "miq/executor/job_config.h"
#include "miq/executor/plan.h"
#include "miq/format/export_writer.h"

namespace miq::executor {

struct ExportTarget {
  std::string name;                         ///< of the format
  const format::Format* format = nullptr;   ///< null: dequantized, gguf
  format::FormatOptions options;
  bool is_gguf() const { return name == "gguf"; }
};

/// @throws Error{config} for an unknown format or variant.
ExportTarget export_target(const ExportConfig& config, const model::Architecture& architecture);

/// Lets the grids of the recipe have scales of the type that the format stores.
void fit_recipe(quantizer::Recipe& recipe, const ExportTarget& target);

/// What the plan settles of every linear that is to be quantized, for formats.
std::vector<format::Scheme> planned_schemes(const model::Architecture& architecture, const std::vector<PlannedLinear>& plan, const std::optional<PlannedLinear>& head);

/// @throws Error{unsupported} naming the first linear that the format cannot hold, why, and the formats that can.
void check_export(const ExportTarget& target, const std::vector<format::Scheme>& schemes);

/// The writer of an export of `model`, opened from `original`, into `folder`. `kept`: linears of blocks that stay in float.
/// A GGUF file has no config.json and tokenizer files beside it: the export gets those that say the same.
std::unique_ptr<format::ExportWriter> open_export_writer(const ExportTarget& target, const model::LanguageModel& model, const std::filesystem::path& original,
                                                         const std::filesystem::path& folder, std::vector<format::Scheme> schemes, std::vector<std::string> kept,
                                                         std::int64_t shard_bytes, format::ModelChanges changes);

struct ExportWarning {
  std::string linear, what, fix;
};
/// What the export loses, or which servers will not take it.
std::vector<ExportWarning> export_warnings(const ExportTarget& target, const std::vector<format::Scheme>& schemes);

}  // namespace miq::executor
