// From one format of quantized checkpoints to another, code by code.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "miq/executor/job_config.h"

namespace miq::executor {

struct ConvertConfig {
  std::string from;                    ///< a quantized checkpoint of any format; for gguf and dequantized also a plain one
  std::string output;                  ///< the folder that is made
  ExportConfig target;
  std::string dtype = "auto";          ///< of what is stored in plain numbers: auto (as it is; dequantized weights: the model's), float32, bfloat16, float16
  std::string architecture = "auto";
};

/// Writes the checkpoint in the target's format, with the codes and scales of the source: nothing is rounded again but dequantized
/// weights to their type, and GGUF blocks that no codes fit (said in "warnings"). Returns format, output, linears, bytes, warnings.
/// @throws Error{unsupported} naming the first linear that the target cannot hold without loss, and why; Error{io}.
nlohmann::ordered_json convert_checkpoint(const ConvertConfig& config);

}  // namespace miq::executor
