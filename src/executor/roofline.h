// What this machine could do at best, measured for a moment.
#pragma once

#include <ATen/core/Tensor.h>

namespace miq::executor {

/// Operations a second of a square product in this type.
double matrix_rate(at::ScalarType dtype, const at::Device& device);

/// Bytes a second that all threads together read from memory: a buffer larger than the caches, the best of several passes.
double read_bandwidth(const at::Device& device);

}  // namespace miq::executor
