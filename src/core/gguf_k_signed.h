// Q3_K, Q6_K: x = d * s * q with whole s and q of either sign. Every sub-block's scale is fitted first, then the whole numbers
// s, their scale d, and the codes take turns.
#pragma once

#include "gguf_k_tile.h"

namespace miq::k_quants {

/// Sub-blocks of 16: a tile is one super-block.
using SignedTile = Tile<16>;
struct SignedChoice {
  Lanes scales;  ///< whole numbers
  float d;       ///< a number of float16
};

MIQ_INLINE void sum_signed(const SignedTile& tile, const Lanes& inverse, float half, Lanes& qq, Lanes& xq) {
  qq = xq = Lanes{};
  for (int l = 0; l < 16; ++l) {
    Lanes q = tile.x[l] * inverse;
    round_between(q, -half, half - 1);
    const Lanes wq = tile.w[l] * q;
    qq += wq * q;
    xq += wq * tile.x[l];
  }
}

/// Each sub-block's best scale, real and of either sign.
MIQ_INLINE void fit_scales(const SignedTile& tile, float half, int candidates, Lanes& best) {
  Lanes extreme = Lanes{}, size = Lanes{}, best_gain = Lanes{}, qq, xq, inverse, unit;
  for (int l = 0; l < 16; ++l) {
    const Lanes magnitude = tile.x[l] < 0.0f ? -tile.x[l] : tile.x[l];
    extreme = magnitude > size ? tile.x[l] : extreme;
    size = magnitude > size ? magnitude : size;
  }
  inverse_of(extreme, unit);
  best = Lanes{};
  const auto consider = [&](const Lanes& steps) __attribute__((always_inline)) {
    sum_signed(tile, steps, half, qq, xq);
    inverse_of(qq, inverse);
    const Lanes scale = xq * inverse, gain = scale * xq;  // how much the error falls from sum w x^2
    const Masks better = gain > best_gain;
    best = better ? scale : best;
    best_gain = better ? gain : best_gain;
  };
  for (int c = 0; c < candidates; ++c) {  // the largest value at the end of the longer side, or of the shorter one
    const float away = (half < 8 ? 0.1f : 0.15f) * static_cast<float>(c - candidates / 2);
    consider(unit * -(half + away));
    consider(unit * (half - 1 + away));
  }
  for (int turn = 0; turn < 2; ++turn) {
    Lanes steps;
    inverse_of(best, steps);
    consider(steps);
  }
}

/// The best whole scales next to `choice`'s for its d, the error, and the d that would fit best to the codes then.
MIQ_INLINE void choose_scales(const SignedTile& tile, float half, float scale_half, SignedChoice& choice, float& error, float& refitted) {
  const Lanes scales = choice.scales;
  Lanes best_error = Lanes{}, best_qq = Lanes{}, best_xq = Lanes{};
  for (int i = 0; i < 3; ++i) {
    Lanes s = scales + static_cast<float>(i == 2 ? -1 : i), inverse;
    round_between(s, -scale_half, scale_half - 1);
    const Lanes step = s * choice.d;
    inverse_of(step, inverse);
    Lanes now = Lanes{}, qq = Lanes{}, xq = Lanes{};
    for (int l = 0; l < 16; ++l) {
      Lanes q = tile.x[l] * inverse;
      round_between(q, -half, half - 1);
      const Lanes wq = tile.w[l] * q, difference = tile.x[l] - step * q;
      qq += wq * q;
      xq += wq * tile.x[l];
      now += tile.w[l] * difference * difference;
    }
    const Masks better = i == 0 ? now == now : now < best_error;
    choice.scales = better ? s : choice.scales;
    best_error = better ? now : best_error;
    best_qq = better ? qq : best_qq;
    best_xq = better ? xq : best_xq;
  }
  double a = 0, p = 0, sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    const double s = choice.scales[lane];
    a += s * s * best_qq[lane];
    p += s * best_xq[lane];
    sum += best_error[lane];
  }
  error = static_cast<float>(sum);
  refitted = stored_half(static_cast<float>(a > 0 ? p / a : 0));
}

MIQ_INLINE void choose_signed(const SignedTile& tile, float half, float scale_half, SignedChoice& best) {
  constexpr int kTurns = 4;
  Lanes scales;
  fit_scales(tile, half, 21, scales);
  float extreme = 0;
  for (int lane = 0; lane < kLanes; ++lane)
    if (std::abs(scales[lane]) > std::abs(extreme)) extreme = scales[lane];
  SignedChoice choice;
  choice.d = stored_half(-extreme / scale_half);
  for (int lane = 0; lane < kLanes; ++lane) choice.scales[lane] = choice.d != 0 ? scales[lane] / choice.d : 0;
  round_between(choice.scales, -scale_half, scale_half - 1);
  float least = 0;
  for (int turn = 0; turn < kTurns; ++turn) {
    float error, refitted;
    SignedChoice tried = choice;
    choose_scales(tile, half, scale_half, choice, error, refitted);
    tried.scales = choice.scales;
    if (turn == 0 || error < least) {
      best = tried;
      least = error;
    }
    if (refitted == 0) break;
    choice.d = refitted;
  }
}

/// Codes, shifted to be at least 0, in the order of the tile's values.
MIQ_INLINE void write_codes(const SignedTile& tile, float half, const SignedChoice& choice, std::uint8_t* codes) {
  const Lanes step = choice.scales * choice.d;
  Lanes inverse;
  inverse_of(step, inverse);
  for (int l = 0; l < 16; ++l) {
    Lanes q = tile.x[l] * inverse;
    round_between(q, -half, half - 1);
    for (int lane = 0; lane < kLanes; ++lane) codes[lane * 16 + l] = static_cast<std::uint8_t>(q[lane] + half);
  }
}

}  // namespace miq::k_quants
