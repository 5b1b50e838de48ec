// Grids: the representable values of a weight, and the parameters (scales, zeros) that place them.
// Shapes: O out_features, I in_features, G groups along I (1 per tensor/channel).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace miq::quantizer {

enum class GridType { integer, fp8_e4m3, fp8_e5m2 };
/// `block`: squares of group_size rows and columns (fp8's 128x128).
enum class Granularity { tensor, channel, group, block };

/// How scale and zero follow from an interval. They differ in corner cases only; `miq` is the one to
/// use, the others reproduce a reference to the last code.
enum class GridConvention {
  miq,     ///< `ist`, but a symmetric grid always spans [-max|w|, max|w|], also for one-signed groups
  ist,     ///< GPTQ, GPTQModel, QuIP's qfn a (quant.py:Quantizer)
  awq,     ///< llm-awq, AutoAWQ (pseudo_quantize_tensor)
  ct,      ///< compressed-tensors, llm-compressor (calculate_qparams)
  absmax,  ///< SmoothQuant, ZeroQuant: symmetric, scale = max|w| / (2^(bits-1) - 1)
  spqr,    ///< SpQR (quant_groups.py): 0 need not lie in the range, real zeros
  quip,    ///< QuIP's qfn b: 2^bits values centred on 0, none of them 0
  hqq,     ///< HQQ: 0 need not lie in the range, real zeros, codes from the inverse scale
};

/// SpQR's second level: scales and zeros of `rows` consecutive rows are codes of a grid of their own.
struct Bilevel {
  int scale_bits = 0;  ///< 0: no second level
  int zero_bits = 0;   ///< 0: zeros stay as they are
  std::int64_t rows = 16;
  bool zero_symmetric = false;
  bool enabled() const { return scale_bits > 0 || zero_bits > 0; }
};

/// Integer codes are stored unsigned, 0 .. 2^bits - 1, for every convention; a value is
/// scale * (code - zero). A floating code is its byte, its value scale * float(byte).
struct Grid {
  GridType type = GridType::integer;
  int bits = 4;                                     ///< 2..8; 8 for fp8
  bool symmetric = false;
  Granularity granularity = Granularity::group;
  std::int64_t group_size = 128;                    ///< columns of a group, rows and columns of a block
  GridConvention convention = GridConvention::miq;
  bool real_zeros = false;                          ///< conventions spqr and hqq: zeros need not be whole
  /// Scales are numbers of this type (what an export stores them as): codes are chosen against the rounded scale.
  at::ScalarType scale_dtype = at::kFloat;
  Bilevel bilevel;

  bool is_integer() const { return type == GridType::integer; }
  bool is_fp8() const { return type != GridType::integer; }

  /// Columns that share one scale, for a matrix with `in_features` columns.
  std::int64_t columns_per_group(std::int64_t in_features) const;
  std::int64_t num_groups(std::int64_t in_features) const;  ///< a ragged last group counts
};

/// Scales and zeros of one matrix. `zeros` holds whole numbers unless the grid has real_zeros; 0 for fp8.
/// Rows (of a tensor, a block) that share parameters repeat them.
struct GridParams {
  at::Tensor scales_OG;  ///< float32
  at::Tensor zeros_OG;   ///< float32
};

/// The second level that scales_OG and zeros_OG came from; R = O / bilevel.rows. value = scale * (code - zero).
struct BilevelParams {
  at::Tensor scale_codes_OG, zero_codes_OG;          ///< uint8; undefined: that half has no second level
  at::Tensor scale_scales_RG, scale_zeros_RG, zero_scales_RG, zero_zeros_RG;  ///< float32
};

/// `value` as a number of `dtype` (float16, bfloat16, float32): rounded to nearest even, but never to 0 or infinity, which a scale
/// must not be.
float stored_number(float value, at::ScalarType dtype);
at::Tensor stored_numbers(const at::Tensor& values, at::ScalarType dtype);  ///< float32

/// Storage cost in bits of one weight of an [O, I] matrix: codes, 16-bit scales, `bits`-wide whole
/// zeros (none for symmetric grids) or 16-bit real ones; second-level parameters of 16 bits each.
double bits_per_weight(const Grid& grid, std::int64_t out_features, std::int64_t in_features);

}  // namespace miq::quantizer
