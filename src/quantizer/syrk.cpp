// A blocked symmetric rank-k update. The bfloat16 path packs pairs of tokens (vdpbf16ps multiplies
// two neighbours and sums them in float32) into panels of kPanel columns and computes only tiles on
// or below the diagonal: half the operations of a full product, at the bfloat16 rate.
#include "syrk.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace miq::quantizer {
namespace {

// Strips of columns through LibTorch's float32 product, each with the rows at and below it only.
void add_by_strips(const at::Tensor& x_TI, at::Tensor& sum_II) {
  constexpr std::int64_t kStrip = 256;
  const at::Tensor x = x_TI.to(at::kFloat);
  const std::int64_t columns = x.size(1);
  for (std::int64_t begin = 0; begin < columns; begin += kStrip) {
    const std::int64_t width = std::min(kStrip, columns - begin);
    at::Tensor target = sum_II.narrow(0, begin, columns - begin).narrow(1, begin, width);
    target.addmm_(x.narrow(1, begin, columns - begin).t(), x.narrow(1, begin, width));
  }
}

#if defined(__x86_64__)

constexpr std::int64_t kPanel = 48;      // columns of a panel: three vectors
constexpr std::int64_t kRows = 8;        // rows of the register tile: 8 x 3 accumulators
constexpr std::int64_t kDepth = 128;     // token pairs per inner block: a panel's part is 24 KiB
constexpr std::int64_t kTokens = 4096;   // tokens packed at a time

#define MIQ_BF16_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

using Pair = std::uint32_t;  // tokens 2t (low half) and 2t + 1 of one column

// Packs column panel `panel` of tokens [first, first + count): out[pair][kPanel], zero-padded.
MIQ_BF16_TARGET void pack_panel(const std::uint16_t* x, std::int64_t columns, std::int64_t first, std::int64_t count,
                                std::int64_t panel, Pair* out) {
  const std::int64_t begin = panel * kPanel, width = std::min(kPanel, columns - begin);
  for (std::int64_t t = 0; t < count; t += 2, out += kPanel) {
    const std::uint16_t* const low = x + (first + t) * columns + begin;
    const std::uint16_t* const high = low + columns;
    const bool paired = t + 1 < count;
    for (std::int64_t c = 0; c < width; ++c)
      out[c] = static_cast<Pair>(low[c]) | (paired ? static_cast<Pair>(high[c]) << 16 : 0);
    for (std::int64_t c = width; c < kPanel; ++c) out[c] = 0;
  }
}

// tile[kRows][kPanel] += sum over pairs of a[pair][row] * b[pair][column].
MIQ_BF16_TARGET void multiply_rows(const Pair* a, const Pair* b, std::int64_t pairs, float* tile) {
  __m512 sums[kRows][3];  // from 0, not from the tile: short sums keep more digits
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < 3; ++v) sums[r][v] = _mm512_setzero_ps();
  for (std::int64_t p = 0; p < pairs; ++p, a += kPanel, b += kPanel) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b);
    const __m512bh b1 = (__m512bh)_mm512_loadu_si512(b + 16);
    const __m512bh b2 = (__m512bh)_mm512_loadu_si512(b + 32);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512bh row = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r]));
      sums[r][0] = _mm512_dpbf16_ps(sums[r][0], row, b0);
      sums[r][1] = _mm512_dpbf16_ps(sums[r][1], row, b1);
      sums[r][2] = _mm512_dpbf16_ps(sums[r][2], row, b2);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < 3; ++v) {
      float* const target = tile + r * kPanel + v * 16;
      _mm512_storeu_ps(target, _mm512_add_ps(_mm512_loadu_ps(target), sums[r][v]));
    }
}

void add_tile(const float* tile, std::int64_t row_panel, std::int64_t column_panel, std::int64_t columns, float* sum) {
  const std::int64_t first_row = row_panel * kPanel, first_column = column_panel * kPanel;
  const std::int64_t rows = std::min(kPanel, columns - first_row), width = std::min(kPanel, columns - first_column);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < width; ++c) sum[(first_row + r) * columns + first_column + c] += tile[r * kPanel + c];
}

void add_bfloat16(const at::Tensor& x_TI, at::Tensor& sum_II) {
  const std::int64_t tokens = x_TI.size(0), columns = x_TI.size(1), panels = (columns + kPanel - 1) / kPanel;
  const auto* const x = reinterpret_cast<const std::uint16_t*>(x_TI.const_data_ptr<at::BFloat16>());
  float* const sum = sum_II.mutable_data_ptr<float>();
  const std::int64_t max_pairs = (std::min(tokens, kTokens) + 1) / 2;
  at::Tensor packed = at::empty({panels, max_pairs * kPanel}, at::kInt);
  Pair* const pairs_of = reinterpret_cast<Pair*>(packed.mutable_data_ptr<int>());
  for (std::int64_t first = 0; first < tokens; first += kTokens) {
    const std::int64_t count = std::min(kTokens, tokens - first), pairs = (count + 1) / 2;
    at::parallel_for(0, panels, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) pack_panel(x, columns, first, count, p, pairs_of + p * max_pairs * kPanel);
    });
    at::parallel_for(0, panels * (panels + 1) / 2, 1, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t row_panel = 0;
      while ((row_panel + 1) * (row_panel + 2) / 2 <= begin) ++row_panel;
      std::int64_t column_panel = begin - row_panel * (row_panel + 1) / 2;
      for (std::int64_t i = begin; i < end; ++i) {
        alignas(64) float tile[kPanel * kPanel] = {};
        const Pair* const a = pairs_of + row_panel * max_pairs * kPanel;
        const Pair* const b = pairs_of + column_panel * max_pairs * kPanel;
        for (std::int64_t p = 0; p < pairs; p += kDepth)
          for (std::int64_t r = 0; r < kPanel; r += kRows)
            multiply_rows(a + p * kPanel + r, b + p * kPanel, std::min(kDepth, pairs - p), tile + r * kPanel);
        add_tile(tile, row_panel, column_panel, columns, sum);
        if (++column_panel > row_panel) {
          ++row_panel;
          column_panel = 0;
        }
      }
    });
  }
}

bool has_bfloat16_products() {
  static const bool has = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512f");
  return has;
}

#else

bool has_bfloat16_products() { return false; }
void add_bfloat16(const at::Tensor&, at::Tensor&) {}

#endif

}  // namespace

void add_lower_syrk(const at::Tensor& x_TI, at::Tensor& sum_II) {
  if (x_TI.size(0) == 0) return;
  if (x_TI.scalar_type() == at::kBFloat16 && has_bfloat16_products())
    add_bfloat16(x_TI, sum_II);
  else
    add_by_strips(x_TI, sum_II);
}

}  // namespace miq::quantizer
