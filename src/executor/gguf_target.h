// The export to GGUF: the model's and the tokenizer's keys, which the format itself does not know.
#pragma once

#include <memory>

#include "export_target.h"

namespace miq::executor {

/// What the file will lose of these linears, and what llama.cpp will do otherwise.
std::vector<ExportWarning> gguf_warnings(const ExportTarget& target, const std::vector<format::Scheme>& schemes);

/// Writes `folder`/model.gguf. @throws Error{unsupported} for families that GGUF has no place for.
std::unique_ptr<format::ExportWriter> open_gguf_writer(const ExportTarget& target, const model::LanguageModel& model, const std::filesystem::path& original,
                                                       const std::filesystem::path& folder, const std::vector<format::Scheme>& schemes, const format::ModelChanges& changes);

}  // namespace miq::executor
