// What a query sees beside causality.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace miq::model {

struct AttentionMask {
  std::int64_t window = 0;      ///< only the last so many positions, itself included; 0: all
  at::Tensor alibi_slopes_N;    ///< float32 [N] on the CPU: head n adds slope * (j - i) to its scores; or undefined
};

}  // namespace miq::model
