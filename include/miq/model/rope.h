// Positions: rotary embedding (arXiv 2104.09864; llama3 scaling as in Llama 3.1), or ALiBi's slopes
// (arXiv 2108.12409) for families that have no rotation.
#pragma once

#include <ATen/core/Tensor.h>

#include "miq/model/architecture.h"

namespace miq::model {

/// What attention needs to know of positions: cos and sin of position * frequency, float32 [P, dim / 2];
/// for ALiBi they are undefined, and the slopes of the heads are there.
class RopeTable {
 public:
  RopeTable(const Architecture& architecture, std::int64_t positions, const at::Device& device);
  /// Rotates x [B, heads, T, D] whose first token stands at `first_position`. Result in x's type; x itself
  /// without rotation.
  at::Tensor rotate(const at::Tensor& x_BNTD, std::int64_t first_position) const;
  /// The same with a position for each token, int64 [T].
  at::Tensor rotate_at(const at::Tensor& x_BNTD, const at::Tensor& positions_T) const;
  std::int64_t positions() const { return positions_; }
  const at::Tensor& cos_PD() const { return cos_PD_; }
  const at::Tensor& sin_PD() const { return sin_PD_; }
  bool interleaved() const { return interleaved_; }
  const at::Tensor& alibi_slopes_N() const { return alibi_slopes_N_; }  ///< float32 [heads], or undefined

 private:
  std::int64_t positions_;
  bool interleaved_;
  at::Tensor cos_PD_, sin_PD_, alibi_slopes_N_;
};

/// Inverse frequencies of `dim` rotated dimensions with the scaling applied, float64 [dim / 2].
at::Tensor inverse_frequencies(const Rope& rope, std::int64_t dim);

/// ALiBi's slope of each head, float32 [heads]; between powers of two every other slope of the next one.
at::Tensor alibi_slopes(std::int64_t heads);

}  // namespace miq::model
