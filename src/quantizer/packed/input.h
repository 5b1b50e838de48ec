// Rows of x as the kernels read them.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "layout.h"

namespace miq::quantizer::packed {

class PreparedInput {
 public:
  /// x [rows, I] contiguous, of a floating type. Integer codes: as whole numbers, a scale for `block` columns;
  /// fp8: as float32. `order`: the column at each position, or undefined.
  PreparedInput(const at::Tensor& x, CodeType type, std::int64_t chunks, std::int64_t chunks_per_block, const at::Tensor& order);
  const Input& view() const { return input_; }
  /// x in float32 and the order of the codes, [rows][chunks * 32].
  const float* values() const { return floats_.data(); }

 private:
  Input input_;
  std::vector<float> floats_;  // values, scales, sums
  std::vector<std::int8_t> bytes_;
};

}  // namespace miq::quantizer::packed
