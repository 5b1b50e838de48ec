#include "miq/quantizer/orthogonal.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "miq/core/error.h"

namespace miq::quantizer {
namespace {

class Dense : public Orthogonal {
 public:
  explicit Dense(at::Tensor matrix) : matrix_(std::move(matrix)) {}
  std::int64_t order() const override { return matrix_.size(0); }
  at::Tensor apply(const at::Tensor& x) const override { return at::matmul(x, matrix_.to(x.device()).t()); }
  at::Tensor apply_transposed(const at::Tensor& x) const override { return at::matmul(x, matrix_.to(x.device())); }

 private:
  at::Tensor matrix_;
};

class Kronecker : public Orthogonal {
 public:
  explicit Kronecker(KroneckerFactors factors) : f_(std::move(factors)), p_(f_.first.size(-1)), q_(f_.second.size(-1)) {}
  std::int64_t order() const override { return p_ * q_; }

  at::Tensor apply(const at::Tensor& x) const override {
    at::Tensor z = f_.perm_in.defined() ? x.index_select(-1, f_.perm_in.to(x.device())) : x;
    z = rows(columns(grid(z), f_.first), f_.second).reshape(x.sizes());
    return f_.perm_out.defined() ? z.index_select(-1, f_.perm_out.to(x.device())) : z;
  }

  at::Tensor apply_transposed(const at::Tensor& x) const override {
    at::Tensor z = f_.perm_out.defined() ? x.index_select(-1, f_.perm_out.argsort().to(x.device())) : x;
    z = columns(rows(grid(z), f_.second.transpose(-1, -2)), f_.first.transpose(-1, -2)).reshape(x.sizes());
    return f_.perm_in.defined() ? z.index_select(-1, f_.perm_in.argsort().to(x.device())) : z;
  }

 private:
  at::Tensor grid(const at::Tensor& x) const { return x.reshape({-1, p_, q_}); }
  // [N, p, q]: a p x p rotation of each of the q columns.
  at::Tensor columns(const at::Tensor& z, const at::Tensor& factor) const {
    const at::Tensor m = factor.to(z.device());
    if (m.dim() == 2) return at::matmul(m, z);
    return at::einsum("jab,nbj->naj", {m, z});
  }
  // A q x q rotation of each of the p rows.
  at::Tensor rows(const at::Tensor& z, const at::Tensor& factor) const {
    const at::Tensor m = factor.to(z.device());
    if (m.dim() == 2) return at::matmul(z, m.t());
    return at::einsum("iab,nib->nia", {m, z});
  }
  KroneckerFactors f_;
  std::int64_t p_, q_;
};

// Haar-distributed: the orthogonal factor of a normal matrix, with the signs of R's diagonal taken out.
at::Tensor random_rotation(std::int64_t n, const at::Generator& generator) {
  const at::Tensor normal = at::randn({n, n}, generator, at::TensorOptions().dtype(at::kDouble));
  auto [q, r] = at::linalg_qr(normal);
  return (q * r.diagonal().sign().unsqueeze(0)).to(at::kFloat);
}

}  // namespace

std::shared_ptr<const Orthogonal> make_kronecker(const KroneckerFactors& factors) { return std::make_shared<Kronecker>(factors); }

std::shared_ptr<const Orthogonal> dense_orthogonal(const at::Tensor& matrix) { return std::make_shared<Dense>(matrix); }

std::pair<std::int64_t, std::int64_t> kronecker_shape(std::int64_t n) {
  std::pair<std::int64_t, std::int64_t> shape{1, 1};
  bool even = true;
  for (std::int64_t factor = 2; n > 1; ++factor)
    for (; n % factor == 0; n /= factor, even = !even) (even ? shape.first : shape.second) *= factor;
  return shape;
}

std::shared_ptr<const Orthogonal> random_kronecker(std::int64_t n, std::uint64_t seed) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const auto [p, q] = kronecker_shape(n);
  KroneckerFactors factors;
  factors.perm_in = at::randperm(n, generator, at::TensorOptions().dtype(at::kLong));
  factors.perm_out = at::randperm(n, generator, at::TensorOptions().dtype(at::kLong));
  factors.first = random_rotation(p, generator);
  factors.second = random_rotation(q, generator);
  return make_kronecker(factors);
}

std::shared_ptr<const Orthogonal> random_hadamard(std::int64_t n, std::uint64_t seed) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return signed_hadamard(at::randint(2, {n}, generator, at::TensorOptions().dtype(at::kFloat)) * 2 - 1, n);
}

}  // namespace miq::quantizer
