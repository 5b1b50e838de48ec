// The work per weight element, on tiles of rows: kLanes rows side by side, so that a column of a tile
// is one contiguous stretch and every loop over rows vectorises. Tiles are [columns][kLanes].
#pragma once

#include <cstdint>

#include "miq/quantizer/range.h"

namespace miq::quantizer {

constexpr std::int64_t kLanes = 32;

/// A grid's parameters for the rows of a tile. The code of w is round_half_even(clamp(w / scale +
/// offset, low, high)) - offset + zero; its value scale * (code - zero). Conventions that add the zero
/// before rounding have offset = zero's signed form, the others 0: it decides ties.
struct TileGrid {
  alignas(64) float scale[kLanes], offset[kLanes], low[kLanes], high[kLanes], zero[kLanes];
};

/// Fits `grid` to each row of tile[columns][kLanes]; shared: to all of it, with one result in every lane.
void fit_tile(const float* tile, std::int64_t columns, const Grid& grid, const Range& range, TileGrid& out, bool shared = false);

/// TileGrid of known scales and zeros (one group), for example fitted earlier.
void tile_grid_from_params(const float* scales, const float* zeros, std::int64_t stride, std::int64_t rows,
                           const Grid& grid, TileGrid& out);

/// Quantizes one column of a tile: codes (as floats, unsigned) and values.
void quantize_column(const float* weights, const TileGrid& grid, float* codes, float* values);

/// The in-block part of error feedback on tile[columns][kLanes]: for `count` columns from `first`,
/// rounds column j with `grid`, stores its code and error e_j = (w_j - q_j) / U_jj, and subtracts
/// e_j U_jk from the columns k behind it. `upper`: row-major [columns][stride], the diagonal block of U.
/// `values` receives q_j.
void feed_back_errors(float* tile, std::int64_t columns, std::int64_t first, std::int64_t count, const float* upper,
                      std::int64_t stride, const TileGrid& grid, float* codes, float* errors, float* values);

}  // namespace miq::quantizer
