#include "kernels.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <cmath>

namespace miq::model::kernels {
namespace {

#define MIQ_FLOATING(TYPE, NAME, ...) AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, TYPE, NAME, __VA_ARGS__)

constexpr std::int64_t kGrainElements = 1 << 15;

template <class Row>
void for_each_row(std::int64_t rows, std::int64_t row_elements, const Row& row) {
  at::parallel_for(0, rows, std::max<std::int64_t>(1, kGrainElements / std::max<std::int64_t>(1, row_elements)),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t r = begin; r < end; ++r) row(r);
                   });
}

template <class In, class Out>
void norm_row(const In* x, const float* weight, Out* out, std::int64_t n, float eps) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t i = 0; i < n; ++i) {
    const float v = static_cast<float>(x[i]);
    squares += v * v;
  }
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float normalised = static_cast<float>(static_cast<Out>(static_cast<float>(x[i]) * scale));
    out[i] = static_cast<Out>(normalised * weight[i]);
  }
}

template <class T>
void rotate_row(const T* x, T* y, const float* cos, const float* sin, std::int64_t half) {
#pragma omp simd
  for (std::int64_t k = 0; k < half; ++k) {
    const float a = static_cast<float>(x[k]), b = static_cast<float>(x[k + half]);
    y[k] = static_cast<T>(a * cos[k] - b * sin[k]);
    y[k + half] = static_cast<T>(b * cos[k] + a * sin[k]);
  }
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType dtype) {
  if (!x.is_cpu()) {
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor normalised = wide * at::rsqrt(wide.pow(2).mean(-1, true) + eps);
    return normalised.to(dtype) * weight.to(dtype);
  }
  const at::Tensor in = x.contiguous();
  const at::Tensor factors = weight.to(at::kFloat).contiguous();
  at::Tensor out = at::empty(x.sizes(), x.options().dtype(dtype));
  const std::int64_t n = x.size(-1), rows = x.numel() / std::max<std::int64_t>(1, n);
  MIQ_FLOATING(x.scalar_type(), "rms_norm_in", [&] {
    using In = scalar_t;
    MIQ_FLOATING(dtype, "rms_norm_out", [&] {
      const In* const source = in.const_data_ptr<In>();
      scalar_t* const target = out.mutable_data_ptr<scalar_t>();
      const float* const w = factors.const_data_ptr<float>();
      for_each_row(rows, n, [&](std::int64_t r) { norm_row(source + r * n, w, target + r * n, n, static_cast<float>(eps)); });
    });
  });
  return out;
}

at::Tensor silu_mul(const at::Tensor& gate, const at::Tensor& up) {
  if (!gate.is_cpu()) return at::silu(gate) * up;
  at::Tensor product = at::silu(gate);
  return product.mul_(up);
}

void add_to(at::Tensor& hidden, const at::Tensor& x) {
  hidden.add_(x);
}

at::Tensor rotate_half(const at::Tensor& x_BNTD, const at::Tensor& cos_TD, const at::Tensor& sin_TD) {
  const std::int64_t heads = x_BNTD.size(1), tokens = x_BNTD.size(2), half = x_BNTD.size(3) / 2;
  const std::int64_t stride_b = x_BNTD.stride(0), stride_n = x_BNTD.stride(1), stride_t = x_BNTD.stride(2);
  at::Tensor out = at::empty(x_BNTD.sizes(), x_BNTD.options());
  const float* const cos = cos_TD.const_data_ptr<float>();
  const float* const sin = sin_TD.const_data_ptr<float>();
  MIQ_FLOATING(x_BNTD.scalar_type(), "rotate_half", [&] {
    const scalar_t* const source = x_BNTD.const_data_ptr<scalar_t>();
    scalar_t* const target = out.mutable_data_ptr<scalar_t>();
    for_each_row(x_BNTD.size(0) * heads * tokens, 2 * half, [&](std::int64_t row) {
      const std::int64_t t = row % tokens, n = row / tokens % heads, b = row / tokens / heads;
      const scalar_t* const x = source + b * stride_b + n * stride_n + t * stride_t;
      rotate_row(x, target + row * 2 * half, cos + t * half, sin + t * half, half);
    });
  });
  return out;
}

}  // namespace miq::model::kernels
