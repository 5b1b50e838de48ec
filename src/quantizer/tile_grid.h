// From intervals to the grid's parameters of a tile, by gpu/grid_math.h.
#pragma once

#include <utility>
#include <vector>

#include "row_tile.h"

namespace miq::quantizer {

/// One lane of a TileGrid.
using gpu::Fitted;

/// Scale and zero for weights between low and high.
Fitted fit_interval(float low, float high, const Grid& grid);

/// The weights at both percentiles, between neighbours in proportion (numpy's default). Sorts them.
std::pair<float, float> percentile_interval(std::vector<float>& weights, double percentile);

/// Largest number of an fp8 type.
float fp8_max(GridType type);

inline void set_lane(TileGrid& out, std::int64_t lane, const Fitted& fitted) {
  out.scale[lane] = fitted.scale;
  out.zero[lane] = fitted.zero;
  out.offset[lane] = fitted.offset;
  out.low[lane] = fitted.low;
  out.high[lane] = fitted.high;
  out.base[lane] = fitted.base;
}

inline void set_type(TileGrid& out, const Grid& grid) {
  const gpu::FloatFormat format = gpu::float_format(static_cast<int>(grid.type));
  out.mantissa = grid.is_integer() ? 0 : format.mantissa;
  out.least_exponent = format.least_exponent;
}

}  // namespace miq::quantizer
