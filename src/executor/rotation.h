// Rotation of the residual stream (QuaRot, arXiv 2404.00456; fake_quant/rotation_utils.py): hidden' =
// hidden Q. Norm weights go into the linears behind them, so that the norm commutes with Q; readers
// become W diag(norm) Q, writers Q^T W; v and o also turn each head (SpinQuant's R2, offline). Online,
// as QuaRot: o and down meet a Hadamard product at run time.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "miq/model/language_model.h"
#include "miq/quantizer/transform.h"

namespace miq::executor {

class Rotation {
 public:
  /// @throws Error{unsupported} where there is no Hadamard matrix of a size that needs one, and for families
  /// whose norms stand between the writers and the residual.
  Rotation(const model::Architecture& architecture, const quantizer::Transform& transform);
  /// With a given Q^T, that hidden rows go through.
  Rotation(const model::Architecture& architecture, std::shared_ptr<const quantizer::Orthogonal> residual, bool online);

  /// Embedding, final norm and head; a tied head becomes one of its own.
  void rotate_ends(model::LanguageModel& model) const;
  /// All weights, biases, norms and the router of the block, in float32; returns the weights by name.
  std::map<std::string, at::Tensor> rotate_block(model::Block& block) const;
  /// The product that stays at run time before a stage of so many inputs (null: none).
  std::shared_ptr<const quantizer::Orthogonal> online_input(std::int64_t stage, std::int64_t in_features) const;

 private:
  at::Tensor turn_heads(const at::Tensor& rows) const;  ///< [..., heads * head_dim], each head
  const model::Architecture& a_;
  at::Tensor turn_rows(const at::Tensor& rows, std::int64_t first, std::int64_t count) const;  ///< of v's heads
  std::shared_ptr<const quantizer::Orthogonal> residual_, head_, across_heads_;
  std::map<std::int64_t, std::shared_ptr<const quantizer::Orthogonal>> down_;  ///< by in_features
};

}  // namespace miq::executor
