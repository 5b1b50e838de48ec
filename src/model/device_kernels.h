// The decoder's elementwise parts and its attention of one token on a GPU, by the fused kernels: twins of kernels.h and attention.h.
#pragma once

#include "attention.h"

namespace miq::model::kernels {

/// Whether the fused kernels take `t`: a GPU's tensor of a floating type, in a build that has them.
bool has_device_kernels(const at::Tensor& t);

at::Tensor device_rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType dtype);
at::Tensor device_silu_mul(const at::Tensor& gate, const at::Tensor& up);
void device_add_to(at::Tensor& hidden, const at::Tensor& x);
at::Tensor device_rotate_pairs(const at::Tensor& x_BNTD, const at::Tensor& cos_TD, const at::Tensor& sin_TD, bool interleaved);

/// As decode_attention, the number of tokens held being read on the device: past [1] int64. cos_PD, sin_PD: the whole table, or undefined.
at::Tensor device_decode_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& cos_PD, const at::Tensor& sin_PD,
                                   bool interleaved, at::Tensor& keys, at::Tensor& values, const at::Tensor& past, const AttentionMask& mask);

}  // namespace miq::model::kernels
