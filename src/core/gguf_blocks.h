// Block types of ggml: how many values a block holds in how many bytes, and how they are told apart again.
#pragma once

#include <cstdint>

namespace miq {

/// A row of the table of types. Block types give float32.
struct GgmlType {
  std::int32_t id;
  const char* name;
  std::int64_t block;  ///< values in a block; 1 for plain types
  std::int64_t bytes;  ///< of a block
  /// Writes the values of `blocks` blocks, which need not be aligned; nullptr for plain types and for those that
  /// cannot be read.
  void (*dequantize)(const std::uint8_t* data, float* values, std::int64_t blocks);
};

/// The row of a ggml_type, or nullptr for an unknown one.
const GgmlType* find_ggml_type(std::int32_t id);

}  // namespace miq
