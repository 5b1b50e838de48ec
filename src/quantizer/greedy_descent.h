// QuIP's greedy passes: coordinate descent on tr((W - Q) H (W - Q)^T) over the codes.
#pragma once

#include "miq/quantizer/linear_problem.h"

namespace miq::quantizer {

/// Runs `passes` passes over the columns in the factor's order: each code becomes the one nearest to
/// q_j - (E H_j) / H_jj, E = Q - W; stops when nothing changes. `linear`: its params and codes, which
/// are where it starts unless from_weights, and where the result goes. reference_clamping: codes are
/// clamped only after each pass. Source: QuIP vector_balance.py (greedy passes of round_ldl, round_allbal).
void descend(QuantizedLinear& linear, const at::Tensor& weight_OI, bool from_weights, StageHessian& hessian,
             const HessianFactor& factor, int passes, bool reference_clamping);

/// Weights beyond the ends of their grid, on these ends: QuIP's way. Natural groups.
at::Tensor clamp_to_grid(const at::Tensor& weight_OI, const Grid& grid, const GridParams& params);

}  // namespace miq::quantizer
