// Names of element types: in configuration files ("bfloat16") and in safetensors headers ("BF16").
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

namespace miq {

/// "float32", "bfloat16", "float16", "int64" ...: LibTorch's Python names.
std::string dtype_name(at::ScalarType dtype);
/// The reverse; nullopt for an unknown name.
std::optional<at::ScalarType> dtype_from_name(const std::string& name);

/// "F32", "BF16", "I64", "F8_E4M3" ...; throws Error{internal} for a type safetensors lacks.
std::string safetensors_name(at::ScalarType dtype);
std::optional<at::ScalarType> dtype_from_safetensors(const std::string& name);

}  // namespace miq
