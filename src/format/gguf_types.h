// Which ggml_type a tensor gets in a mix.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "miq/core/gguf_writer.h"

namespace miq::format {

/// A row of the table of variants.
struct GgufMix {
  const char* name;
  std::uint32_t file_type;  ///< general.file_type
  std::int32_t type;        ///< of most tensors
};

/// A variant as the user gave it.
struct GgufVariant {
  const GgufMix* mix = nullptr;
  bool pure = false;
};
/// @throws Error{config} with the nearest name.
GgufVariant find_gguf_variant(const std::string& name);

/// The file type of a file most of whose bytes are of `type`.
std::uint32_t gguf_file_type(std::int32_t type);

/// What the choice of types looks at.
struct GgufFacts {
  std::int64_t layers = 0, heads_per_kv_head = 1, experts = 0;
  bool has_output = false;  ///< else the embedding serves as the head
};
/// From the architecture's keys.
GgufFacts gguf_facts(const GgufMetadata& metadata);

/// Of a tensor by its name in the file. Vectors and routers are F32; rows that are not whole blocks fall back.
std::int32_t gguf_mix_type(const GgufVariant& version, const std::string& name, const std::vector<std::int64_t>& shape, const GgufFacts& facts);
/// The type itself, or what stands for it where rows are not whole blocks.
std::int32_t gguf_fallback(std::int32_t type, std::int64_t columns);
/// Whether the tensor is F32 in every file.
bool gguf_stays_float(const std::string& name, const std::vector<std::int64_t>& shape);

}  // namespace miq::format
