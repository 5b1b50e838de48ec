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

using model::kDown;
using model::kGateUp;
using model::kOut;
using model::kQkv;
using model::follows_norm;

using QuantizedLinears = std::map<std::string, std::shared_ptr<quantizer::QuantizedLinear>>;

/// What a divisor of a group's input can be folded into: the norm before it (kQkv, kGateUp, which all
/// groups share with the router), or rows of v (kOut) and of up (kDown).
struct FoldTarget {
  at::Tensor model::Block::*norm = nullptr;
  model::Linear* linear = nullptr;
  std::int64_t first_row = 0, rows = 0;  ///< of `linear`
  std::string name;                      ///< the tensor or linear, whole
};
FoldTarget fold_target(model::Block& block, const model::Architecture& architecture, std::int64_t stage, size_t group);

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

/// Divides the target's rows of a quantized linear (scales, outliers, bias) by the divisor [rows] of what
/// reads them.
void divide_rows(quantizer::QuantizedLinear& before, const FoldTarget& target, const at::Tensor& divisor);

/// Of stage 1's divisor [heads * head_dim], the part that each row of v takes.
at::Tensor rows_of_v(const at::Tensor& divisor_I, const model::Architecture& architecture);

}  // namespace miq::executor
