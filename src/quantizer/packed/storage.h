// Memory for packed weights.
#pragma once

#include <ATen/core/Tensor.h>

namespace miq::quantizer::packed {

/// A zeroed tensor on the CPU, 64-byte aligned, on huge pages where the kernel gives them: decoding reads every page
/// once for each token, and looking up small ones took a fifth of its time. Tensors share a stretch of
/// memory, which lives as long as any of them.
at::Tensor allocate(at::IntArrayRef sizes, at::ScalarType dtype);
/// The same values there.
at::Tensor keep(const at::Tensor& values);

}  // namespace miq::quantizer::packed
