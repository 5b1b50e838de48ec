// Rotary position embedding, half-split. Source: arXiv 2104.09864; llama3 scaling as in Llama 3.1.
#pragma once

#include <ATen/core/Tensor.h>

#include "miq/model/architecture.h"

namespace miq::model {

/// cos and sin of position * frequency, float32 [P, head_dim / 2], grown on demand.
class RopeTable {
 public:
  RopeTable(const Architecture& architecture, std::int64_t positions, const at::Device& device);
  /// Rotates x [B, heads, T, D] whose first token stands at `first_position`. Result in x's type.
  at::Tensor rotate(const at::Tensor& x_BNTD, std::int64_t first_position) const;
  std::int64_t positions() const { return cos_PD_.size(0); }
  const at::Tensor& cos_PD() const { return cos_PD_; }
  const at::Tensor& sin_PD() const { return sin_PD_; }

 private:
  at::Tensor cos_PD_, sin_PD_;
};

/// Inverse frequencies with the scaling applied, float64 [head_dim / 2].
at::Tensor inverse_frequencies(const Rope& rope, std::int64_t head_dim);

}  // namespace miq::model
