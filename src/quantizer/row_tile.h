// The work per weight element, on tiles of rows: kLanes rows side by side, so that a column of a tile
// is one contiguous stretch and every loop over rows vectorises. Tiles are [columns][kLanes].
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#include "gpu/grid_math.h"
#include "miq/core/vectorised.h"
#include "miq/quantizer/range.h"

namespace miq::quantizer {

constexpr std::int64_t kLanes = 32;

using gpu::round_half_even, gpu::Rounded;

/// A grid's parameters for the rows of a tile, as gpu::Fitted. Floating grids (mantissa > 0) round w / scale to so many bits of
/// mantissa; their "code" in a tile is the rounded number itself.
struct TileGrid {
  alignas(64) float scale[kLanes], offset[kLanes], low[kLanes], high[kLanes], base[kLanes], zero[kLanes];
  int mantissa = 0;
  int least_exponent = 0;  ///< of normal numbers
};

/// One lane of a whole-number grid.
inline Rounded round_lane(float w, const TileGrid& g, std::int64_t r) {
  return gpu::round_whole(w, g.scale[r], g.offset[r], g.low[r], g.high[r], g.base[r]);
}

/// The smallest and the largest weight of each row of tile[columns][kLanes].
void find_extremes(const float* tile, std::int64_t columns, float* lows, float* highs);

/// Fits `grid` to each row of tile[columns][kLanes]; shared (min_max and mse): to all of it, with one result
/// in every lane.
void fit_tile(const float* tile, std::int64_t columns, const Grid& grid, const Range& range, TileGrid& out, bool shared = false);

/// Fits `grid` to given intervals, one per lane: the smallest and the largest weight.
void fit_extremes(const float* lows, const float* highs, const Grid& grid, TileGrid& out);

/// The TileGrid of kLanes scales and zeros that lie `stride` apart; lanes from `rows` on repeat the last.
void load_tile_grid(const float* scales, const float* zeros, std::int64_t stride, std::int64_t rows, const Grid& grid, TileGrid& out);

/// As fit_extremes, of weights clipped at +-limits.
void fit_clipped(const float* lows, const float* highs, const float* limits, const Grid& grid, TileGrid& out);

/// Quantizes one column of a tile: codes (as floats) and values.
void quantize_column(const float* weights, const TileGrid& grid, float* codes, float* values);

/// Rounds one column w of a tile: codes (as floats), errors (w - q) / diagonal, whose squares are added
/// to `squares`.
void round_column(const float* weights, float diagonal, const TileGrid& grid, float* codes, float* errors, float* squares);

/// errors[r] += sum over columns of |Q(w) - w|^norm, for each row of a tile.
void add_rounding_errors(const float* tile, std::int64_t columns, const TileGrid& grid, float norm, float* errors);

/// The byte of a code that quantize_column or round_column gave.
std::uint8_t code_byte(float code, const Grid& grid);
/// Value of each byte of an fp8 grid, 256 floats.
const float* fp8_values(GridType type);

/// Calls work(first_row, valid_rows) for each row tile, in parallel.
template <class Work>
void for_each_row_tile(std::int64_t rows, const Work& work) {
  at::parallel_for(0, (rows + kLanes - 1) / kLanes, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) work(t * kLanes, std::min(kLanes, rows - t * kLanes));
  });
}

/// Rows [first, first + kLanes) and columns [begin, end) of a row-major matrix as a tile; rows beyond
/// the matrix repeat the last one.
void load_tile(const float* matrix, std::int64_t rows, std::int64_t columns, std::int64_t first, std::int64_t begin,
               std::int64_t end, float* tile);

}  // namespace miq::quantizer
