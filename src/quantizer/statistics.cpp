#include "miq/quantizer/statistics.h"

#include <limits>

#include "miq/core/error.h"
#include "syrk.h"

namespace miq::quantizer {
namespace {

[[noreturn]] void not_finite() {
  throw Error(ErrorKind::numeric, "the calibration inputs are not finite (NaN or overflow)", "",
              "compute the calibration pass in float32 (calibration.dtype: float32), and check the checkpoint");
}

at::Tensor finite(const at::Tensor& t) {
  if (!t.isfinite().all().item<bool>()) not_finite();
  return t;
}

}  // namespace

InputStatistics::InputStatistics(std::int64_t in_features, const at::Device& device, const StatisticsNeeds& needs) : needs_(needs) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  if (needs.hessian) sum_II_ = at::zeros({in_features, in_features}, options);
  abs_sum_I_ = at::zeros({in_features}, options);
  low_I_ = at::full({in_features}, std::numeric_limits<float>::infinity(), options);
  high_I_ = -low_I_;
}

void InputStatistics::add(const at::Tensor& x, std::int64_t sequences) {
  const std::int64_t columns = abs_sum_I_.size(0);
  if (x.dim() == 0 || x.size(-1) != columns)
    throw Error(ErrorKind::internal, "statistics of " + std::to_string(columns) + " inputs got a tensor of another width");
  const at::Tensor rows_TI = x.reshape({-1, columns});
  if (needs_.hessian) {
    if (rows_TI.is_cpu())
      add_lower_syrk(rows_TI.contiguous(), sum_II_);
    else
      sum_II_.addmm_(rows_TI.to(at::kFloat).t(), rows_TI.to(at::kFloat));
  }
  if (needs_.mean_abs) abs_sum_I_.add_(rows_TI.abs().sum(0, false, at::kFloat));
  if (needs_.extremes) {
    low_I_ = at::minimum(low_I_, rows_TI.amin(0).to(at::kFloat));
    high_I_ = at::maximum(high_I_, rows_TI.amax(0).to(at::kFloat));
  }
  num_tokens_ += rows_TI.size(0);
  num_sequences_ += sequences;
}

at::Tensor InputStatistics::hessian() const {
  // A NaN or inf in any input column shows on the diagonal, which is a sum of squares.
  if (!sum_II_.diagonal().isfinite().all().item<bool>()) not_finite();
  at::Tensor lower = sum_II_.tril();
  lower = lower + lower.tril(-1).t();
  return lower * (2.0 / static_cast<double>(std::max<std::int64_t>(1, num_sequences_)));
}

at::Tensor InputStatistics::mean_abs() const { return finite(abs_sum_I_ / static_cast<double>(std::max<std::int64_t>(1, num_tokens_))); }
at::Tensor InputStatistics::max_abs() const { return at::maximum(highest(), lowest().neg()); }
at::Tensor InputStatistics::lowest() const { return finite(low_I_); }
at::Tensor InputStatistics::highest() const { return finite(high_I_); }

}  // namespace miq::quantizer
