// Dense and block-diagonal orthogonal matrices and QuIP's Kronecker-factored ones.
#include "miq/quantizer/orthogonal.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <optional>

#include "miq/core/error.h"
#include "orthogonal_input.h"

namespace miq::quantizer {
namespace {

class Dense : public Orthogonal {
 public:
  explicit Dense(at::Tensor matrix_NN) : matrix_NN_(std::move(matrix_NN)) {}
  std::int64_t order() const override { return matrix_NN_.size(0); }
  at::Tensor apply(const at::Tensor& x) const override {
    check_rows(x, order());
    return at::matmul(x, matrix_NN_.to(x.options()).t());
  }
  at::Tensor apply_transposed(const at::Tensor& x) const override {
    check_rows(x, order());
    return at::matmul(x, matrix_NN_.to(x.options()));
  }
  OrthogonalParts parts() const override { return {"dense", order(), {{"matrix", matrix_NN_}}}; }

 private:
  at::Tensor matrix_NN_;
};

class BlockDiagonal : public Orthogonal {
 public:
  BlockDiagonal(at::Tensor block_BB, std::int64_t n) : block_BB_(std::move(block_BB)), n_(n) {}
  std::int64_t order() const override { return n_; }
  at::Tensor apply(const at::Tensor& x) const override { return multiply(x, block_BB_.t()); }
  at::Tensor apply_transposed(const at::Tensor& x) const override { return multiply(x, block_BB_); }
  OrthogonalParts parts() const override { return {"block_diagonal", n_, {{"block", block_BB_}}}; }

 private:
  at::Tensor multiply(const at::Tensor& x, const at::Tensor& factor) const {
    check_rows(x, n_);
    return at::matmul(x.reshape({x.numel() / block_BB_.size(0), block_BB_.size(0)}), factor.to(x.options())).reshape(x.sizes());
  }

  at::Tensor block_BB_;
  std::int64_t n_;
};

class Kronecker : public Orthogonal {
 public:
  explicit Kronecker(const KroneckerFactors& f, std::optional<std::uint64_t> seed = std::nullopt)
      : p_(f.first.size(-1)),
        q_(f.second.size(-1)),
        first_(f.first),
        second_(f.second),
        in_(permutation(f.perm_in)),
        out_(permutation(f.perm_out)),
        seed_(seed) {}
  std::int64_t order() const override { return p_ * q_; }

  at::Tensor apply(const at::Tensor& x) const override {
    check_rows(x, order());
    const at::Tensor z_RPQ = permuted(x, in_.forward_N).reshape({-1, p_, q_});
    return permuted(rotate_rows(rotate_columns(z_RPQ, first_), second_).reshape(x.sizes()), out_.forward_N);
  }

  at::Tensor apply_transposed(const at::Tensor& x) const override {
    check_rows(x, order());
    const at::Tensor z_RPQ = permuted(x, out_.inverse_N).reshape({-1, p_, q_});
    const at::Tensor turned_RPQ =
        rotate_columns(rotate_rows(z_RPQ, second_.transpose(-1, -2)), first_.transpose(-1, -2));
    return permuted(turned_RPQ.reshape(x.sizes()), in_.inverse_N);
  }

  OrthogonalParts parts() const override {
    if (seed_) return {"random_kronecker", order(), {{"seed", seed_tensor(*seed_)}}};
    OrthogonalParts parts{"kronecker", order(), {{"first", first_}, {"second", second_}}};
    if (in_.forward_N.defined()) parts.tensors["perm_in"] = in_.forward_N;
    if (out_.forward_N.defined()) parts.tensors["perm_out"] = out_.forward_N;
    return parts;
  }

 private:
  // Both undefined: the identity.
  struct Permutation {
    at::Tensor forward_N, inverse_N;
  };

  static Permutation permutation(const at::Tensor& perm) {
    if (!perm.defined()) return {};
    const at::Tensor forward_N = perm.to(at::kCPU, at::kLong);
    return {forward_N, forward_N.argsort()};
  }
  static at::Tensor permuted(const at::Tensor& x, const at::Tensor& index_N) {
    return index_N.defined() ? x.index_select(-1, index_N.to(x.device())) : x;
  }

  // Every column c of [p, q] becomes factor c; factor [p, p] or one of [q, p, p] per column.
  static at::Tensor rotate_columns(const at::Tensor& z_RPQ, const at::Tensor& factor) {
    const at::Tensor m = factor.to(z_RPQ.options());
    if (m.dim() == 2) return at::matmul(m, z_RPQ);
    return at::bmm(z_RPQ.permute({2, 0, 1}), m.transpose(1, 2)).permute({1, 2, 0});
  }
  // Every row r becomes factor r; factor [q, q] or one of [p, q, q] per row.
  static at::Tensor rotate_rows(const at::Tensor& z_RPQ, const at::Tensor& factor) {
    const at::Tensor m = factor.to(z_RPQ.options());
    if (m.dim() == 2) return at::matmul(z_RPQ, m.t());
    return at::bmm(z_RPQ.permute({1, 0, 2}), m.transpose(1, 2)).permute({1, 0, 2});
  }

  std::int64_t p_, q_;
  at::Tensor first_, second_;
  Permutation in_, out_;
  std::optional<std::uint64_t> seed_;
};

void require(bool holds, const std::string& what) {
  if (!holds) throw Error(ErrorKind::internal, what);
}

bool is_square_factor(const at::Tensor& t, std::int64_t batch) {
  return t.size(-1) == t.size(-2) && (t.dim() == 2 || t.size(0) == batch);
}

void check_permutation(const at::Tensor& perm, std::int64_t n) {
  if (!perm.defined()) return;
  require(perm.dim() == 1 && perm.size(0) == n && !perm.is_floating_point(),
          "a permutation of Kronecker factors is not of order " + std::to_string(n));
  require(at::equal(std::get<0>(perm.to(at::kCPU, at::kLong).sort()), at::arange(n)),
          "the indices of Kronecker factors are no permutation");
}

// Haar-distributed on SO(n): the Q of a normal matrix with a positive diagonal of R is Haar on O(n);
// one column of the reflections is turned round. In float64.
at::Tensor random_rotation_NN(std::int64_t n, const at::Generator& generator) {
  const at::Tensor normal_NN = at::randn({n, n}, generator, at::TensorOptions().dtype(at::kDouble));
  const auto [q_NN, r_NN] = at::linalg_qr(normal_NN);
  at::Tensor rotation_NN = q_NN * at::where(r_NN.diagonal() < 0, -1.0, 1.0);
  if (at::linalg_det(rotation_NN).item<double>() < 0) rotation_NN.select(1, 0).neg_();
  return rotation_NN.to(at::kFloat);
}

}  // namespace

std::shared_ptr<const Orthogonal> dense_orthogonal(const at::Tensor& matrix) {
  require(matrix.defined() && matrix.dim() == 2 && matrix.size(0) == matrix.size(1), "an orthogonal matrix is square");
  return std::make_shared<Dense>(matrix);
}

std::shared_ptr<const Orthogonal> block_diagonal(const at::Tensor& block, std::int64_t n) {
  require(block.defined() && block.dim() == 2 && block.size(0) == block.size(1) && block.size(0) > 0, "a block of an orthogonal matrix is square");
  require(n > 0 && n % block.size(0) == 0,
          "blocks of order " + std::to_string(block.size(0)) + " make no matrix of order " + std::to_string(n));
  return std::make_shared<BlockDiagonal>(block.contiguous(), n);
}

std::shared_ptr<const Orthogonal> make_kronecker(const KroneckerFactors& factors) {
  const at::Tensor &first = factors.first, &second = factors.second;
  require(first.defined() && second.defined() && (first.dim() == 2 || first.dim() == 3) &&
              (second.dim() == 2 || second.dim() == 3),
          "Kronecker factors are matrices, or one matrix per column or row");
  const std::int64_t p = first.size(-1), q = second.size(-1);
  require(is_square_factor(first, q) && is_square_factor(second, p), "the shapes of Kronecker factors do not agree");
  check_permutation(factors.perm_in, p * q);
  check_permutation(factors.perm_out, p * q);
  return std::make_shared<Kronecker>(factors);
}

std::pair<std::int64_t, std::int64_t> kronecker_shape(std::int64_t n) {
  require(n > 0, "a matrix of order " + std::to_string(n) + " is none");
  std::int64_t p = 1, q = 1;
  bool even = true;
  for (std::int64_t prime = 2; n > 1; ++prime) {
    if (prime * prime > n) prime = n;
    for (; n % prime == 0; n /= prime, even = !even) (even ? p : q) *= prime;
  }
  return {p, q};
}

std::shared_ptr<const Orthogonal> random_kronecker(std::int64_t n, std::uint64_t seed) {
  const auto [p, q] = kronecker_shape(n);
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  KroneckerFactors factors;
  factors.perm_in = at::randperm(n, generator, at::TensorOptions().dtype(at::kLong));
  factors.perm_out = at::randperm(n, generator, at::TensorOptions().dtype(at::kLong));
  factors.first = random_rotation_NN(p, generator);
  factors.second = random_rotation_NN(q, generator);
  return std::make_shared<Kronecker>(factors, seed);
}

}  // namespace miq::quantizer
