// How a checkpoint says that it is quantized.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace miq::executor {

/// What config.json's quantization_config (or an older file or key beside it) says: method, bits (a list: there may be
/// several), group_size and symmetric where stated (else null), source. Null without one.
nlohmann::ordered_json declared_quantization(const std::filesystem::path& folder, const nlohmann::json& config);

/// Of a GGUF file, by the ggml types of its linears (name -> bytes). Null when they are plain numbers.
nlohmann::ordered_json block_quantization(const std::map<std::string, std::int64_t>& linear_types);

}  // namespace miq::executor
