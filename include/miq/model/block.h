// One decoder block, run whole or stage by stage. Shapes: B batch, T tokens, H hidden_size, E experts.
#pragma once

#include <memory>
#include <vector>

#include "miq/model/architecture.h"
#include "miq/model/kv_cache.h"
#include "miq/model/linear.h"
#include "miq/model/rope.h"
#include "miq/model/text_cache.h"

namespace miq::model {

/// The stages of a block, in order: the linears of a stage read what the stage before left.
enum Stage : std::int64_t { kQkv, kOut, kGateUp, kDown, kNumStages };

/// Whether the stage reads a norm (q,k,v; gate,up). Between it and the next lies what is not linear.
inline bool follows_norm(std::int64_t stage) { return stage == kQkv || stage == kGateUp; }

/// Which tokens of a microbatch each expert gets, and with which weight.
struct Routing {
  std::vector<at::Tensor> tokens;   ///< per expert int64 [n], rows of the flattened [B * T], ascending
  std::vector<at::Tensor> weights;  ///< per expert float32 [n]
};

/// Sends each row of x [N, H] to the best experts of the router: softmax over all experts in float32, the
/// best `per_token` of them, their weights normalised where the family says so.
/// Source: transformers modeling_mixtral, modeling_qwen3_moe.
Routing route(const at::Tensor& x_NH, const at::Tensor& router_EH, const Experts& experts);

/// What travels through a block for one microbatch.
struct BlockState {
  at::Tensor hidden_BTH;      ///< the residual stream, always float32
  /// Inputs of the current stage in the compute type, one for each of its groups: [B, T, in_features], or
  /// an expert's rows [n, in_features].
  std::vector<at::Tensor> x;
  Routing routing;            ///< of a mixture of experts, from kGateUp on
};

/// The MLP, or one expert. Fused: gate_up stands for gate and up.
struct Mlp {
  Linear gate, up, gate_up, down;
};

class Block {
 public:
  /// A block without weights: its linears have their names and shapes.
  Block(std::shared_ptr<const Architecture> architecture, std::int64_t layer);

  std::int64_t layer() const { return layer_; }
  std::int64_t num_stages() const { return kNumStages; }
  /// The linears of a stage by the input they read: one group, or one for each expert.
  std::vector<std::vector<Linear*>> groups(std::int64_t stage);
  std::vector<Linear*> stage(std::int64_t stage);  ///< all of them
  std::vector<Linear*> linears();                  ///< of all stages, in order

  /// Sets state.x to the inputs of `stage`: the norm of the residual for the first stage of attention
  /// and MLP; the others find it there already, left by end_stage of the stage before.
  void begin_stage(std::int64_t stage, BlockState& state, at::ScalarType compute_dtype) const;
  /// Runs the linears of `stage` on state.x and what follows them up to the next stage's input
  /// (attention, activation) or the residual sum. Positions start at 0 unless `cache` holds more. Where it throws (a GPU's memory is too
  /// small), a state without a cache is as it was.
  void end_stage(std::int64_t stage, BlockState& state, const RopeTable& rope, KvCache* cache = nullptr) const;

  /// All stages: hidden [B, T, H] float32 -> the same shape.
  at::Tensor forward(const at::Tensor& hidden_BTH, at::ScalarType compute_dtype, const RopeTable& rope,
                     KvCache* cache = nullptr) const;
  /// All stages for the tokens of many texts in one row: hidden [N, H] float32, whose memory is used, -> the same shape. Rows
  /// behind the last segment are run with it and mean nothing. `wanted_R` (int64, or undefined: all): rows that are needed of the
  /// result, which then has these alone. `least_rows`: an expert that sees fewer is given zeros beside them (a kernel of few rows sums otherwise).
  at::Tensor forward(at::Tensor hidden_NH, at::ScalarType compute_dtype, const RopeTable& rope, const std::vector<Segment>& segments,
                     TextCache& cache, const at::Tensor& wanted_R = {}, std::int64_t least_rows = 0) const;

  Linear q, k, v, o;
  Linear qkv;              ///< in place of q, k, v in families that fuse them
  std::vector<Mlp> mlps;   ///< one, or the experts
  at::Tensor router_EH;    ///< of a mixture of experts, float32
  at::Tensor input_norm_H, post_attention_norm_H;  ///< float32, as all norms
  at::Tensor q_norm_D, k_norm_D, attention_out_norm_H, mlp_out_norm_H;  ///< undefined where absent

 private:
  struct Heads {
    at::Tensor query, key, value;  // [B, T, heads, D], not rotated
  };
  Heads project(const at::Tensor& x) const;
  AttentionMask mask(const RopeTable& rope) const;
  at::Tensor attend(const at::Tensor& x, const RopeTable& rope, KvCache* cache) const;
  at::Tensor attend(const at::Tensor& x, const RopeTable& rope, const std::vector<Segment>& segments, TextCache& cache) const;
  void add_to_residual(at::Tensor& hidden, const at::Tensor& y, const at::Tensor& norm_H) const;
  std::shared_ptr<const Architecture> architecture_;
  std::int64_t layer_;
};

/// The block's norms by their place: tensor name (with ".weight"), member, size. Absent ones are left out.
struct NormPlace {
  std::string name;
  at::Tensor Block::*member;
  std::int64_t size;
};
std::vector<NormPlace> norm_places(const Architecture& architecture, std::int64_t layer);

}  // namespace miq::model
