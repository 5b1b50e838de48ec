#include "quantized_kernel.h"

#include "miq/quantizer/packed_linear.h"

namespace miq::executor {
namespace {

class QuantizedKernel : public model::LinearKernel {
 public:
  explicit QuantizedKernel(const quantizer::QuantizedLinear& linear) : packed_(linear) {}
  at::Tensor forward(const at::Tensor& x) const override { return packed_.forward(x); }
  std::int64_t bytes() const override { return packed_.bytes(); }

  std::vector<at::Tensor> forward_many(const std::vector<const LinearKernel*>& kernels, const at::Tensor& x) const override {
    std::vector<const quantizer::PackedLinear*> linears;
    for (const LinearKernel* const kernel : kernels) {
      const auto* const quantized = dynamic_cast<const QuantizedKernel*>(kernel);
      if (quantized == nullptr) return LinearKernel::forward_many(kernels, x);
      linears.push_back(&quantized->packed_);
    }
    return quantizer::PackedLinear::forward_many(linears, x);
  }

 private:
  quantizer::PackedLinear packed_;
};

}  // namespace

std::shared_ptr<const model::LinearKernel> make_quantized_kernel(std::shared_ptr<const quantizer::QuantizedLinear> linear) {
  return std::make_shared<QuantizedKernel>(*linear);
}

}  // namespace miq::executor
