// Grids: the representable values of a weight, and the parameters (scales, zeros) that place them.
// Shapes: O out_features, I in_features, G groups along I (1 per tensor/channel).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace miq::quantizer {

enum class GridType { integer };
enum class Granularity { tensor, channel, group };

/// How scale and zero follow from an interval. They differ in corner cases only; `miq` is the one to
/// use, the others reproduce a reference to the last code.
enum class GridConvention {
  miq,  ///< `ist`, but a symmetric grid always spans [-max|w|, max|w|], also for one-signed groups
  ist,  ///< GPTQ, GPTQModel, QuIP (quant.py:Quantizer)
  awq,  ///< llm-awq, AutoAWQ (pseudo_quantize_tensor)
  ct,   ///< compressed-tensors, llm-compressor (calculate_qparams)
};

/// Codes are stored unsigned, 0 .. 2^bits - 1, for every convention; a value is scale * (code - zero).
struct Grid {
  GridType type = GridType::integer;
  int bits = 4;                                     ///< 2..8
  bool symmetric = false;
  Granularity granularity = Granularity::group;
  std::int64_t group_size = 128;                    ///< columns; used with Granularity::group only
  GridConvention convention = GridConvention::miq;

  /// Columns that share one scale, for a matrix with `in_features` columns.
  std::int64_t columns_per_group(std::int64_t in_features) const;
  std::int64_t num_groups(std::int64_t in_features) const;  ///< a ragged last group counts
};

/// Scales and zeros of one matrix. `zeros` holds whole numbers for integer grids.
struct GridParams {
  at::Tensor scales_OG;  ///< float32
  at::Tensor zeros_OG;   ///< float32
};

/// Storage cost in bits of one weight of an [O, I] matrix: codes, 16-bit scales, `bits`-wide zeros
/// (none for symmetric grids).
double bits_per_weight(const Grid& grid, std::int64_t out_features, std::int64_t in_features);

}  // namespace miq::quantizer
