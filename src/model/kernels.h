// The decoder's elementwise parts, each one pass over its rows on a CPU (row-parallel, vectorised by
// the compiler), LibTorch ops elsewhere. Arithmetic in float32, results cast once.
#pragma once

#include <ATen/core/Tensor.h>

namespace miq::model::kernels {

/// weight * x / sqrt(mean(x^2) + eps) over the last dimension; x of any floating type. The
/// normalised x is rounded to `dtype` before the product with the weight, as the references do.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType dtype);

/// silu(gate) * up, in their type.
at::Tensor silu_mul(const at::Tensor& gate, const at::Tensor& up);

/// hidden (float32) += x (any floating type), in place.
void add_to(at::Tensor& hidden, const at::Tensor& x);

/// Rotary positions on a CPU: x [B, N, T, D] with unit stride in D, cos and sin [T, D/2] float32 ->
/// contiguous [B, N, T, D] in x's type.
at::Tensor rotate_half(const at::Tensor& x_BNTD, const at::Tensor& cos_TD, const at::Tensor& sin_TD);

}  // namespace miq::model::kernels
