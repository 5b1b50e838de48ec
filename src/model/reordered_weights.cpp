#include "miq/model/reordered_weights.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "kernels.h"
#include "miq/core/device.h"

namespace miq::model {
namespace {

// As LibTorch's compiler calls it; null if this build lacks it.
using Reorder = at::Tensor(const at::Tensor&, std::optional<c10::SymInt>);
const std::optional<c10::TypedOperatorHandle<Reorder>>& reorder() {
  static const auto found = []() -> std::optional<c10::TypedOperatorHandle<Reorder>> {
    const auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_reorder_linear_weight", ""});
    if (!schema || !at::globalContext().userEnabledMkldnn()) return std::nullopt;
    return schema->typed<Reorder>();
  }();
  return found;
}

class ReorderedKernel : public LinearKernel {
 public:
  explicit ReorderedKernel(at::Tensor weight_OI) : weight_OI_(std::move(weight_OI)), reordered_(reorder()->call(weight_OI_, c10::SymInt(2048))) {}
  at::Tensor forward(const at::Tensor& x) const override {
    if (kernels::has_matvec(x, weight_OI_)) return kernels::matvec(x, weight_OI_, x.scalar_type());
    if (x.scalar_type() != weight_OI_.scalar_type()) return kernels::linear(x, weight_OI_.to(x.scalar_type()), {});
    return kernels::reordered_linear(x, reordered_);
  }
  std::int64_t bytes() const override { return static_cast<std::int64_t>(weight_OI_.nbytes()); }

 private:
  at::Tensor weight_OI_, reordered_;
};

bool can_reorder(const Linear& linear) {
  if (linear.kernel || linear.biased || !linear.weight_OI.defined() || !linear.weight_OI.is_cpu() || !linear.weight_OI.is_contiguous()) return false;
  const at::ScalarType dtype = linear.weight_OI.scalar_type();
  return kernels::has_reordered_linear() && reorder() && (dtype == at::kFloat || (dtype == at::kBFloat16 && has_fast_bfloat16(at::kCPU)));
}

}  // namespace

ReorderedWeights::ReorderedWeights(Block& block) {
  for (Linear* const linear : block.linears())
    if (can_reorder(*linear)) {
      linear->kernel = std::make_shared<ReorderedKernel>(linear->weight_OI);
      reordered_.push_back(linear);
    }
}

ReorderedWeights::~ReorderedWeights() {
  for (Linear* const linear : reordered_) linear->kernel = nullptr;
}

}  // namespace miq::model
