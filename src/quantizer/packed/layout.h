// Packed codes as the kernels read them. 16 rows stand side by side as the lanes of a vector, so that scales
// and sums of 16 rows are vectors too and nothing is summed across lanes.
//
// Integer codes: panels of 16 rows, chunks of 32 columns; a chunk is 64 * bits bytes. Its planes follow one
// another: 4 bits, 2 bits, 1 bit as the width asks for (3 = 2 + 1), the low bits of a code in the first; 8
// bits are one plane. A vector of a plane is 16 dwords, one a row; byte b of a dword holds columns 4 t + b
// of the quads t that the vector covers, each shifted by the plane's width times t. fp8: panels of 16 rows,
// the 16 bytes of a column together.
#pragma once

#include <cstdint>

namespace miq::quantizer::packed {

constexpr std::int64_t kPanelRows = 16;
constexpr std::int64_t kChunk = 32;    // columns
constexpr std::int64_t kQuads = 8;     // of a chunk
constexpr std::int64_t kMaxBlock = 128;  // columns of x that share a scale: sums of 8-bit codes fit int32
constexpr std::int64_t kMaxRows = 8;   // rows of x that a kernel takes

/// How scales or zeros are stored; `constant`: one value for all.
enum class Store { constant, uint8, float16, bfloat16, float32 };

struct Parameters {  // [panel][group][16]
  Store store = Store::constant;
  float value = 0;  // of `constant`
  const void* data = nullptr;
};

enum class CodeType { integer, fp8_e4m3, fp8_e5m2 };

/// A matrix of codes. Rows and columns are padded to whole panels and chunks; x is 0 in padded columns.
struct Matrix {
  CodeType type = CodeType::integer;
  int bits = 4;
  const std::uint8_t* codes = nullptr;
  std::int64_t chunks = 0, groups = 0, chunks_per_group = 0, chunks_per_block = 0;
  Parameters scales, zeros;

  std::int64_t panel_bytes() const { return chunks * 64 * bits; }
};

/// Rows of x. For integer codes x = scale * (256 high + low), a scale for each block of columns; for fp8 as
/// they are.
struct Input {
  std::int64_t rows = 0, columns = 0, blocks = 0;
  const std::int8_t* high = nullptr;  // [rows][columns]
  const std::int8_t* low = nullptr;
  const float* scales = nullptr;      // [rows][blocks]
  const float* sums = nullptr;        // [rows][blocks], of 256 high + low
  const float* values = nullptr;      // [rows][columns], fp8 only
};

constexpr bool has_plane(int bits, int width) { return bits == 8 ? width == 8 : (bits & width) != 0 && width < 8; }
/// The lowest bit of a code that the plane of `width` holds.
constexpr int plane_shift(int bits, int width) {
  return bits == 8 ? 0 : (width < 4 && (bits & 4) ? 4 : 0) + (width < 2 && (bits & 2) ? 2 : 0);
}
/// Where the plane begins in a chunk, in bytes.
constexpr int plane_offset(int bits, int width) { return 64 * plane_shift(bits, width); }

/// Products of a panel with all rows of x -> out [rows][16].
using PanelKernel = void (*)(const Matrix& matrix, const Input& input, std::int64_t panel, float* out);

}  // namespace miq::quantizer::packed
