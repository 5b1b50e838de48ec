#include "row_tile.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "tile_grid.h"

namespace miq::quantizer {
namespace {

// |x|^norm, within 1e-6 of its value; 0 for 0. Plain arithmetic, so that loops over it vectorise.
inline float power(float x, float norm) {
  const float magnitude = std::abs(x);
  const auto bits = std::bit_cast<std::int32_t>(magnitude);
  // log2: the exponent, and atanh's series on a mantissa in [0.7, 1.4].
  const std::int32_t shift = (bits - 0x3f3504f3) >> 23;
  const float mantissa = std::bit_cast<float>(bits - (shift << 23));
  const float t = (mantissa - 1) / (mantissa + 1), t2 = t * t;
  const float series = t * (2.885390082f + t2 * (0.9617966940f + t2 * (0.5770780164f + t2 * (0.4121985831f + t2 * 0.32f))));
  const float exponent = norm * (static_cast<float>(shift) + series);
  // exp2: whole part into the exponent, the rest by its series.
  const float clamped = std::min(std::max(exponent, -126.0f), 126.0f);
  const float whole = round_half_even(clamped), f = clamped - whole;
  const float fraction =
      1 + f * (0.6931471806f + f * (0.2402265070f + f * (0.05550410866f + f * (0.009618129108f + f * (0.001333355815f + f * 0.000154f)))));
  const float scaled = fraction * std::bit_cast<float>((static_cast<std::int32_t>(whole) + 127) << 23);
  return magnitude > 0 ? scaled : 0.0f;
}

// x rounded to a floating grid: to a multiple of 2^(its exponent - mantissa), half to even.
inline float round_floating(float x, int mantissa, int least_exponent) {
  const auto exponent = static_cast<std::int32_t>((std::bit_cast<std::uint32_t>(x) >> 23) & 0xff) - 127;
  const std::int32_t step = std::max(exponent, least_exponent) - mantissa;
  const float up = std::bit_cast<float>((127 - step) << 23), down = std::bit_cast<float>((127 + step) << 23);
  return std::copysign(round_half_even(x * up) * down, x);
}

inline Rounded round_floating_lane(float w, const TileGrid& g, std::int64_t r) {
  float x = w / g.scale[r];
  x = x < g.low[r] ? g.low[r] : x;
  x = x > g.high[r] ? g.high[r] : x;
  x = round_floating(x, g.mantissa, g.least_exponent);
  return {x, g.scale[r] * x};
}

std::array<float, 256> decode_all(GridType type) {
  std::array<float, 256> values{};
  for (int byte = 0; byte < 256; ++byte)
    values[static_cast<size_t>(byte)] =
        type == GridType::fp8_e4m3
            ? static_cast<float>(c10::Float8_e4m3fn(static_cast<std::uint8_t>(byte), c10::Float8_e4m3fn::from_bits()))
            : static_cast<float>(c10::Float8_e5m2(static_cast<std::uint8_t>(byte), c10::Float8_e5m2::from_bits()));
  return values;
}

}  // namespace

MIQ_VECTORISED void add_rounding_errors(const float* tile, std::int64_t columns, const TileGrid& g, float norm, float* errors) {
  if (g.mantissa > 0) {
    for (std::int64_t c = 0; c < columns; ++c) {
      const float* const w = tile + c * kLanes;
      for (std::int64_t r = 0; r < kLanes; ++r) errors[r] += power(round_floating_lane(w[r], g, r).value - w[r], norm);
    }
    return;
  }
  for (std::int64_t c = 0; c < columns; ++c) {
    const float* const w = tile + c * kLanes;
    for (std::int64_t r = 0; r < kLanes; ++r) errors[r] += power(round_lane(w[r], g, r).value - w[r], norm);
  }
}

MIQ_VECTORISED void quantize_column(const float* weights, const TileGrid& grid, float* codes, float* values) {
  if (grid.mantissa > 0) {
    for (std::int64_t r = 0; r < kLanes; ++r) {
      const Rounded rounded = round_floating_lane(weights[r], grid, r);
      codes[r] = rounded.code;
      values[r] = rounded.value;
    }
    return;
  }
  for (std::int64_t r = 0; r < kLanes; ++r) {
    const Rounded rounded = round_lane(weights[r], grid, r);
    codes[r] = rounded.code;
    values[r] = rounded.value;
  }
}

MIQ_VECTORISED void round_column(const float* weights, float diagonal, const TileGrid& grid, float* codes, float* errors,
                                 float* squares) {
  if (grid.mantissa > 0) {
    for (std::int64_t r = 0; r < kLanes; ++r) {
      const Rounded rounded = round_floating_lane(weights[r], grid, r);
      codes[r] = rounded.code;
      errors[r] = (weights[r] - rounded.value) / diagonal;
      squares[r] += errors[r] * errors[r];
    }
    return;
  }
  for (std::int64_t r = 0; r < kLanes; ++r) {
    const Rounded rounded = round_lane(weights[r], grid, r);
    codes[r] = rounded.code;
    errors[r] = (weights[r] - rounded.value) / diagonal;
    squares[r] += errors[r] * errors[r];
  }
}

void load_tile_grid(const float* scales, const float* zeros, std::int64_t stride, std::int64_t rows, const Grid& grid, TileGrid& out) {
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    const std::int64_t row = std::min(lane, rows - 1);
    set_lane(out, lane, finish(scales[row * stride], zeros[row * stride], grid));
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

std::uint8_t code_byte(float code, const Grid& grid) {
  switch (grid.type) {
    case GridType::integer: return static_cast<std::uint8_t>(code);
    case GridType::fp8_e4m3: return c10::Float8_e4m3fn(code).x;
    case GridType::fp8_e5m2: return c10::Float8_e5m2(code).x;
  }
  return 0;
}

const float* fp8_values(GridType type) {
  static const std::array<float, 256> e4m3 = decode_all(GridType::fp8_e4m3), e5m2 = decode_all(GridType::fp8_e5m2);
  return type == GridType::fp8_e4m3 ? e4m3.data() : e5m2.data();
}

}  // namespace miq::quantizer
