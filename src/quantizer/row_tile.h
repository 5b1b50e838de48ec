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

/// The TileGrid of kLanes scales and zeros that lie side by side.
void load_tile_grid(const float* scales, const float* zeros, const Grid& grid, TileGrid& out);

/// Rounds one column w of a tile: unsigned codes (as floats), errors (w - q) / diagonal, whose squares
/// are added to `squares`.
void round_column(const float* weights, float diagonal, const TileGrid& grid, float* codes, float* errors, float* squares);

}  // namespace miq::quantizer
