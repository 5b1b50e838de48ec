// The decoder's products and elementwise parts: on a CPU each elementwise part is one pass over its
// rows (row-parallel, vectorised by the compiler), elsewhere LibTorch ops. Arithmetic in float32,
// results rounded once.
#pragma once

#include <ATen/core/Tensor.h>

namespace miq::model::kernels {

/// x [..., I] W^T [O, I] + b [O] (or undefined), all of one type. float32 on a CPU goes through oneDNN
/// where LibTorch would take a BLAS (2.3 times slower on AMD); a few rows of x stream the weight once.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight_OI, const at::Tensor& bias_O);

/// linear() without bias by a weight that oneDNN reordered for it (reordered_weights.cpp), where this LibTorch has that.
bool has_reordered_linear();
at::Tensor reordered_linear(const at::Tensor& x, const at::Tensor& reordered);

/// x W^T of a few rows of x, of any floating types, summed in float32: the weight is widened as it is read.
at::Tensor matvec(const at::Tensor& x, const at::Tensor& weight_OI, at::ScalarType dtype);
/// Whether x is few rows and all is on a CPU.
bool has_matvec(const at::Tensor& x, const at::Tensor& weight_OI);

/// weight (float32) * x / sqrt(mean(x^2) + eps) over the last dimension; x of any floating type. The
/// normalised x is rounded to `dtype` before the product with the weight, as the references do.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType dtype);

/// silu(gate) * up, in their type.
at::Tensor silu_mul(const at::Tensor& gate, const at::Tensor& up);

/// hidden (float32, contiguous) += x (any floating type), in place.
void add_to(at::Tensor& hidden, const at::Tensor& x);

/// Rotary positions: the first d dimensions of x [B, N, T, D] (unit stride in D) are rotated in pairs
/// (k, k + d/2), or (2k, 2k + 1) where `interleaved`; the others are copied. cos and sin [T, d/2]
/// float32 -> contiguous [B, N, T, D] in x's type.
at::Tensor rotate_pairs(const at::Tensor& x_BNTD, const at::Tensor& cos_TD, const at::Tensor& sin_TD, bool interleaved);

}  // namespace miq::model::kernels
