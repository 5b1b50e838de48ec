// Codes and parameters between tensors and the layout of the kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include "layout.h"
#include "miq/quantizer/grid.h"

namespace miq::quantizer::packed {

inline CodeType code_type(const Grid& grid) {
  if (grid.is_integer()) return CodeType::integer;
  return grid.type == GridType::fp8_e4m3 ? CodeType::fp8_e4m3 : CodeType::fp8_e5m2;
}
inline int code_bits(const Grid& grid) { return grid.is_integer() ? grid.bits : 8; }

/// A chunk's codes, a byte each: [16 rows][32 columns].
struct Tile {
  alignas(64) std::uint32_t quads[kPanelRows * kQuads];
  const std::uint8_t* row(std::int64_t lane) const { return reinterpret_cast<const std::uint8_t*>(quads + lane * kQuads); }
};

void unpack_chunk(const std::uint8_t* chunk, int bits, Tile& tile);
/// Of fp8, which lie column by column.
void unpack_fp8_chunk(const std::uint8_t* chunk, Tile& tile);

/// uint8 codes [O, I] -> [panels, panel_bytes]. `order`: int32 [I], the column at each position; or undefined.
at::Tensor pack_codes(const at::Tensor& codes_OI, CodeType type, int bits, const at::Tensor& order);
at::Tensor unpack_codes(const at::Tensor& packed, std::int64_t rows, std::int64_t columns, CodeType type, int bits, const at::Tensor& order);

/// scale * (code - zero) in float32, then in `dtype`: [O, I]. scales and zeros: float32 [O, G], `group` columns each.
at::Tensor dequantize_codes(const at::Tensor& packed, const at::Tensor& scales_OG, const at::Tensor& zeros_OG, std::int64_t columns, CodeType type,
                            int bits, std::int64_t group, const at::Tensor& order, at::ScalarType dtype);

/// float32 [O, G] -> [panels][G][16] in the smallest type that holds all values, [] when they are one value; on the CPU.
at::Tensor pack_parameters(const at::Tensor& values_OG);
at::Tensor unpack_parameters(const at::Tensor& packed, std::int64_t rows, std::int64_t groups);
Parameters parameters(const at::Tensor& packed);
/// The same values in the smallest of float16, bfloat16 and float32 that holds them all.
at::Tensor smallest_type(const at::Tensor& values);

float value_at(const Parameters& parameters, std::int64_t at);
const float* fp8_values(CodeType type);
/// The code of one weight; `column` in the order of the codes.
int code_at(const Matrix& matrix, std::int64_t row, std::int64_t column);

}  // namespace miq::quantizer::packed
