// What a checkpoint is and what it would take, from its headers alone: `miq inspect`.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace miq::executor {

/// Family, files, shapes, parameters, stored types, quantization, memory of the weights at several bits and of the KV
/// cache. No weight is read. `model`: a Hugging Face folder (also without weights), a .gguf file, or an id in the local
/// cache; `architecture` as in model::read_architecture. A checkpoint that cannot be loaded (`loads.ok` false, with the
/// reason), for example one that is quantized already, is described as far as its config.json goes.
/// @throws Error{io} missing or malformed files, Error{unsupported} for an unknown family.
nlohmann::ordered_json inspect_model(const std::string& model, const std::string& architecture = "auto");

/// The same as tables for people.
std::string format_inspection(const nlohmann::ordered_json& inspection);

}  // namespace miq::executor
