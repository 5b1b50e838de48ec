// The fast product with kron(had_K, Sylvester_{n/K}) / sqrt(n), with or without signs.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>

#include <array>
#include <cmath>
#include <cstring>
#include <optional>

#include "miq/core/error.h"
#include "miq/core/vectorised.h"
#include "miq/quantizer/orthogonal.h"
#include "orthogonal_input.h"

namespace miq::quantizer {
namespace {

constexpr std::int64_t kLanes = 8;
using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));

// One stretch through the Sylvester matrix of order `width` (a power of two), out of place:
// out = Sylvester (scale * signs * in). `signs` may be null. One function per instruction set.
MIQ_VECTORISED void sylvester(const float* in, const float* signs, float scale, float* out, std::int64_t width) {
  std::int64_t half = 1;
  if (width < kLanes) {
    for (std::int64_t i = 0; i < width; ++i) out[i] = in[i] * (signs ? signs[i] * scale : scale);
  } else {  // three butterflies inside a vector
    for (std::int64_t i = 0; i < width; i += kLanes) {
      Vector v, s;
      std::memcpy(&v, in + i, sizeof v);
      if (signs) {
        std::memcpy(&s, signs + i, sizeof s);
        v *= s;
      }
      v *= scale;
      v = __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6) + v * Vector{1, -1, 1, -1, 1, -1, 1, -1};
      v = __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5) + v * Vector{1, 1, -1, -1, 1, 1, -1, -1};
      v = __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3) + v * Vector{1, 1, 1, 1, -1, -1, -1, -1};
      std::memcpy(out + i, &v, sizeof v);
    }
    half = kLanes;
  }
  for (; 4 * half <= width; half *= 4)  // two butterflies in one pass
    for (std::int64_t at = 0; at < width; at += 4 * half) {
      float *a = out + at, *b = a + half, *c = b + half, *d = c + half;
#pragma GCC ivdep
      for (std::int64_t i = 0; i < half; ++i) {
        const float p = a[i] + b[i], q = a[i] - b[i], r = c[i] + d[i], s = c[i] - d[i];
        a[i] = p + r;
        b[i] = q + s;
        c[i] = p - r;
        d[i] = q - s;
      }
    }
  for (; half < width; half *= 2)
    for (std::int64_t at = 0; at < width; at += 2 * half) {
      float *a = out + at, *b = a + half;
#pragma GCC ivdep
      for (std::int64_t i = 0; i < half; ++i) {
        const float p = a[i], q = b[i];
        a[i] = p + q;
        b[i] = p - q;
      }
    }
}

class Hadamard : public Orthogonal {
 public:
  Hadamard(std::int64_t n, std::int64_t k, at::Tensor signs_N, std::optional<std::uint64_t> seed = std::nullopt)
      : n_(n),
        k_(k),
        scale_(1 / std::sqrt(static_cast<double>(n))),
        matrix_KK_(hadamard_matrix(k)),
        signs_N_(std::move(signs_N)),
        seed_(seed) {}

  std::int64_t order() const override { return n_; }
  at::Tensor apply(const at::Tensor& x) const override { return multiply(x, signs_N_, matrix_KK_); }
  at::Tensor apply_transposed(const at::Tensor& x) const override {
    at::Tensor y = multiply(x, at::Tensor(), matrix_KK_.t());  // Sylvester's matrix is symmetric
    return signs_N_.defined() ? y.mul_(signs_N_.to(x.options())) : y;
  }
  OrthogonalParts parts() const override {
    if (seed_) return {"random_hadamard", n_, {{"seed", seed_tensor(*seed_)}}};
    if (signs_N_.defined()) return {"hadamard", n_, {{"signs", signs_N_}}};
    return {"hadamard", n_, {{"k", at::scalar_tensor(k_, at::kLong)}}};
  }

 private:
  at::Tensor multiply(const at::Tensor& x, const at::Tensor& signs_N, const at::Tensor& matrix_KK) const {
    check_rows(x, n_);
    const std::int64_t width = n_ / k_;
    at::Tensor y_RKW =
        x.device().is_cpu() && x.scalar_type() == at::kFloat ? butterflies(x, signs_N) : tensor_butterflies(x, signs_N);
    if (k_ == 1) return y_RKW.reshape(x.sizes());
    const at::Tensor matrix = matrix_KK.to(x.options());
    if (width == 1) return y_RKW.view({-1, k_}).mm(matrix.t()).reshape(x.sizes());
    return at::matmul(matrix, y_RKW).reshape(x.sizes());
  }

  // [rows, K, width], a copy: each width through Sylvester's matrix, scaled.
  at::Tensor butterflies(const at::Tensor& x, const at::Tensor& signs_N) const {
    const std::int64_t width = n_ / k_;
    const at::Tensor source = x.contiguous();
    at::Tensor y_RKW = at::empty({x.numel() / n_, k_, width}, source.options());
    const float* const in = source.const_data_ptr<float>();
    const float* const signs = signs_N.defined() ? signs_N.const_data_ptr<float>() : nullptr;
    float* const out = y_RKW.mutable_data_ptr<float>();
    at::parallel_for(0, x.numel() / width, std::max<std::int64_t>(1, 32768 / width),
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t s = begin; s < end; ++s)
                         sylvester(in + s * width, signs ? signs + s % k_ * width : nullptr, static_cast<float>(scale_),
                                   out + s * width, width);
                     });
    return y_RKW;
  }

  // The same by tensor operations: other devices, and float64.
  at::Tensor tensor_butterflies(const at::Tensor& x, const at::Tensor& signs_N) const {
    const std::int64_t width = n_ / k_, rows = x.numel() / n_;
    at::Tensor y = x * scale_;
    if (signs_N.defined()) y = y * signs_N.to(x.options());
    for (std::int64_t half = 1; half < width; half *= 2) {
      y = y.reshape({rows * n_ / (2 * half), 2, half});
      const at::Tensor a = y.select(1, 0), b = y.select(1, 1);
      y = at::stack({a + b, a - b}, 1);
    }
    return y.reshape({rows, k_, width});
  }

  std::int64_t n_, k_;
  double scale_;
  at::Tensor matrix_KK_, signs_N_;
  std::optional<std::uint64_t> seed_;
};

void require_positive(std::int64_t n) {
  if (n <= 0) throw Error(ErrorKind::unsupported, "a matrix of order " + std::to_string(n) + " is none");
}

// K of the factorisation. @throws Error{unsupported} when there is none.
std::int64_t known_order(std::int64_t n) {
  require_positive(n);
  const std::int64_t k = hadamard_order(n);
  if (k == 0)
    throw Error(ErrorKind::unsupported, "there is no known Hadamard matrix of order " + std::to_string(n), "",
                "Kronecker-factored rotations exist for every order (orthogonal: kronecker)");
  return k;
}

}  // namespace

std::shared_ptr<const Orthogonal> hadamard(std::int64_t n, std::int64_t k) {
  if (k == 0) return signed_hadamard(at::Tensor(), n);
  require_positive(n);
  const std::int64_t width = k > 0 && n % k == 0 ? n / k : 0;
  if (width == 0 || (width & (width - 1)) != 0)
    throw Error(ErrorKind::unsupported,
                "order " + std::to_string(n) + " is not " + std::to_string(k) + " times a power of two", "",
                "leave K to the order of the matrix");
  return std::make_shared<Hadamard>(n, k, at::Tensor());
}

std::shared_ptr<const Orthogonal> signed_hadamard(const at::Tensor& signs, std::int64_t n) {
  const std::int64_t k = known_order(n);
  if (!signs.defined()) return std::make_shared<Hadamard>(n, k, at::Tensor());
  if (signs.numel() != n)
    throw Error(ErrorKind::internal,
                std::to_string(signs.numel()) + " signs for a Hadamard matrix of order " + std::to_string(n));
  const at::Tensor signs_N = signs.detach().to(at::kCPU, at::kFloat).reshape({n}).clone();
  if (!signs_N.abs().eq(1).all().item<bool>())
    throw Error(ErrorKind::internal, "signs of a Hadamard matrix are 1 or -1");
  return std::make_shared<Hadamard>(n, k, signs_N);
}

std::shared_ptr<const Orthogonal> random_hadamard(std::int64_t n, std::uint64_t seed) {
  const std::int64_t k = known_order(n);
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const at::Tensor signs_N = at::randint(2, {n}, generator, at::TensorOptions().dtype(at::kFloat)).mul_(2).sub_(1);
  return std::make_shared<Hadamard>(n, k, signs_N, seed);
}

}  // namespace miq::quantizer
