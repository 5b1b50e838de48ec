// How a checkpoint says that it is quantized.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "miq/format/quantized_checkpoint.h"

namespace miq::executor {

/// What a checkpoint says of its quantization: method, bits (a list: there may be several), group_size and symmetric where
/// stated (else null), source. Null when it says nothing.
nlohmann::ordered_json describe_quantization(const format::DeclaredQuantization& declared);

/// Of a GGUF file, by the ggml types of its linears (name -> bytes). Null when they are plain numbers.
nlohmann::ordered_json block_quantization(const std::map<std::string, std::int64_t>& linear_types);

}  // namespace miq::executor
