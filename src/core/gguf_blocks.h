// Block types of ggml: how many values a block holds in how many bytes, and how they are told apart again.
#pragma once

#include <cstdint>

namespace miq {

/// Writes blocks `begin` to `end` of a matrix whose rows have `row_blocks` each; `values`, `data` and `importance` (of each
/// column; nullptr: all alike) are those of the whole matrix.
using GgmlEncode = void (*)(const float* values, const float* importance, std::int64_t row_blocks, std::int64_t begin,
                            std::int64_t end, std::uint8_t* data);

/// ggml's reference quantizers, to the bit; they do not look at importance.
void encode_q4_0(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*);
void encode_q4_1(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*);
void encode_q5_0(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*);
void encode_q5_1(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*);
void encode_q8_0(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*);
/// Our own search for the least (weighted) squared error.
void encode_q2_k(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*);
void encode_q3_k(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*);
void encode_q4_k(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*);
void encode_q5_k(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*);
void encode_q6_k(const float*, const float*, std::int64_t, std::int64_t, std::int64_t, std::uint8_t*);

/// A row of the table of types. Block types give float32.
struct GgmlType {
  std::int32_t id;
  const char* name;
  std::int64_t block;  ///< values in a block; 1 for plain types
  std::int64_t bytes;  ///< of a block
  /// Writes the values of `blocks` blocks, which need not be aligned; nullptr for plain types and for those that
  /// cannot be read.
  void (*dequantize)(const std::uint8_t* data, float* values, std::int64_t blocks);
  GgmlEncode encode;  ///< nullptr: none
};

/// The row of a ggml_type, or nullptr for an unknown one.
const GgmlType* find_ggml_type(std::int32_t id);

}  // namespace miq
