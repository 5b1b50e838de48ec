#include "quantized_kernel.h"

#include <ATen/ATen.h>

namespace miq::executor {
namespace {

class QuantizedKernel : public model::LinearKernel {
 public:
  explicit QuantizedKernel(std::shared_ptr<const quantizer::QuantizedLinear> linear) : linear_(std::move(linear)) {}
  at::Tensor forward(const at::Tensor& x) const override { return quantizer::forward(*linear_, x); }
  std::int64_t bytes() const override { return linear_->bytes(); }

 private:
  std::shared_ptr<const quantizer::QuantizedLinear> linear_;
};

}  // namespace

std::shared_ptr<const model::LinearKernel> make_quantized_kernel(std::shared_ptr<const quantizer::QuantizedLinear> linear) {
  return std::make_shared<QuantizedKernel>(std::move(linear));
}

}  // namespace miq::executor
