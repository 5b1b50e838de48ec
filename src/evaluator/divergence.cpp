#include <ATen/ATen.h>

#include <algorithm>

#include "miq/core/process_group.h"
#include "miq/evaluator/perplexity.h"

namespace miq::evaluator {

void ReferenceDistributions::keep(const at::Tensor& logits_RV, std::int64_t row) {
  const std::int64_t room = most_bytes_ / (logits_RV.size(1) * 4), rows = std::min(logits_RV.size(0), room - row);
  if (rows > 0) kept_.push_back({row, logits_RV.narrow(0, 0, rows).log_softmax(1).cpu()});
}

void ReferenceDistributions::compare(const at::Tensor& logits_RV, std::int64_t row) {
  for (const Kept& kept : kept_) {
    const std::int64_t begin = std::max(row, kept.row), end = std::min(row + logits_RV.size(0), kept.row + kept.log_probabilities_RV.size(0));
    if (begin >= end) continue;
    const at::Tensor reference = kept.log_probabilities_RV.narrow(0, begin - kept.row, end - begin), own = logits_RV.narrow(0, begin - row, end - begin).log_softmax(1).cpu();
    kl_sum_ += (reference.exp() * (reference - own)).sum(at::kDouble).item<double>();
    same_ += reference.argmax(1).eq(own.argmax(1)).sum().item<std::int64_t>();
    tokens_ += end - begin;
  }
}

Divergence ReferenceDistributions::divergence() const {
  at::Tensor sums = at::tensor({kl_sum_, static_cast<double>(same_), static_cast<double>(tokens_)}, at::kDouble);
  process_group::all_reduce_sum(sums);
  const double tokens = sums[2].item<double>(), count = std::max(tokens, 1.0);
  return {static_cast<std::int64_t>(tokens), sums[0].item<double>() / count, sums[1].item<double>() / count};
}

}  // namespace miq::evaluator
