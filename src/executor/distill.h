// ZeroQuant's layer-by-layer distillation (arXiv 2206.01861 section 4.2): the block's weights are
// trained, through the rounding, towards the output of the unquantized block. A block algorithm: it
// sees the block, its inputs and its targets, and leaves better weights for the rounding.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "miq/model/block.h"
#include "miq/quantizer/recipe.h"

namespace miq::executor {

/// A linear to train: its weight and what it will be rounded to.
struct TrainedLinear {
  const model::Linear* linear;
  at::Tensor weight_OI;                   ///< float32
  const quantizer::LayerRecipe* recipe;   ///< null: kept as it is
};

struct DistillResult {
  std::map<std::string, at::Tensor> weights;  ///< of the trained linears, float32
  double loss_before = 0, loss_after = 0;     ///< mean squared error of the block's output, nearest rounding
};

/// Adam on MSE(block(x), student(x)); gradients pass the rounding of weights and inputs unchanged
/// (straight through). `inputs`: hidden states [B, T, H] of calibration samples. The weights of the
/// best measured loss are kept: never worse than those it began with. Deterministic.
DistillResult distill_block(const model::Block& block, const model::Architecture& architecture, const std::vector<TrainedLinear>& linears,
                            const std::vector<at::Tensor>& inputs, const model::RopeTable& rope, const quantizer::Distillation& options);

}  // namespace miq::executor
