// A LLaMA of any size with random weights, made on a device and held in the CPU's memory: no download, no disk.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "miq/core/checkpoint.h"
#include "miq/model/language_model.h"

namespace miq::bench {

struct Size {
  std::string name;
  std::int64_t hidden, intermediate, layers, heads, kv_heads, vocabulary;
};

/// "tiny", "1b", "7b", "13b". @throws Error{config} for another.
Size size_of(const std::string& name);

/// Weights are random but shaped like trained ones: a few outlier channels in the norms, matrices that keep the variance of their input. The same on every
/// run of one device. `folder` (which exists) receives the config.json.
model::LanguageModel make_model(const Size& size, const at::Device& device, at::ScalarType dtype, const std::filesystem::path& folder);

/// Random tokens [samples, length].
at::Tensor random_ids(const Size& size, std::int64_t samples, std::int64_t length);

}  // namespace miq::bench
