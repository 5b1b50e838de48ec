// What methods see of the calibration data: one accumulator per stage (linears with one input).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace miq::quantizer {

/// Accumulates H = 2/n sum x x^T over tokens, in float32. n = sequences, as GPTQ counts.
class InputStatistics {
 public:
  explicit InputStatistics(std::int64_t in_features, const at::Device& device);

  /// Adds x: [..., I] of `sequences` sequences, float32/bfloat16/float16. bfloat16 inputs are
  /// multiplied in bfloat16 with float32 sums where the machine does that fast.
  void add(const at::Tensor& x, std::int64_t sequences);

  /// [I, I] float32, symmetric. @throws Error{numeric} when an input was not finite.
  at::Tensor hessian() const;
  std::int64_t num_tokens() const { return num_tokens_; }

 private:
  at::Tensor sum_II_;
  std::int64_t num_tokens_ = 0, num_sequences_ = 0;
};

}  // namespace miq::quantizer
