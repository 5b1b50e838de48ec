// A scale group in a decoder block: the linears of a stage, the operation before them, and how a
// divisor of their input is folded into that operation.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "miq/executor/plan.h"
#include "miq/model/block.h"
#include "miq/quantizer/transform.h"

namespace miq::executor {

/// The stages of a block, in order.
enum StageIndex : std::int64_t { kQkv, kOut, kGateUp, kDown };

/// Whether the stage reads a norm (q,k,v; gate,up). Between it and the next lies what is not linear.
inline bool follows_norm(std::int64_t stage) { return stage == kQkv || stage == kGateUp; }

using QuantizedLinears = std::map<std::string, std::shared_ptr<quantizer::QuantizedLinear>>;

/// What a divisor of the stage's input can be folded into: the norm before it (stages 0 and 2), v (1),
/// up (3).
struct FoldTarget {
  at::Tensor model::Block::*norm = nullptr;
  model::Linear model::Block::*linear = nullptr;
  std::string name;  ///< "input_layernorm", "v_proj", for people
};
FoldTarget fold_target(const model::Architecture& architecture, std::int64_t stage);

/// Whether rows of a linear quantized so can be divided exactly: by its scales.
bool rows_can_be_divided(const quantizer::LayerRecipe& layer);

/// Whether a divisor of the stage's input is folded: all its linears have one transform, and the
/// operation before it takes it. Reasons only about recipes, so that the plan can tell.
bool folds(const std::vector<const quantizer::LayerRecipe*>& stage, const quantizer::LayerRecipe* before);

/// Stage 1 reads each row of v for all query heads of its kv head: of a divisor [I], the mean (in
/// logarithms) over them, so that v can take it.
at::Tensor tie_over_heads(const at::Tensor& divisor_I, const model::Architecture& architecture);

/// The divisor nearest to `divisor` for which norm / divisor is a number of `dtype`; 1 where there is
/// none. So folding loses nothing when the norm is stored.
at::Tensor representable_divisor(const at::Tensor& divisor_I, const at::Tensor& norm_H, at::ScalarType dtype);

/// Divides rows of `before` (scales, outliers, bias) by the divisor of what reads it.
void divide_rows(quantizer::QuantizedLinear& before, model::Linear& linear, const at::Tensor& divisor_O);

/// Of stage 1's divisor [heads * head_dim], the part that each row of v takes.
at::Tensor rows_of_v(const at::Tensor& divisor_I, const model::Architecture& architecture);

}  // namespace miq::executor
