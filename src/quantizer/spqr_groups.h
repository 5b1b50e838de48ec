// How SpQR fits the grid of one group of columns: leave-one-out outlier detection, first level, second
// level. Source: Vahe1994/SpQR spqr_engine.py, quant_groups.py (Apache-2.0).
#pragma once

#include "row_tile.h"

namespace miq::quantizer {

/// First-level grid of tile[columns][kLanes]. With threshold > 0, weights whose absence lowers the
/// group's weighted error by more than it are replaced by their row's mean first. inverse_squares[c] =
/// 1 / U_cc^2 of each column.
void fit_spqr_group(const float* tile, std::int64_t columns, const float* inverse_squares, double threshold, bool simplified,
                    const Grid& grid, TileGrid& fitted);

/// Second level of one column of parameters: values [O] float32 -> codes uint8 [O], scales and zeros
/// [O / rows], numbers of `dtype`, and the values they stand for, in place.
struct SecondLevel {
  at::Tensor codes_O, scales_R, zeros_R;
};
SecondLevel quantize_parameters(at::Tensor& values_O, int bits, bool symmetric, std::int64_t rows, at::ScalarType dtype);

/// SpQR's permutation by similar columns: from the first on, the nearest left over by
/// the cosine of centred ranks
/// (weight_permutation.py:_get_permutation, "spearman"). int64 [I].
at::Tensor spearman_order(const at::Tensor& weight_OI);

}  // namespace miq::quantizer
