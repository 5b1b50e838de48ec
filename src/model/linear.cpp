#include "miq/model/linear.h"

#include "kernels.h"

namespace miq::model {

at::Tensor Linear::forward(const at::Tensor& x) const {
  const auto in_type_of_x = [&](const at::Tensor& t) { return t.defined() ? t.to(x.scalar_type()) : t; };
  if (!kernel) return kernels::linear(x, in_type_of_x(weight_OI), in_type_of_x(bias_O));
  const at::Tensor y = kernel->forward(x);
  return bias_O.defined() ? y + in_type_of_x(bias_O) : y;
}

}  // namespace miq::model
