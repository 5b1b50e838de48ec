// A checkpoint of any kind as a language model: plain, GGUF, or quantized by us or another program.
#pragma once

#include <filesystem>
#include <string>

#include "miq/model/language_model.h"

namespace miq::executor {

/// The tensors of a checkpoint, all dense, and kernels on packed codes, for `device`, of the linears that are quantized.
/// @throws Error{io, unsupported} as open_tensors and format::open_quantized.
model::Weights open_weights(const std::filesystem::path& path, const at::Device& device = at::kCPU);

/// LanguageModel::open with these. `family`: as there.
model::LanguageModel open_model(const std::filesystem::path& path, const std::string& family, const at::Device& device);

}  // namespace miq::executor
