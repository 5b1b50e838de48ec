// The result of quantizing one linear: all that evaluation and export ever see of a method.
#pragma once

#include <string>
#include <vector>

#include "miq/quantizer/grid.h"

namespace miq::quantizer {

/// Something out of the ordinary in the treatment of a layer; `code` is stable ("dead_columns",
/// "damping_raised", "starved_hessian", "fallback_nearest"), `detail` is for people.
struct Event {
  std::string code;
  std::string detail;
};

struct QuantizedLinear {
  Grid grid;
  at::Tensor codes_OI;         ///< uint8
  GridParams params;
  at::Tensor group_of_column;  ///< int64 [I]; undefined when it is column / group_size (GPTQ's g_idx)
  std::vector<Event> events;
  double loss = 0;             ///< tr(dW H dW^T), with the Hessian that was used; NaN without one
  double relative_error = 0;   ///< ||dW||_F / ||W||_F

  std::int64_t out_features() const { return codes_OI.size(0); }
  std::int64_t in_features() const { return codes_OI.size(1); }
  double bits_per_weight() const;
  std::int64_t bytes() const;  ///< storage at bits_per_weight, rounded up
};

/// scale * (code - zero) in float32, then cast to `dtype`. [O, I]
at::Tensor dequantize(const QuantizedLinear& linear, at::ScalarType dtype);

}  // namespace miq::quantizer
