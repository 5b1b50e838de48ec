#include "scale_group.h"

#include <ATen/ATen.h>

namespace miq::executor {

using quantizer::Granularity;
using quantizer::LayerRecipe;
using quantizer::TransformKind;

FoldTarget fold_target(const model::Architecture& a, std::int64_t stage) {
  switch (stage) {
    case kQkv: return {&model::Block::input_norm_H, nullptr, a.names.input_norm};
    case kOut: return {nullptr, &model::Block::v, a.names.v};
    case kGateUp: return {&model::Block::post_attention_norm_H, nullptr, a.names.post_attention_norm};
    default: return {nullptr, &model::Block::up, a.names.up};
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

void divide_rows(quantizer::QuantizedLinear& before, model::Linear& linear, const at::Tensor& divisor_O) {
  before.params.scales_OG = before.params.scales_OG / divisor_O.unsqueeze(1);
  if (before.outliers.defined()) {
    const at::Tensor counts = before.outliers.row_offsets.diff().to(at::kLong);
    before.outliers.values = before.outliers.values / divisor_O.repeat_interleave(counts);
  }
  if (linear.bias_O.defined()) linear.bias_O = linear.bias_O.to(at::kFloat) / divisor_O;
}

at::Tensor rows_of_v(const at::Tensor& divisor_I, const model::Architecture& a) {
  return divisor_I.view({a.num_kv_heads, a.num_heads / a.num_kv_heads, a.head_dim}).select(1, 0).reshape({-1});
}

}  // namespace miq::executor
