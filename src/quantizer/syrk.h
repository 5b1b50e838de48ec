// The symmetric product behind every Hessian.
#pragma once

#include <ATen/core/Tensor.h>

namespace miq::quantizer {

/// Adds X^T X to the lower triangle (with the diagonal) of sum_II, float32 on a CPU; what stands above
/// is undefined. x_TI: contiguous, any floating type. bfloat16 inputs are multiplied as they are, with
/// float32 sums, on CPUs with AVX512_BF16; others go through float32 products.
void add_lower_syrk(const at::Tensor& x_TI, at::Tensor& sum_II);

}  // namespace miq::quantizer
