// Scale and zero of one group of weights, fitted by the 32 lanes of a group of threads.
#pragma once

#include "portable.h"

namespace miq::gpu {
inline namespace MIQ_GPU_SPACE {

/// Fits `grid` to `count` weights of one row, as fit_tile (quantizer/row_tile.h) does to each row of a tile; the same result in all lanes. `limit`: |w| is
/// clipped there before the interval is taken, or null. A lane tries a candidate of the search for itself: each of their errors is then a sum
/// in the order of the columns, as on the CPU, and the first of the least is the same.
__device__ inline Fitted fit_weights(const float* weights, int64_t count, const float* limit, const miq_grid& grid, const miq_range& range) {
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  float low = weights[0], high = weights[0];
  for (int64_t c = lane; c < count; c += kGroup) {
    low = lesser(low, weights[c]);
    high = greater(high, weights[c]);
  }
  low = group_min(low);
  high = group_max(high);
  if (limit != nullptr) {
    low = greater(low, -*limit);
    high = lesser(high, *limit);
  }
  Fitted mine = fit_interval(low, high, grid);
  if (range.kind == 0) return mine;

  const bool both_zeros = tries_other_zero(range, grid);
  const int candidates = both_zeros ? 2 * range.steps : range.steps;
  float least = INFINITY;
  int chosen = candidates;
  for (int tried = lane; tried < candidates; tried += kGroup) {
    const Candidate candidate = shrunk_fit(low, high, both_zeros ? tried / 2 : tried, range, grid);
    Fitted fitted = candidate.fitted;
    if (both_zeros && tried % 2 == 1 && !other_zero(candidate, grid, fitted)) continue;
    float error = 0;
    for (int64_t c = 0; c < count; ++c) error += power(value_minus_weight(weights[c], fitted.scale, round_weight(weights[c], fitted, grid).steps), range.norm);
    if (!(error < least)) continue;
    least = error;
    chosen = tried;
    mine = fitted;
  }
  float best = least;
  int first = chosen;
  for (int mask = kGroup / 2; mask > 0; mask /= 2) {
    const float other = shuffle_xor(best, mask);
    const int other_first = shuffle_xor(first, mask);
    if (other < best || (other == best && other_first < first)) best = other, first = other_first;
  }
  // With no candidate at all every lane holds the interval's own fit.
  return finish(shuffle(mine.scale, first % kGroup), shuffle(mine.zero, first % kGroup), grid);
}

}  // namespace MIQ_GPU_SPACE
}  // namespace miq::gpu
