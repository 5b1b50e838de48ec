#include "miq/model/linear.h"

#include "kernels.h"

namespace miq::model {
namespace {

at::Tensor in_type_of(const at::Tensor& x, const at::Tensor& t) { return t.defined() ? t.to(x.scalar_type()) : t; }

at::Tensor with_bias(const Linear& linear, const at::Tensor& y) { return linear.bias_O.defined() ? y + in_type_of(y, linear.bias_O) : y; }

}  // namespace

std::vector<at::Tensor> LinearKernel::forward_many(const std::vector<const LinearKernel*>& kernels, const at::Tensor& x) const {
  std::vector<at::Tensor> outputs;
  for (const LinearKernel* const kernel : kernels) outputs.push_back(kernel->forward(x));
  return outputs;
}

at::Tensor Linear::forward(const at::Tensor& x) const {
  if (kernel) return with_bias(*this, kernel->forward(x));
  if (kernels::has_matvec(x, weight_OI)) return with_bias(*this, kernels::matvec(x, weight_OI, x.scalar_type()));
  return kernels::linear(x, in_type_of(x, weight_OI), in_type_of(x, bias_O));
}

std::vector<at::Tensor> forward_many(const std::vector<const Linear*>& linears, const at::Tensor& x) {
  std::vector<at::Tensor> outputs;
  if (std::all_of(linears.begin(), linears.end(), [](const Linear* linear) { return linear->kernel != nullptr; })) {
    std::vector<const LinearKernel*> kernels;
    for (const Linear* const linear : linears) kernels.push_back(linear->kernel.get());
    outputs = kernels.front()->forward_many(kernels, x);
    for (size_t i = 0; i < linears.size(); ++i) outputs[i] = with_bias(*linears[i], outputs[i]);
  } else {
    for (const Linear* const linear : linears) outputs.push_back(linear->forward(x));
  }
  return outputs;
}

}  // namespace miq::model
