// The same sums as the vector kernels, for any CPU; and which kernel is taken.
#include <algorithm>
#include <bit>
#include <cstring>

#include "codes.h"
#include "kernels.h"
#include "miq/core/narrow_float.h"
#include "miq/core/vectorised.h"

namespace miq::quantizer::packed {
namespace {

// sums[lane] += codes of 16 rows by 4 columns times x.
MIQ_INLINE void add_quad(const std::uint32_t* quads, const std::int32_t* x, std::int32_t* sums) {
#pragma omp simd
  for (std::int64_t lane = 0; lane < kPanelRows; ++lane) {
    const std::uint32_t four = quads[lane * kQuads];
    sums[lane] += static_cast<std::int32_t>(four & 0xFF) * x[0] + static_cast<std::int32_t>(four >> 8 & 0xFF) * x[1] +
                  static_cast<std::int32_t>(four >> 16 & 0xFF) * x[2] + static_cast<std::int32_t>(four >> 24) * x[3];
  }
}

void multiply_integers(const Matrix& m, const Input& in, std::int64_t panel, float* out) {
  std::fill(out, out + in.rows * kPanelRows, 0.0f);
  std::int32_t sums[kMaxRows][kPanelRows] = {};
  for (std::int64_t k = 0, block = 0; k < m.chunks; ++k) {
    const std::int64_t g = k / m.chunks_per_group, in_group = k - g * m.chunks_per_group;
    Tile tile;
    unpack_chunk(m.codes + panel * m.panel_bytes() + k * 64 * m.bits, m.bits, tile);
    for (std::int64_t r = 0; r < in.rows; ++r)
      for (std::int64_t t = 0; t < kQuads; ++t) {
        const std::int64_t at = r * in.columns + k * kChunk + 4 * t;
        std::int32_t x[4];
        for (int b = 0; b < 4; ++b) x[b] = 256 * in.high[at + b] + in.low[at + b];
        add_quad(tile.quads + t, x, sums[r]);
      }
    const bool ends = k + 1 == m.chunks || in_group + 1 == m.chunks_per_group || (in_group + 1) % m.chunks_per_block == 0;
    if (!ends) continue;
    for (std::int64_t r = 0; r < in.rows; ++r)
      for (std::int64_t lane = 0; lane < kPanelRows; ++lane) {
        const std::int64_t at = (panel * m.groups + g) * kPanelRows + lane;
        const float centred = static_cast<float>(sums[r][lane]) - value_at(m.zeros, at) * in.sums[r * in.blocks + block];
        out[r * kPanelRows + lane] += value_at(m.scales, at) * in.scales[r * in.blocks + block] * centred;
        sums[r][lane] = 0;
      }
    ++block;
  }
}

void multiply_fp8(const Matrix& m, const Input& in, std::int64_t panel, float* out) {
  const float* const values = fp8_values(m.type);
  std::fill(out, out + in.rows * kPanelRows, 0.0f);
  const std::uint8_t* const codes = m.codes + panel * m.panel_bytes();
  for (std::int64_t r = 0; r < in.rows; ++r)
    for (std::int64_t g = 0; g < m.groups; ++g) {
      const std::int64_t end = std::min(m.chunks, (g + 1) * m.chunks_per_group) * kChunk;
      float sums[kPanelRows] = {};
      for (std::int64_t i = g * m.chunks_per_group * kChunk; i < end; ++i)
        for (std::int64_t lane = 0; lane < kPanelRows; ++lane) sums[lane] += values[codes[i * kPanelRows + lane]] * in.values[r * in.columns + i];
      for (std::int64_t lane = 0; lane < kPanelRows; ++lane)
        out[r * kPanelRows + lane] += value_at(m.scales, (panel * m.groups + g) * kPanelRows + lane) * sums[lane];
    }
}

Simd limit = Simd::avx512;

}  // namespace

PanelKernel portable_kernel(CodeType type, int) { return type == CodeType::integer ? multiply_integers : multiply_fp8; }

PanelKernel panel_kernel(CodeType type, int bits) {
  PanelKernel kernel = limit >= Simd::avx512 ? avx512_kernel(type, bits) : nullptr;
  if (kernel == nullptr && limit >= Simd::avx2) kernel = avx2_kernel(type, bits);
  return kernel != nullptr ? kernel : portable_kernel(type, bits);
}

}  // namespace miq::quantizer::packed

namespace miq::quantizer {

Simd simd() {
  using packed::CodeType;
  if (packed::limit >= Simd::avx512 && packed::avx512_kernel(CodeType::integer, 4) != nullptr) return Simd::avx512;
  return packed::limit >= Simd::avx2 && packed::avx2_kernel(CodeType::integer, 4) != nullptr ? Simd::avx2 : Simd::portable;
}

void limit_simd(Simd level) { packed::limit = level; }

}  // namespace miq::quantizer
