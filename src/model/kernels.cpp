#include "kernels.h"

#include <ATen/Parallel.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cmath>

#include "device_kernels.h"
#include "vectorised.h"

namespace miq::model::kernels {
namespace {

constexpr std::int64_t kGrainElements = 1 << 15;

// Calls run(begin, end) on parts of `rows`.
template <class Run>
void for_rows(std::int64_t rows, std::int64_t row_elements, const Run& run) {
  at::parallel_for(0, rows, std::max<std::int64_t>(1, kGrainElements / std::max<std::int64_t>(1, row_elements)), run);
}

template <class In, class Out>
MIQ_INLINE void norm_row(const In* x, const float* weight, Out* out, std::int64_t n, float eps) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t i = 0; i < n; ++i) squares += widen(x[i]) * widen(x[i]);
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    Out normalised;
    store(widen(x[i]) * scale, normalised);
    store(widen(normalised) * weight[i], out[i]);
  }
}

template <class T>
MIQ_INLINE void rotate_row(const T* x, const float* cos, const float* sin, T* y, std::int64_t half) {
#pragma omp simd
  for (std::int64_t k = 0; k < half; ++k) {
    const float a = widen(x[k]), b = widen(x[k + half]);
    store(a * cos[k] - b * sin[k], y[k]);
    store(b * cos[k] + a * sin[k], y[k + half]);
  }
}

template <class T>
MIQ_INLINE void rotate_interleaved_row(const T* x, const float* cos, const float* sin, T* y, std::int64_t half) {
#pragma omp simd
  for (std::int64_t k = 0; k < half; ++k) {
    const float a = widen(x[2 * k]), b = widen(x[2 * k + 1]);
    store(a * cos[k] - b * sin[k], y[2 * k]);
    store(b * cos[k] + a * sin[k], y[2 * k + 1]);
  }
}

template <class T>
MIQ_INLINE void silu_mul_range(const T* gate, const T* up, T* out, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = widen(gate[i]);
    T silu;  // rounded by itself, as in the references
    store(g / (1.0f + fast_exp(-g)), silu);
    store(widen(silu) * widen(up[i]), out[i]);
  }
}

// Loops per element type, compiled per instruction set (a template cannot be).
#define MIQ_NORM(IN, OUT)                                                                                      \
  MIQ_VECTORISED void norm_rows(const IN* x, const float* weight, OUT* out, std::int64_t rows, std::int64_t n, \
                                float eps) {                                                                   \
    for (std::int64_t r = 0; r < rows; ++r) norm_row(x + r * n, weight, out + r * n, n, eps);                  \
  }
#define MIQ_LOOPS(T)                                                                                                   \
  MIQ_VECTORISED void rotate(const T* x, const float* cos, const float* sin, T* y, std::int64_t half) {                \
    rotate_row(x, cos, sin, y, half);                                                                                  \
  }                                                                                                                    \
  MIQ_VECTORISED void rotate_interleaved(const T* x, const float* cos, const float* sin, T* y, std::int64_t half) {    \
    rotate_interleaved_row(x, cos, sin, y, half);                                                                      \
  }                                                                                                                    \
  MIQ_VECTORISED void silu_mul_loop(const T* gate, const T* up, T* out, std::int64_t n) {                              \
    silu_mul_range(gate, up, out, n);                                                                                  \
  }                                                                                                                    \
  MIQ_VECTORISED void add_loop(float* hidden, const T* x, std::int64_t n) {                                            \
    for (std::int64_t i = 0; i < n; ++i) hidden[i] += widen(x[i]);                                                     \
  }
MIQ_NORM(float, float)
MIQ_NORM(float, at::BFloat16)
MIQ_NORM(float, at::Half)
MIQ_NORM(at::BFloat16, at::BFloat16)
MIQ_NORM(at::Half, at::Half)
MIQ_LOOPS(float)
MIQ_LOOPS(at::BFloat16)
MIQ_LOOPS(at::Half)
#undef MIQ_NORM
#undef MIQ_LOOPS

bool has_loops(const at::Tensor& t) { return t.is_cpu() && is_float_type(t.scalar_type()); }

// oneDNN's float32 product on plain tensors, as LibTorch's compiler calls it; null if this build lacks it.
using OneDnnLinear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                                std::string_view, c10::List<std::optional<at::Scalar>>,
                                std::optional<std::string_view>);
const std::optional<c10::TypedOperatorHandle<OneDnnLinear>>& onednn_linear() {
  static const auto found = []() -> std::optional<c10::TypedOperatorHandle<OneDnnLinear>> {
    const auto schema = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!schema || !at::globalContext().userEnabledMkldnn()) return std::nullopt;
    return schema->typed<OneDnnLinear>();
  }();
  return found;
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight_OI, const at::Tensor& bias_O) {
  const std::optional<at::Tensor> bias = bias_O.defined() ? std::optional<at::Tensor>(bias_O) : std::nullopt;
  const std::int64_t rows = weight_OI.size(1) > 0 ? x.numel() / weight_OI.size(1) : 0;
  const bool plain = has_loops(x) && weight_OI.is_contiguous() && rows > 0 && x.size(-1) == weight_OI.size(1);
  if (has_matvec(x, weight_OI)) {
    at::Tensor y = matvec(x, weight_OI, x.scalar_type());
    return bias ? y.add_(*bias) : y;
  }
  if (plain && x.scalar_type() == at::kFloat && !x.requires_grad() && onednn_linear())
    return onednn_linear()->call(x, weight_OI, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
  return at::linear(x, weight_OI, bias);
}

bool has_reordered_linear() { return onednn_linear().has_value(); }

at::Tensor reordered_linear(const at::Tensor& x, const at::Tensor& reordered) {
  return onednn_linear()->call(x, reordered, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType dtype) {
  if (has_device_kernels(x) && (x.scalar_type() == at::kFloat || x.scalar_type() == dtype)) return device_rms_norm(x, weight, eps, dtype);
  if (!has_loops(x) || (x.scalar_type() != at::kFloat && x.scalar_type() != dtype)) {
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor normalised = wide * at::rsqrt(wide.pow(2).mean(-1, true) + eps);
    return normalised.to(dtype) * weight.to(dtype);
  }
  const at::Tensor in = x.contiguous(), factors = weight.to(at::kFloat).contiguous();
  at::Tensor out = at::empty(x.sizes(), x.options().dtype(dtype));
  const std::int64_t n = x.size(-1), rows = x.numel() / std::max<std::int64_t>(1, n);
  const float* const w = factors.const_data_ptr<float>();
  const auto run = [&](auto in_zero, auto out_zero) {
    const auto* const source = in.const_data_ptr<decltype(in_zero)>();
    auto* const target = out.mutable_data_ptr<decltype(out_zero)>();
    for_rows(rows, n, [&](std::int64_t begin, std::int64_t end) {
      norm_rows(source + begin * n, w, target + begin * n, end - begin, n, static_cast<float>(eps));
    });
  };
  with_float_type(dtype, [&](auto zero) { x.scalar_type() == at::kFloat ? run(float(), zero) : run(zero, zero); });
  return out;
}

at::Tensor silu_mul(const at::Tensor& gate, const at::Tensor& up) {
  if (has_device_kernels(gate)) return device_silu_mul(gate, up);
  if (!has_loops(gate)) return at::silu(gate) * up;
  const at::Tensor g = gate.contiguous(), u = up.contiguous();
  at::Tensor out = at::empty(g.sizes(), g.options());
  with_float_type(g.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* const gates = g.const_data_ptr<T>();
    const T* const ups = u.const_data_ptr<T>();
    T* const target = out.mutable_data_ptr<T>();
    for_rows(g.numel(), 1, [&](std::int64_t begin, std::int64_t end) {
      silu_mul_loop(gates + begin, ups + begin, target + begin, end - begin);
    });
  });
  return out;
}

void add_to(at::Tensor& hidden, const at::Tensor& x) {
  if (has_device_kernels(x) && hidden.is_contiguous() && hidden.scalar_type() == at::kFloat) return device_add_to(hidden, x);
  if (!has_loops(x) || !hidden.is_contiguous() || hidden.scalar_type() != at::kFloat) {
    hidden.add_(x);
    return;
  }
  const at::Tensor in = x.contiguous();
  float* const target = hidden.mutable_data_ptr<float>();
  with_float_type(in.scalar_type(), [&](auto zero) {
    const auto* const source = in.const_data_ptr<decltype(zero)>();
    for_rows(in.numel(), 1,
             [&](std::int64_t begin, std::int64_t end) { add_loop(target + begin, source + begin, end - begin); });
  });
}

at::Tensor rotate_pairs(const at::Tensor& x_BNTD, const at::Tensor& cos_TD, const at::Tensor& sin_TD,
                        bool interleaved) {
  const std::int64_t heads = x_BNTD.size(1), tokens = x_BNTD.size(2), dim = x_BNTD.size(3), half = cos_TD.size(1);
  if (has_device_kernels(x_BNTD)) return device_rotate_pairs(x_BNTD, cos_TD, sin_TD, interleaved);
  if (!has_loops(x_BNTD)) {
    const at::Tensor x = x_BNTD.narrow(3, 0, 2 * half).to(at::kFloat), rest = x_BNTD.narrow(3, 2 * half, dim - 2 * half);
    const at::Tensor pairs = interleaved ? x.unflatten(3, {half, 2}) : x.unflatten(3, {2, half}).transpose(3, 4);
    const at::Tensor a = pairs.select(4, 0), b = pairs.select(4, 1);
    const at::Tensor turned = at::stack({a * cos_TD - b * sin_TD, b * cos_TD + a * sin_TD}, interleaved ? 4 : 3);
    return at::cat({turned.flatten(3).to(x_BNTD.scalar_type()), rest}, 3);
  }
  const std::int64_t stride_b = x_BNTD.stride(0), stride_n = x_BNTD.stride(1), stride_t = x_BNTD.stride(2);
  at::Tensor out = at::empty(x_BNTD.sizes(), x_BNTD.options());
  const float* const cos = cos_TD.const_data_ptr<float>();
  const float* const sin = sin_TD.const_data_ptr<float>();
  with_float_type(x_BNTD.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const T* const source = x_BNTD.const_data_ptr<T>();
    T* const target = out.mutable_data_ptr<T>();
    for_rows(x_BNTD.size(0) * heads * tokens, dim, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t t = row % tokens, n = row / tokens % heads, b = row / tokens / heads;
        const T* const x = source + b * stride_b + n * stride_n + t * stride_t;
        T* const y = target + row * dim;
        if (interleaved)
          rotate_interleaved(x, cos + t * half, sin + t * half, y, half);
        else
          rotate(x, cos + t * half, sin + t * half, y, half);
        std::copy(x + 2 * half, x + dim, y + 2 * half);
      }
    });
  });
  return out;
}

}  // namespace miq::model::kernels
