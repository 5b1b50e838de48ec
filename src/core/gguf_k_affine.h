// Q2_K, Q4_K, Q5_K: x = d * s * q - dmin * m. Every sub-block's line is fitted first, then the whole numbers s and m, their
// scales d and dmin, and the codes take turns.
#pragma once

#include "gguf_k_tile.h"

namespace miq::k_quants {

/// The choice for a tile; scales and mins are whole numbers.
template <int kLength>
struct AffineChoice {
  Lanes scales, mins;
  float d[Tile<kLength>::kSupers], dmin[Tile<kLength>::kSupers];  ///< numbers of float16
};

struct AffineSums {
  Lanes q, qq, xq;  ///< weighted sums over a sub-block
};

/// The line s q + m, m <= 0, that fits best to these codes, and its squared error.
template <int kLength>
MIQ_INLINE void fit_line(const Tile<kLength>& tile, const AffineSums& sums, Lanes& s, Lanes& m, Lanes& error) {
  Lanes determinant, inverse;
  determinant = tile.sum_w * sums.qq - sums.q * sums.q;
  determinant = determinant > 1e-6f * tile.sum_w * sums.qq ? determinant : Lanes{};
  inverse_of(determinant, inverse);
  s = (tile.sum_w * sums.xq - tile.sum_wx * sums.q) * inverse;
  m = (sums.qq * tile.sum_wx - sums.q * sums.xq) * inverse;
  const Masks through_zero = (m > 0.0f) | (determinant == 0.0f);
  inverse_of(sums.qq, inverse);
  s = through_zero ? sums.xq * inverse : s;
  m = through_zero ? Lanes{} : m;
  error = tile.sum_wxx - s * sums.xq - m * tile.sum_wx;
}

/// Codes of x on the line s q + m, summed up.
template <int kLength>
MIQ_INLINE void sum_codes(const Tile<kLength>& tile, const Lanes& inverse, const Lanes& m, float levels, AffineSums& sums) {
  sums.q = sums.qq = sums.xq = Lanes{};
  for (int l = 0; l < kLength; ++l) {
    Lanes q = (tile.x[l] - m) * inverse;
    round_between(q, 0, levels);
    const Lanes wq = tile.w[l] * q;
    sums.q += wq;
    sums.qq += wq * q;
    sums.xq += wq * tile.x[l];
  }
}

/// Each sub-block's best line with real s and m.
template <int kLength>
MIQ_INLINE void fit_lines(const Tile<kLength>& tile, float levels, int candidates, Lanes& best_s, Lanes& best_m) {
  Lanes low = Lanes{}, high = tile.x[0], best_error, s, m, error, inverse;
  for (int l = 0; l < kLength; ++l) {
    low = tile.x[l] < low ? tile.x[l] : low;
    high = tile.x[l] > high ? tile.x[l] : high;
  }
  inverse_of(tile.sum_w, inverse);  // to begin with: all codes 0, on the mean
  best_s = Lanes{};
  best_m = tile.sum_wx < 0.0f ? tile.sum_wx * inverse : Lanes{};
  best_error = tile.sum_wxx - best_m * tile.sum_wx;
  AffineSums sums;
  const auto consider = [&]() __attribute__((always_inline)) {
    fit_line(tile, sums, s, m, error);
    const Masks better = (error < best_error) & (s > 0.0f);
    best_s = better ? s : best_s;
    best_m = better ? m : best_m;
    best_error = better ? error : best_error;
  };
  Lanes range = high - low;
  inverse_of(range, inverse);
  for (int shift = 0; shift < 3; ++shift) {  // the first code at the lowest value, or a little above it
    const Lanes start = low + range * (0.35f * static_cast<float>(shift) / levels);
    for (int c = 0; c < candidates; ++c) {  // intervals from a little wider than [low, high] to narrower
      const Lanes steps = inverse * (levels - 0.5f + 0.2f * static_cast<float>(c) * (levels > 4 ? 1.0f : 0.5f));
      sum_codes(tile, steps, start, levels, sums);
      consider();
    }
  }
  for (int turn = 0; turn < 2; ++turn) {
    inverse_of(best_s, inverse);
    sum_codes(tile, inverse, best_m, levels, sums);
    consider();
  }
}

/// The best s and m of `neighbours` places around `choice`'s for its d and dmin; `sums` are of the codes then.
template <int kLength>
MIQ_INLINE void choose_scales(const Tile<kLength>& tile, float levels, float max_scale, int neighbours, AffineChoice<kLength>& choice,
                              AffineSums& sums, Lanes& best_error) {
  constexpr int kSubBlocks = Tile<kLength>::kSubBlocks;
  Lanes d, dmin;
  for (int lane = 0; lane < kLanes; ++lane) {
    d[lane] = choice.d[lane / kSubBlocks];
    dmin[lane] = choice.dmin[lane / kSubBlocks];
  }
  const Lanes scales = choice.scales, mins = choice.mins;
  constexpr float kAround[9][2] = {{0, 0}, {1, 0}, {-1, 0}, {0, 1}, {0, -1}, {1, 1}, {-1, -1}, {1, -1}, {-1, 1}};
  for (int i = 0; i < neighbours; ++i) {
    Lanes s = scales + kAround[i][0], m = mins + kAround[i][1], inverse;
    round_between(s, 0, max_scale);
    round_between(m, 0, max_scale);
    const Lanes step = d * s, offset = -(dmin * m);
    inverse_of(step, inverse);
    AffineSums now;
    now.q = now.qq = now.xq = Lanes{};
    Lanes error = Lanes{};
    for (int l = 0; l < kLength; ++l) {
      Lanes q = (tile.x[l] - offset) * inverse;
      round_between(q, 0, levels);
      const Lanes wq = tile.w[l] * q, difference = tile.x[l] - (step * q + offset);
      now.q += wq;
      now.qq += wq * q;
      now.xq += wq * tile.x[l];
      error += tile.w[l] * difference * difference;
    }
    const Masks better = i == 0 ? error == error : error < best_error;
    choice.scales = better ? s : choice.scales;
    choice.mins = better ? m : choice.mins;
    best_error = better ? error : best_error;
    sums.q = better ? now.q : sums.q;
    sums.qq = better ? now.qq : sums.qq;
    sums.xq = better ? now.xq : sums.xq;
  }
}

/// d and dmin that fit best to the codes and whole numbers.
template <int kLength>
MIQ_INLINE void refit(const Tile<kLength>& tile, const AffineSums& sums, AffineChoice<kLength>& choice) {
  constexpr int kSubBlocks = Tile<kLength>::kSubBlocks;
  const Lanes ss = choice.scales * choice.scales * sums.qq, sm = choice.scales * choice.mins * sums.q, mm = choice.mins * choice.mins * tile.sum_w,
              xs = choice.scales * sums.xq, xm = choice.mins * tile.sum_wx;
  for (int super = 0; super < Tile<kLength>::kSupers; ++super) {
    double a = 0, b = 0, c = 0, p = 0, q = 0;
    for (int lane = super * kSubBlocks; lane < (super + 1) * kSubBlocks; ++lane) {
      a += ss[lane], b += sm[lane], c += mm[lane], p += xs[lane], q += xm[lane];
    }
    const double determinant = a * c - b * b;  // x ~ d (s q) - dmin m
    double d = a > 0 ? p / a : 0, dmin = 0;
    if (determinant > 1e-9 * a * c) {
      d = (p * c - q * b) / determinant;
      dmin = (p * b - q * a) / determinant;
    }
    if (!(d > 0) || dmin < 0) continue;
    choice.d[super] = stored_half(static_cast<float>(d));
    choice.dmin[super] = stored_half(static_cast<float>(dmin));
  }
}

template <int kLength>
MIQ_INLINE void choose_affine(const Tile<kLength>& tile, float levels, float max_scale, AffineChoice<kLength>& best) {
  constexpr int kSubBlocks = Tile<kLength>::kSubBlocks, kTurns = 4;
  Lanes s, m;
  fit_lines(tile, levels, 10, s, m);
  AffineChoice<kLength> choice;
  for (int super = 0; super < Tile<kLength>::kSupers; ++super) {
    float largest_s = 0, largest_m = 0;
    for (int lane = super * kSubBlocks; lane < (super + 1) * kSubBlocks; ++lane) {
      largest_s = s[lane] > largest_s ? s[lane] : largest_s;
      largest_m = -m[lane] > largest_m ? -m[lane] : largest_m;
    }
    const float d = choice.d[super] = stored_half(largest_s / max_scale), dmin = choice.dmin[super] = stored_half(largest_m / max_scale);
    for (int lane = super * kSubBlocks; lane < (super + 1) * kSubBlocks; ++lane) {
      choice.scales[lane] = d > 0 ? s[lane] / d : 0;
      choice.mins[lane] = dmin > 0 ? -m[lane] / dmin : 0;
    }
  }
  round_between(choice.scales, 0, max_scale);
  round_between(choice.mins, 0, max_scale);
  float least[Tile<kLength>::kSupers];
  for (int turn = 0; turn < kTurns; ++turn) {
    AffineSums sums;
    Lanes errors;
    choose_scales(tile, levels, max_scale, turn < 2 ? 9 : 5, choice, sums, errors);
    for (int super = 0; super < Tile<kLength>::kSupers; ++super) {
      float error = 0;
      for (int lane = super * kSubBlocks; lane < (super + 1) * kSubBlocks; ++lane) error += errors[lane];
      if (turn > 0 && !(error < least[super])) continue;
      least[super] = error;
      best.d[super] = choice.d[super];
      best.dmin[super] = choice.dmin[super];
      for (int lane = super * kSubBlocks; lane < (super + 1) * kSubBlocks; ++lane) {
        best.scales[lane] = choice.scales[lane];
        best.mins[lane] = choice.mins[lane];
      }
    }
    if (turn + 1 < kTurns) refit(tile, sums, choice);
  }
}

/// Codes of the tile in the order of its values, and the whole numbers, for every super-block.
template <int kLength>
MIQ_INLINE void write_codes(const Tile<kLength>& tile, float levels, const AffineChoice<kLength>& choice, std::uint8_t (*codes)[kSuperBlock],
                            std::uint8_t (*scales)[16], std::uint8_t (*mins)[16]) {
  constexpr int kSubBlocks = Tile<kLength>::kSubBlocks;
  Lanes step, offset, inverse;
  for (int lane = 0; lane < kLanes; ++lane) {
    step[lane] = choice.d[lane / kSubBlocks] * choice.scales[lane];
    offset[lane] = -(choice.dmin[lane / kSubBlocks] * choice.mins[lane]);
    scales[lane / kSubBlocks][lane % kSubBlocks] = static_cast<std::uint8_t>(choice.scales[lane]);
    mins[lane / kSubBlocks][lane % kSubBlocks] = static_cast<std::uint8_t>(choice.mins[lane]);
  }
  inverse_of(step, inverse);
  for (int l = 0; l < kLength; ++l) {
    Lanes q = (tile.x[l] - offset) * inverse;
    round_between(q, 0, levels);
    for (int lane = 0; lane < kLanes; ++lane)
      codes[lane / kSubBlocks][lane % kSubBlocks * kLength + l] = static_cast<std::uint8_t>(q[lane]);
  }
}

}  // namespace miq::k_quants
