#include "miq/quantizer/statistics.h"

#include "miq/core/error.h"
#include "syrk.h"

namespace miq::quantizer {

InputStatistics::InputStatistics(std::int64_t in_features, const at::Device& device)
    : sum_II_(at::zeros({in_features, in_features}, at::TensorOptions().dtype(at::kFloat).device(device))) {}

void InputStatistics::add(const at::Tensor& x, std::int64_t sequences) {
  const std::int64_t columns = sum_II_.size(0);
  if (x.dim() == 0 || x.size(-1) != columns)
    throw Error(ErrorKind::internal, "statistics of " + std::to_string(columns) + " inputs got a tensor of another width");
  const at::Tensor rows_TI = x.reshape({-1, columns});
  if (rows_TI.is_cpu())
    add_lower_syrk(rows_TI.contiguous(), sum_II_);
  else
    sum_II_.addmm_(rows_TI.to(at::kFloat).t(), rows_TI.to(at::kFloat));
  num_tokens_ += rows_TI.size(0);
  num_sequences_ += sequences;
}

at::Tensor InputStatistics::hessian() const {
  // A NaN or inf in any input column shows on the diagonal, which is a sum of squares.
  if (!sum_II_.diagonal().isfinite().all().item<bool>())
    throw Error(ErrorKind::numeric, "the calibration inputs are not finite (NaN or overflow)", "",
                "compute the calibration pass in float32 (calibration.dtype: float32), and check the checkpoint");
  at::Tensor lower = sum_II_.tril();
  lower = lower + lower.tril(-1).t();
  return lower * (2.0 / static_cast<double>(std::max<std::int64_t>(1, num_sequences_)));
}

}  // namespace miq::quantizer
