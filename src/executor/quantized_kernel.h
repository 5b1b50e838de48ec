// A linear's product from its codes: what the executor installs into a model::Linear.
#pragma once

#include <memory>

#include "miq/model/linear.h"
#include "miq/quantizer/quantized_linear.h"

namespace miq::executor {

/// Dequantizes for each call, in x's type: cheap beside the product for the many tokens of an
/// evaluation, and only the codes stay in memory.
std::shared_ptr<const model::LinearKernel> make_quantized_kernel(std::shared_ptr<const quantizer::QuantizedLinear> linear);

}  // namespace miq::executor
