// What the encoders of K-quants share. A tile is 16 sub-blocks, one for each lane of a vector: no sum runs across lanes, and
// every lane makes its own choices by masks.
#pragma once

#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>

#include "miq/core/vectorised.h"

#define MIQ_INLINE __attribute__((always_inline)) inline

namespace miq::k_quants {

constexpr int kLanes = 16, kSuperBlock = 256;
using Lanes = float __attribute__((vector_size(4 * kLanes)));
using Masks = std::int32_t __attribute__((vector_size(4 * kLanes)));

/// Values and their weights: entry [l] holds value l of each sub-block.
template <int kLength>
struct Tile {
  Lanes x[kLength], w[kLength];
  Lanes sum_w, sum_wx, sum_wxx;
  static constexpr int kSupers = kLanes * kLength / kSuperBlock;  ///< super-blocks in a tile
  static constexpr int kSubBlocks = kLanes / kSupers;             ///< of a super-block
};

// Vectors go by reference: by value, a function's ABI would depend on the instruction set.
MIQ_INLINE void fill(Lanes& out, float value) {
  for (int lane = 0; lane < kLanes; ++lane) out[lane] = value;
}
MIQ_INLINE void round_between(Lanes& x, float low, float high) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, up to 2^22
  x = x > low ? x : Lanes{} + low;
  x = x < high ? x : Lanes{} + high;
  x = (x + kRound) - kRound;
}
/// 1 / x, or 0 where x is 0.
MIQ_INLINE void inverse_of(const Lanes& x, Lanes& out) { out = x != 0.0f ? 1.0f / x : Lanes{}; }
/// As it is stored.
MIQ_INLINE float stored_half(float x) { return c10::detail::fp16_ieee_to_fp32_value(c10::detail::fp16_ieee_from_fp32_value(x)); }
MIQ_INLINE void store_half(float x, std::uint8_t* at) {
  const std::uint16_t bits = c10::detail::fp16_ieee_from_fp32_value(x);
  std::memcpy(at, &bits, sizeof bits);
}

/// `importance`: of the first super-block's columns, or nullptr. With one super-block for two, it stands twice.
template <int kLength>
MIQ_INLINE void load_tile(Tile<kLength>& tile, const float* const* values, const float* const* importance) {
  constexpr int kSubBlocks = Tile<kLength>::kSubBlocks;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int offset = lane % kSubBlocks * kLength;
    const float* const x = values[lane / kSubBlocks] + offset;
    for (int l = 0; l < kLength; ++l) tile.x[l][lane] = x[l];
    if (importance == nullptr) continue;
    const float* const w = importance[lane / kSubBlocks] + offset;
    for (int l = 0; l < kLength; ++l) tile.w[l][lane] = w[l];
  }
  if (importance == nullptr)
    for (int l = 0; l < kLength; ++l) tile.w[l] = Lanes{} + 1.0f;
  tile.sum_w = tile.sum_wx = tile.sum_wxx = Lanes{};
  for (int l = 0; l < kLength; ++l) {
    const Lanes wx = tile.w[l] * tile.x[l];
    tile.sum_w += tile.w[l];
    tile.sum_wx += wx;
    tile.sum_wxx += wx * tile.x[l];
  }
}

}  // namespace miq::k_quants
