// A GGUF file as a checkpoint of one of our families: its metadata as a config.json, its tensors under
// Hugging Face's names. Source: llama.cpp convert_hf_to_gguf.py and gguf-py (names), read backwards.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>

#include "miq/core/checkpoint.h"
#include "miq/core/gguf.h"

namespace miq::model {

/// The config.json that a model of these metadata has. @throws Error{unsupported} for an architecture that
/// is not read from GGUF, by name; Error{io} for missing or malformed keys.
nlohmann::json gguf_config(const GgufFile& file);

/// The tensors under Hugging Face's names; the row order of q and k undone where llama.cpp changes it.
/// Tensors without a place in the family are left out.
std::shared_ptr<TensorSource> open_gguf(const GgufFile& file);

}  // namespace miq::model
