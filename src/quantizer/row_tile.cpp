#include "row_tile.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "device_rounding.h"
#include "tile_grid.h"

namespace miq::quantizer {
namespace {

inline Rounded round_floating_lane(float w, const TileGrid& g, std::int64_t r) {
  return gpu::round_to_float(w, g.scale[r], g.low[r], g.high[r], g.mantissa, g.least_exponent);
}

inline float rounding_error(float w, const TileGrid& g, std::int64_t r, Rounded rounded) { return gpu::value_minus_weight(w, g.scale[r], rounded.steps); }

std::array<float, 256> decode_all(GridType type) {
  std::array<float, 256> values{};
  for (int byte = 0; byte < 256; ++byte) values[static_cast<size_t>(byte)] = gpu::fp8_value(static_cast<std::uint8_t>(byte), static_cast<int>(type));
  return values;
}

}  // namespace

MIQ_VECTORISED void add_rounding_errors(const float* tile, std::int64_t columns, const TileGrid& g, float norm, float* errors) {
  if (g.mantissa > 0) {
    for (std::int64_t c = 0; c < columns; ++c) {
      const float* const w = tile + c * kLanes;
      for (std::int64_t r = 0; r < kLanes; ++r) errors[r] += gpu::power(rounding_error(w[r], g, r, round_floating_lane(w[r], g, r)), norm);
    }
    return;
  }
  for (std::int64_t c = 0; c < columns; ++c) {
    const float* const w = tile + c * kLanes;
    for (std::int64_t r = 0; r < kLanes; ++r) errors[r] += gpu::power(rounding_error(w[r], g, r, round_lane(w[r], g, r)), norm);
  }
}

MIQ_VECTORISED void quantize_column(const float* weights, const TileGrid& grid, float* codes, float* values) {
  if (grid.mantissa > 0) {
    for (std::int64_t r = 0; r < kLanes; ++r) {
      const Rounded rounded = round_floating_lane(weights[r], grid, r);
      codes[r] = rounded.code;
      values[r] = grid.scale[r] * rounded.steps;
    }
    return;
  }
  for (std::int64_t r = 0; r < kLanes; ++r) {
    const Rounded rounded = round_lane(weights[r], grid, r);
    codes[r] = rounded.code;
    values[r] = grid.scale[r] * rounded.steps;
  }
}

MIQ_VECTORISED void round_column(const float* weights, float diagonal, const TileGrid& grid, float* codes, float* errors,
                                 float* squares) {
  if (grid.mantissa > 0) {
    for (std::int64_t r = 0; r < kLanes; ++r) {
      const Rounded rounded = round_floating_lane(weights[r], grid, r);
      codes[r] = rounded.code;
      errors[r] = gpu::weight_minus_value(weights[r], grid.scale[r], rounded.steps) / diagonal;
      squares[r] += errors[r] * errors[r];
    }
    return;
  }
  for (std::int64_t r = 0; r < kLanes; ++r) {
    const Rounded rounded = round_lane(weights[r], grid, r);
    codes[r] = rounded.code;
    errors[r] = gpu::weight_minus_value(weights[r], grid.scale[r], rounded.steps) / diagonal;
    squares[r] += errors[r] * errors[r];
  }
}

void load_tile_grid(const float* scales, const float* zeros, std::int64_t stride, std::int64_t rows, const Grid& grid, TileGrid& out) {
  const miq_grid plain = gpu_grid(grid);
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    const std::int64_t row = std::min(lane, rows - 1);
    set_lane(out, lane, gpu::finish(scales[row * stride], zeros[row * stride], plain));
  }
  set_type(out, grid);
}

void load_tile(const float* matrix, std::int64_t rows, std::int64_t columns, std::int64_t first, std::int64_t begin,
               std::int64_t end, float* tile) {
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    const float* const row = matrix + std::min(first + lane, rows - 1) * columns;
    for (std::int64_t c = begin; c < end; ++c) tile[(c - begin) * kLanes + lane] = row[c];
  }
}

std::uint8_t code_byte(float code, const Grid& grid) { return gpu::code_byte(code, static_cast<int>(grid.type)); }

const float* fp8_values(GridType type) {
  static const std::array<float, 256> e4m3 = decode_all(GridType::fp8_e4m3), e5m2 = decode_all(GridType::fp8_e5m2);
  return type == GridType::fp8_e4m3 ? e4m3.data() : e5m2.data();
}

}  // namespace miq::quantizer
