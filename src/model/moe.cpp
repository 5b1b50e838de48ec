// A mixture of experts: which tokens go where.
#include <ATen/ATen.h>

#include "miq/model/block.h"

namespace miq::model {

Routing route(const at::Tensor& x_NH, const at::Tensor& router_EH, const Experts& experts) {
  const at::Tensor probabilities = at::linear(x_NH, router_EH.to(x_NH.scalar_type())).to(at::kFloat).softmax(1);
  auto [weights_NK, chosen_NK] = probabilities.topk(experts.per_token, 1);
  if (experts.normalise) weights_NK = weights_NK / weights_NK.sum(1, /*keepdim=*/true);
  Routing routing;
  for (std::int64_t e = 0; e < experts.count; ++e) {
    const at::Tensor hits = (chosen_NK == e).nonzero();  // row-major: tokens ascend
    routing.tokens.push_back(hits.select(1, 0).contiguous());
    routing.weights.push_back(weights_NK.index({hits.select(1, 0), hits.select(1, 1)}));
  }
  return routing;
}

}  // namespace miq::model
