// Weights in oneDNN's own order, for many products with one block.
#pragma once

#include <vector>

#include "miq/model/block.h"

namespace miq::model {

/// While it lives, the block's plain float32 and bfloat16 weights stand beside themselves in the order that the matrix kernel reads,
/// which it would otherwise make anew for each product (CPU; elsewhere, and for quantized linears, it does nothing). Results are the
/// same to the bit. Takes the memory of the block's weights once more.
class ReorderedWeights {
 public:
  explicit ReorderedWeights(Block& block);
  ~ReorderedWeights();
  ReorderedWeights(const ReorderedWeights&) = delete;
  ReorderedWeights& operator=(const ReorderedWeights&) = delete;

 private:
  std::vector<Linear*> reordered_;
};

}  // namespace miq::model
