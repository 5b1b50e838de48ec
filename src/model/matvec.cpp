// Products of a few rows of x, bound by reading the weight: it is widened on its way into the registers.
#include <ATen/Parallel.h>

#include "instruction_sets.h"
#include "kernels.h"
#include "vectorised.h"

namespace miq::model::kernels {
namespace {

constexpr std::int64_t kFewRows = 4;
constexpr std::int64_t kGrainElements = 1 << 15;

// Rows [begin, end) of the weight by `Rows` rows of x: y[r * out + o].
template <class W>
using Dots = void (*)(const float* x, const W* weight, float* y, std::int64_t begin, std::int64_t end, std::int64_t in, std::int64_t out);

template <class W>
MIQ_INLINE float dot_row(const float* x, const W* w, std::int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] * widen(w[i]);
  return sum;
}

#define MIQ_DOTS(W)                                                                                                        \
  MIQ_VECTORISED void portable_dots(const float* x, const W* weight, float* y, std::int64_t begin, std::int64_t end,       \
                                    std::int64_t in, std::int64_t out, std::int64_t rows) {                                \
    for (std::int64_t o = begin; o < end; ++o)                                                                             \
      for (std::int64_t r = 0; r < rows; ++r) y[r * out + o] = dot_row(x + r * in, weight + o * in, in);                   \
  }
MIQ_DOTS(float)
MIQ_DOTS(at::BFloat16)
MIQ_DOTS(at::Half)
#undef MIQ_DOTS

template <class W, int Rows>
void portable(const float* x, const W* weight, float* y, std::int64_t begin, std::int64_t end, std::int64_t in, std::int64_t out) {
  portable_dots(x, weight, y, begin, end, in, out, Rows);
}

#if defined(__x86_64__)

// The body for both instruction sets: a template's target cannot depend on its parameters.
#define MIQ_DOTS(TARGET, NAME, ISA)                                                                                              \
  template <class W, int Rows>                                                                                                   \
  TARGET void NAME(const float* x, const W* weight, float* y, std::int64_t begin, std::int64_t end, std::int64_t in,             \
                   std::int64_t out) {                                                                                           \
    constexpr std::int64_t width = sizeof(ISA::Vector) / 4, chains = Rows == 1 ? 4 : 2;                                          \
    for (std::int64_t o = begin; o < end; ++o) {                                                                                 \
      const W* const w = weight + o * in;                                                                                        \
      ISA::Vector sums[Rows][chains];                                                                                            \
      for (int r = 0; r < Rows; ++r)                                                                                             \
        for (int c = 0; c < chains; ++c) sums[r][c] = ISA::zero();                                                               \
      std::int64_t i = 0;                                                                                                        \
      for (; i + chains * width <= in; i += chains * width)                                                                      \
        for (int c = 0; c < chains; ++c) {                                                                                       \
          const ISA::Vector values = ISA::load(w + i + c * width);                                                               \
          for (int r = 0; r < Rows; ++r)                                                                                         \
            sums[r][c] = ISA::multiply_add(values, ISA::load(x + r * in + i + c * width), sums[r][c]);                           \
        }                                                                                                                        \
      for (; i + width <= in; i += width)                                                                                        \
        for (int r = 0; r < Rows; ++r) sums[r][0] = ISA::multiply_add(ISA::load(w + i), ISA::load(x + r * in + i), sums[r][0]);  \
      for (int r = 0; r < Rows; ++r) {                                                                                           \
        for (int c = 1; c < chains; ++c) sums[r][0] = ISA::add(sums[r][0], sums[r][c]);                                          \
        float sum = ISA::sum(sums[r][0]);                                                                                        \
        for (std::int64_t j = i; j < in; ++j) sum += x[r * in + j] * widen(w[j]);                                                \
        y[r * out + o] = sum;                                                                                                    \
      }                                                                                                                          \
    }                                                                                                                            \
  }
MIQ_DOTS(MIQ_AVX512, avx512, Avx512)
MIQ_DOTS(MIQ_AVX2, avx2, Avx2)
#undef MIQ_DOTS

#endif

template <class W, int Rows>
Dots<W> best_dots() {
#if defined(__x86_64__)
  if (has_avx512()) return avx512<W, Rows>;
  if (has_avx2()) return avx2<W, Rows>;
#endif
  return portable<W, Rows>;
}

template <class W>
Dots<W> dots_of(std::int64_t rows) {
  switch (rows) {
    case 1: return best_dots<W, 1>();
    case 2: return best_dots<W, 2>();
    case 3: return best_dots<W, 3>();
    default: return best_dots<W, 4>();
  }
}

}  // namespace

bool has_matvec(const at::Tensor& x, const at::Tensor& weight_OI) {
  if (!x.is_cpu() || !is_float_type(x.scalar_type()) || !is_float_type(weight_OI.scalar_type()) || x.requires_grad()) return false;
  const std::int64_t width = weight_OI.size(1), rows = width > 0 ? x.numel() / width : 0;
  return weight_OI.is_contiguous() && rows > 0 && rows <= kFewRows && x.size(-1) == width;
}

at::Tensor matvec(const at::Tensor& x, const at::Tensor& weight_OI, at::ScalarType dtype) {
  const std::int64_t in = weight_OI.size(1), out = weight_OI.size(0), rows = x.numel() / in;
  const at::Tensor wide = x.to(at::kFloat).contiguous();
  auto sizes = x.sizes().vec();
  sizes.back() = out;
  at::Tensor y = at::empty(sizes, wide.options());
  float* const target = y.mutable_data_ptr<float>();
  const float* const source = wide.const_data_ptr<float>();
  with_float_type(weight_OI.scalar_type(), [&](auto zero) {
    using W = decltype(zero);
    const W* const weight = weight_OI.const_data_ptr<W>();
    const Dots<W> dots = dots_of<W>(rows);
    at::parallel_for(0, out, std::max<std::int64_t>(1, kGrainElements / in),
                     [&](std::int64_t begin, std::int64_t end) { dots(source, weight, target, begin, end, in, out); });
  });
  return y.to(dtype);
}

}  // namespace miq::model::kernels
