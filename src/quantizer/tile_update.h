// The matrix product of error feedback, on one row tile (row_tile.h).
#pragma once

#include <cstdint>

namespace miq::quantizer {

/// Columns of a packed panel of U.
constexpr std::int64_t kPanelColumns = 12;

/// tile[c][kLanes] -= sum_b errors[b][kLanes] * upper[b * stride + c], c < columns, b < depth. Every weight
/// receives its updates one by one in the order of b: however the columns are cut into blocks, the
/// result is the same to the last bit.
void subtract_products(float* tile, std::int64_t columns, const float* errors, std::int64_t depth, const float* upper,
                       std::int64_t stride);

/// Copies upper[b * stride + c], c < columns <= kPanelColumns, to panel[b][columns].
void pack_panel(const float* upper, std::int64_t stride, std::int64_t columns, std::int64_t depth, float* panel);

}  // namespace miq::quantizer
