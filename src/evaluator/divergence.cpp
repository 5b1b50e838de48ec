#include <ATen/ATen.h>

#include <algorithm>

#include "miq/evaluator/perplexity.h"

namespace miq::evaluator {

void ReferenceDistributions::keep(const at::Tensor& logits_RV) {
  const std::int64_t row_bytes = logits_RV.size(1) * 4, rows = std::min(logits_RV.size(0), bytes_left_ / row_bytes);
  if (rows <= 0) return;
  bytes_left_ -= rows * row_bytes;
  if (rows < logits_RV.size(0)) bytes_left_ = 0;  // what follows would not be the next row
  kept_.push_back(logits_RV.narrow(0, 0, rows).log_softmax(1).cpu());
}

void ReferenceDistributions::compare(const at::Tensor& logits_RV) {
  for (std::int64_t begin = 0; begin < logits_RV.size(0) && part_ < kept_.size();) {
    const std::int64_t rows = std::min(logits_RV.size(0) - begin, kept_[part_].size(0) - row_);
    const at::Tensor reference = kept_[part_].narrow(0, row_, rows), own = logits_RV.narrow(0, begin, rows).log_softmax(1).cpu();
    kl_sum_ += (reference.exp() * (reference - own)).sum(at::kDouble).item<double>();
    same_ += reference.argmax(1).eq(own.argmax(1)).sum().item<std::int64_t>();
    tokens_ += rows;
    begin += rows;
    row_ += rows;
    if (row_ < kept_[part_].size(0)) continue;
    ++part_;
    row_ = 0;
  }
}

Divergence ReferenceDistributions::divergence() const {
  const auto count = static_cast<double>(std::max<std::int64_t>(tokens_, 1));
  return {tokens_, kl_sum_ / count, static_cast<double>(same_) / count};
}

}  // namespace miq::evaluator
