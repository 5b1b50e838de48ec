#include "scale_group.h"

#include <ATen/ATen.h>

namespace miq::executor {

using quantizer::Granularity;
using quantizer::LayerRecipe;
using quantizer::TransformKind;

FoldTarget fold_target(model::Block& block, const model::Architecture& a, std::int64_t stage, size_t group) {
  const std::string prefix = a.block_name(block.layer());
  const auto part_of = [](model::Linear& alone, model::Linear& fused, std::int64_t before, std::int64_t rows) {
    model::Linear& linear = fused.exists() ? fused : alone;
    return FoldTarget{nullptr, &linear, fused.exists() ? before : 0, rows, linear.name};
  };
  model::Mlp& mlp = block.mlps[stage == kDown ? group : 0];
  switch (stage) {
    case kQkv: return {&model::Block::input_norm_H, nullptr, 0, 0, prefix + a.names.input_norm};
    case kOut: return part_of(block.v, block.qkv, a.q_size() + a.kv_size(), a.kv_size());
    case kGateUp: return {&model::Block::post_attention_norm_H, nullptr, 0, 0, prefix + a.names.post_attention_norm};
    default: return part_of(mlp.up, mlp.gate_up, mlp.down.in_features, mlp.down.in_features);
  }
}

bool rows_can_be_divided(const LayerRecipe& layer) {
  const quantizer::Grid& grid = layer.grid;
  return !layer.keep_float && !grid.bilevel.enabled() && layer.transform.kind != TransformKind::incoherence &&
         (grid.granularity == Granularity::channel || grid.granularity == Granularity::group);
}

bool folds(const std::vector<const LayerRecipe*>& stage, const LayerRecipe* before) {
  for (const LayerRecipe* layer : stage)
    if (layer->keep_float || layer->transform != stage.front()->transform) return false;
  return before == nullptr || rows_can_be_divided(*before);
}

at::Tensor tie_over_heads(const at::Tensor& divisor_I, const model::Architecture& a) {
  const std::int64_t repeats = a.num_heads / a.num_kv_heads;
  if (repeats == 1) return divisor_I;
  const at::Tensor by_head = divisor_I.view({a.num_kv_heads, repeats, a.head_dim}).log();
  return by_head.mean(1, true).exp().expand({a.num_kv_heads, repeats, a.head_dim}).reshape({-1});
}

at::Tensor representable_divisor(const at::Tensor& divisor_I, const at::Tensor& norm_H, at::ScalarType dtype) {
  const at::Tensor stored = (norm_H / divisor_I).to(dtype).to(at::kFloat);
  const at::Tensor exact = norm_H / stored;
  const at::Tensor usable = exact.isfinite().logical_and(exact > 0);
  // A norm of 0 has inputs of 0: any divisor will do.
  return at::where(usable, exact, at::ones_like(exact));
}

void divide_rows(quantizer::QuantizedLinear& before, const FoldTarget& target, const at::Tensor& divisor) {
  at::Tensor divisor_O = at::ones({before.out_features()}, divisor.options());
  divisor_O.narrow(0, target.first_row, target.rows).copy_(divisor);
  before.params.scales_OG = quantizer::stored_numbers(before.params.scales_OG / divisor_O.unsqueeze(1), before.grid.scale_dtype);
  if (before.outliers.defined()) {
    const at::Tensor counts = before.outliers.row_offsets.diff().to(at::kLong);
    before.outliers.values = before.outliers.values / divisor_O.repeat_interleave(counts);
    if (before.outliers.value_bits == 16) before.outliers.values = before.outliers.values.to(at::kHalf).to(at::kFloat);
  }
  if (target.linear->bias_O.defined()) target.linear->bias_O = target.linear->bias_O.to(at::kFloat) / divisor_O;
}

at::Tensor rows_of_v(const at::Tensor& divisor_I, const model::Architecture& a) {
  return divisor_I.view({a.num_kv_heads, a.num_heads / a.num_kv_heads, a.head_dim}).select(1, 0).reshape({-1});
}

}  // namespace miq::executor
