#include "miq/quantizer/statistics.h"

#include <ATen/Parallel.h>

#include <limits>
#include <utility>

#include "miq/core/error.h"
#include "miq/core/process_group.h"
#include "syrk.h"

namespace miq::quantizer {
namespace {

[[noreturn]] void not_finite() {
  throw Error(ErrorKind::numeric, "the calibration inputs are not finite (NaN or overflow)", "",
              "compute the calibration pass in float32 (calibration.dtype: float32), and check the checkpoint");
}

// Sums of |x|, or extremes, of columns in one pass over rows_TI [T, I] on a CPU: in stretches of rows
// whose sums are added in order, so that threads change nothing.
template <class T>
void add_columns(const T* x, std::int64_t rows, std::int64_t columns, bool sums, float* sum, float* low, float* high) {
  constexpr std::int64_t kStretch = 512;
  const std::int64_t stretches = (rows + kStretch - 1) / kStretch;
  const auto size = static_cast<size_t>(stretches * columns);
  std::vector<float> sums_of(size, 0), lows_of(size, std::numeric_limits<float>::infinity()), highs_of(size, -std::numeric_limits<float>::infinity());
  const auto work = [&](std::int64_t stretch) {
    float *const s = sums_of.data() + stretch * columns, *const l = lows_of.data() + stretch * columns, *const h = highs_of.data() + stretch * columns;
    for (std::int64_t r = stretch * kStretch; r < std::min(rows, (stretch + 1) * kStretch); ++r) {
      const T* const row = x + r * columns;
      if (sums)
#pragma omp simd
        for (std::int64_t c = 0; c < columns; ++c) s[c] += std::abs(static_cast<float>(row[c]));
      else
#pragma omp simd
        for (std::int64_t c = 0; c < columns; ++c) {
          const auto value = static_cast<float>(row[c]);
          l[c] = value < l[c] ? value : l[c];
          h[c] = value > h[c] ? value : h[c];
          s[c] += value * 0;  // a NaN or inf makes this NaN
        }
    }
  };
  at::parallel_for(0, stretches, 1, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t stretch = from; stretch < to; ++stretch) work(stretch);
  });
  for (std::int64_t stretch = 0; stretch < stretches; ++stretch)
    for (std::int64_t c = 0; c < columns; ++c) {
      const auto i = static_cast<size_t>(stretch * columns + c);
      sum[c] += sums_of[i];
      low[c] = std::min(low[c], lows_of[i]);
      high[c] = std::max(high[c], highs_of[i]);
    }
}

// The lower triangle (and a little more) of sum += X^T X on a GPU, in panels: a panel of columns needs no rows above it. Halves are multiplied as they
// are, their products being exact in the float32 that they are summed up in; float32 goes through TF32 only where that was allowed.
void add_lower_product(const at::Tensor& x_TI, at::Tensor& sum_II) {
  const std::int64_t columns = x_TI.size(1), panel = columns >= 2048 ? (columns + 7) / 8 : columns;
  const bool halves = x_TI.scalar_type() == at::kHalf || x_TI.scalar_type() == at::kBFloat16;
  const at::Tensor x = halves ? x_TI : x_TI.to(at::kFloat);
  for (std::int64_t begin = 0; begin < columns; begin += panel) {
    const std::int64_t width = std::min(panel, columns - begin);
    at::Tensor part = sum_II.narrow(0, begin, columns - begin).narrow(1, begin, width);
    const at::Tensor left = x.narrow(1, begin, columns - begin).t(), right = x.narrow(1, begin, width);
    if (halves) part.add_(at::mm(left, right, at::kFloat));
    else part.addmm_(left, right);
  }
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
      add_lower_product(rows_TI, sum_II_);
  }
  if (needs_.mean_abs || needs_.extremes) add_channels(rows_TI);
  num_tokens_ += rows_TI.size(0);
  num_sequences_ += sequences;
}

void InputStatistics::add_channels(const at::Tensor& rows_TI) {
  if (!rows_TI.is_cpu() || rows_TI.scalar_type() == at::kHalf) {
    if (needs_.mean_abs) abs_sum_I_.add_(rows_TI.abs().sum(0, false, at::kFloat));
    if (!needs_.extremes) return;
    low_I_ = at::minimum(low_I_, rows_TI.amin(0).to(at::kFloat));
    high_I_ = at::maximum(high_I_, rows_TI.amax(0).to(at::kFloat));
    return;
  }
  const at::Tensor x = rows_TI.contiguous();
  at::Tensor checks = at::zeros_like(abs_sum_I_);
  const auto pass = [&](bool sums, at::Tensor& sum) {
    float *const s = sum.mutable_data_ptr<float>(), *const l = low_I_.mutable_data_ptr<float>(), *const h = high_I_.mutable_data_ptr<float>();
    if (x.scalar_type() == at::kBFloat16) add_columns(x.const_data_ptr<at::BFloat16>(), x.size(0), x.size(1), sums, s, l, h);
    else add_columns(x.const_data_ptr<float>(), x.size(0), x.size(1), sums, s, l, h);
  };
  if (needs_.mean_abs) pass(true, abs_sum_I_);
  if (!needs_.extremes) return;
  pass(false, checks);
  low_I_.add_(checks);  // 0, or NaN where an input was not finite
  high_I_.add_(checks);
}

void InputStatistics::merge(const InputStatistics& other) {
  if (needs_.hessian) sum_II_.add_(other.sum_II_);
  abs_sum_I_.add_(other.abs_sum_I_);
  low_I_ = at::minimum(low_I_, other.low_I_);
  high_I_ = at::maximum(high_I_, other.high_I_);
  num_tokens_ += other.num_tokens_;
  num_sequences_ = std::max(num_sequences_, other.num_sequences_);  // all see the same sequences
}

void InputStatistics::all_reduce() {
  if (process_group::world_size() == 1) return;
  if (needs_.hessian) process_group::all_reduce_sum(sum_II_);
  if (needs_.mean_abs) process_group::all_reduce_sum(abs_sum_I_);
  if (needs_.extremes) {
    // Extremes over ranks may lose a NaN, which is what tells of inputs that were not finite.
    at::Tensor spoilt = low_I_.isnan().logical_or_(high_I_.isnan()).to(at::kInt);
    process_group::all_reduce_max(spoilt);
    process_group::all_reduce_min(low_I_);
    process_group::all_reduce_max(high_I_);
    low_I_.masked_fill_(spoilt.to(at::kBool), std::numeric_limits<float>::quiet_NaN());
    high_I_.masked_fill_(spoilt.to(at::kBool), std::numeric_limits<float>::quiet_NaN());
  }
  at::Tensor counts = at::tensor({num_tokens_, num_sequences_}, at::kLong);
  process_group::all_reduce_sum(counts);
  num_tokens_ = counts[0].item<std::int64_t>();
  num_sequences_ = counts[1].item<std::int64_t>();
}

at::Tensor InputStatistics::hessian() const {
  InputStatistics copy = *this;
  copy.sum_II_ = sum_II_.clone();
  return copy.take_hessian();
}

at::Tensor InputStatistics::take_hessian() {
  // A NaN or inf in any input column shows on the diagonal, which is a sum of squares.
  if (!sum_II_.diagonal().isfinite().all().item<bool>()) not_finite();
  at::Tensor sum = std::exchange(sum_II_, at::Tensor());
  sum.mul_(2.0 / static_cast<double>(std::max<std::int64_t>(1, num_sequences_)));
  // Only the lower triangle was summed up: it is mirrored, a stripe of columns at a time.
  constexpr std::int64_t kStripe = 256;
  const std::int64_t n = sum.size(0);
  for (std::int64_t begin = 0; begin < n; begin += kStripe) {
    const std::int64_t width = std::min(kStripe, n - begin), below = begin + width;
    at::Tensor corner = sum.narrow(0, begin, width).narrow(1, begin, width);
    corner.copy_(corner.tril() + corner.tril(-1).t());
    if (below < n) sum.narrow(0, begin, width).narrow(1, below, n - below).copy_(sum.narrow(0, below, n - below).narrow(1, begin, width).t());
  }
  return sum;
}

at::Tensor InputStatistics::mean_abs() const { return finite(abs_sum_I_ / static_cast<double>(std::max<std::int64_t>(1, num_tokens_))); }
at::Tensor InputStatistics::max_abs() const { return at::maximum(highest(), lowest().neg()); }
at::Tensor InputStatistics::lowest() const { return finite(low_I_); }
at::Tensor InputStatistics::highest() const { return finite(high_I_); }

}  // namespace miq::quantizer
