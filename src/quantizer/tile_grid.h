// From an interval to a grid's parameters, one group at a time: the conventions of spec/algorithms
// section 1, in the references' float32 operations and their order.
#pragma once

#include <utility>
#include <vector>

#include "row_tile.h"

namespace miq::quantizer {

/// One lane of a TileGrid.
struct Fitted {
  float scale, zero, offset, low, high, base;
};

/// The way of rounding that goes with a scale and a zero.
Fitted finish(float scale, float zero, const Grid& grid);

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
  out.mantissa = grid.is_integer() ? 0 : grid.type == GridType::fp8_e4m3 ? 3 : 2;
  out.least_exponent = grid.type == GridType::fp8_e4m3 ? -6 : -14;
}

}  // namespace miq::quantizer
