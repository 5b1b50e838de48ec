// One decoder block, run whole or stage by stage. Shapes: B batch, T tokens, H hidden_size.
#pragma once

#include <memory>
#include <vector>

#include "miq/model/architecture.h"
#include "miq/model/kv_cache.h"
#include "miq/model/linear.h"
#include "miq/model/rope.h"

namespace miq::model {

/// What travels through a block for one microbatch.
struct BlockState {
  at::Tensor hidden_BTH;  ///< the residual stream, always float32
  at::Tensor x;           ///< the current stage's input in the compute type, [B, T, in_features]
};

class Block {
 public:
  Block(std::shared_ptr<const Architecture> architecture, std::int64_t layer);

  std::int64_t layer() const { return layer_; }
  std::int64_t num_stages() const { return static_cast<std::int64_t>(stages_.size()); }
  /// The linears of stage `stage`, which all read BlockState::x of that stage.
  std::vector<Linear*> stage(std::int64_t stage);
  std::vector<Linear*> linears();  ///< of all stages, in order

  /// Sets state.x to the input of `stage`: the norm of the residual for the first stage of attention
  /// and MLP; the others find it there already, left by end_stage of the stage before.
  void begin_stage(std::int64_t stage, BlockState& state, at::ScalarType compute_dtype) const;
  /// Runs the linears of `stage` on state.x and what follows them up to the next stage's input
  /// (attention, activation) or the residual sum. Positions start at 0 unless `cache` holds more.
  void end_stage(std::int64_t stage, BlockState& state, const RopeTable& rope, KvCache* cache = nullptr) const;

  /// All stages: hidden [B, T, H] float32 -> the same shape.
  at::Tensor forward(const at::Tensor& hidden_BTH, at::ScalarType compute_dtype, const RopeTable& rope,
                     KvCache* cache = nullptr) const;

  Linear q, k, v, o, gate, up, down;
  at::Tensor input_norm_H, post_attention_norm_H, q_norm_D, k_norm_D;  ///< undefined where absent

 private:
  at::Tensor attend(const BlockState& state, const RopeTable& rope, KvCache* cache) const;
  std::shared_ptr<const Architecture> architecture_;
  std::int64_t layer_;
  std::vector<std::vector<Linear Block::*>> stages_;
};

}  // namespace miq::model
