// What methods see of the calibration data: one accumulator per stage (linears with one input).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace miq::quantizer {

/// Which statistics to keep; a method that needs none sees no data.
struct StatisticsNeeds {
  bool hessian = false;
  bool mean_abs = false;  ///< AWQ
  bool extremes = false;  ///< SmoothQuant, static activations
  bool any() const { return hessian || mean_abs || extremes; }
  StatisticsNeeds operator|(const StatisticsNeeds& o) const {
    return {hessian || o.hessian, mean_abs || o.mean_abs, extremes || o.extremes};
  }
};

/// Accumulates H = 2/n sum x x^T over tokens, in float32 (n = sequences, as GPTQ counts), and the
/// channels' mean |x| and extremes.
class InputStatistics {
 public:
  InputStatistics(std::int64_t in_features, const at::Device& device, const StatisticsNeeds& needs);

  /// Adds x: [..., I] of `sequences` sequences, float32/bfloat16/float16. bfloat16 inputs are
  /// multiplied in bfloat16 with float32 sums where the machine does that fast.
  void add(const at::Tensor& x, std::int64_t sequences);

  /// Adds all that `other` has seen: of experts, whose inputs are parts of one.
  void merge(const InputStatistics& other);

  /// Adds what the other ranks have seen, of other sequences: afterwards all have the statistics of all. A collective of the process group
  /// (core/process_group.h). @throws Error as collectives do.
  void all_reduce();

  /// [I, I] float32, symmetric. @throws Error{numeric} when an input was not finite.
  at::Tensor hessian() const;
  /// That, made of the sums themselves without a copy: hessian() and add() are over then.
  at::Tensor take_hessian();
  at::Tensor mean_abs() const;  ///< [I] float32, mean over tokens of |x|
  at::Tensor max_abs() const;   ///< [I] float32
  at::Tensor lowest() const;    ///< [I] float32, the least x
  at::Tensor highest() const;   ///< [I] float32
  std::int64_t num_tokens() const { return num_tokens_; }

 private:
  void add_channels(const at::Tensor& rows_TI);
  StatisticsNeeds needs_;
  at::Tensor sum_II_, abs_sum_I_, low_I_, high_I_;
  std::int64_t num_tokens_ = 0, num_sequences_ = 0;
};

}  // namespace miq::quantizer
