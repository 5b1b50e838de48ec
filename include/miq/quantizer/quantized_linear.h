// The result of quantizing one linear: all that evaluation and export ever see of a method.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "miq/quantizer/activation.h"
#include "miq/quantizer/grid.h"
#include "miq/quantizer/orthogonal.h"

namespace miq::quantizer {

/// Something out of the ordinary in the treatment of a layer; `code` is stable ("dead_columns",
/// "damping_raised", "starved_hessian", "fallback_nearest"), `detail` is for people.
struct Event {
  std::string code;
  std::string detail;
};

/// What is done to x before, and to y after, the product with the stored weight: x' = V (x / d),
/// y = U^T y'. Undefined and null parts are the identity. What can be folded into the operation before
/// does not stand here.
struct OnlineTransform {
  at::Tensor divisor_I;                     ///< d, float32 [I]
  std::shared_ptr<const Orthogonal> input;  ///< V, of order I
  std::shared_ptr<const Orthogonal> output; ///< U, of order O
  std::int64_t parameter_bits = 0;          ///< storage of V and U (seeds)
};

/// Weights kept exact, in rows (CSR); they replace the value of their code.
struct Outliers {
  at::Tensor row_offsets;  ///< int32 [O + 1]
  at::Tensor columns;      ///< int32 [K]
  at::Tensor values;       ///< float32 [K]
  int value_bits = 16;     ///< of storage: float16 values, or 32
  bool defined() const { return columns.defined() && columns.numel() > 0; }
};

struct QuantizedLinear {
  Grid grid;
  at::Tensor codes_OI;         ///< uint8
  GridParams params;
  BilevelParams bilevel;       ///< of grids with a second level
  Outliers outliers;
  OnlineTransform online;
  Activation activation;
  ActivationParams activation_params;  ///< of static activations
  at::Tensor group_of_column;  ///< int64 [I]; undefined when it is column / group_size (GPTQ's g_idx)
  std::vector<Event> events;
  double loss = 0;             ///< tr(dW H dW^T), with the Hessian that was used; NaN without one
  double relative_error = 0;   ///< ||dW||_F / ||W||_F

  std::int64_t out_features() const { return codes_OI.size(0); }
  std::int64_t in_features() const { return codes_OI.size(1); }
  double bits_per_weight() const;
  std::int64_t bytes() const;  ///< storage at bits_per_weight, rounded up
};

/// The same with all its tensors on `device`; rotations follow what they are applied to.
QuantizedLinear to_device(QuantizedLinear linear, const at::Device& device);
OnlineTransform to_device(OnlineTransform transform, const at::Device& device);

/// scale * (code - zero) with the outliers, in float32, in the basis of the codes. [O, I]
at::Tensor stored_weight(const QuantizedLinear& linear);
/// The weight that x meets: U^T stored V diag(1/d), cast to `dtype`. [O, I]
at::Tensor dequantize(const QuantizedLinear& linear, at::ScalarType dtype);
/// x [..., I] of any floating type -> y in x's type, with the transform and the quantized activation as
/// at run time; without bias. Products of int8 codes (at::_int_mm) where grids allow.
at::Tensor forward(const QuantizedLinear& linear, const at::Tensor& x);

}  // namespace miq::quantizer
