// Orthogonal matrices that are cheap to apply and to store: QuIP's Kronecker-factored random rotations
// and (randomised) Hadamard matrices. Shapes: n the matrix's order, p * q = n its factors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

namespace miq::quantizer {

/// All that a matrix is made of, to be stored and made again: seeds where it came from one.
///   kronecker: first, second, perm_in, perm_out (see KroneckerFactors)   hadamard: k, or signs
///   dense: matrix   block_diagonal: block   random_kronecker, random_hadamard: seed (int64, the bits of the uint64)
struct OrthogonalParts {
  std::string kind;
  std::int64_t order = 0;
  std::map<std::string, at::Tensor> tensors;
};

class Orthogonal {
 public:
  virtual ~Orthogonal() = default;
  virtual std::int64_t order() const = 0;
  /// x [..., n] float32 -> every row r of x becomes Q r.
  virtual at::Tensor apply(const at::Tensor& x) const = 0;
  /// Every row r of x becomes Q^T r.
  virtual at::Tensor apply_transposed(const at::Tensor& x) const = 0;
  virtual OrthogonalParts parts() const = 0;
};

/// The matrix that gave these parts, equal to the last bit of its products. Compare `order` with what it is applied to first:
/// a seeded matrix takes memory that grows with it. @throws Error{io} for parts that make no matrix, Error{unsupported} as hadamard.
std::shared_ptr<const Orthogonal> make_orthogonal(const OrthogonalParts& parts);

/// QuIP's factors (method.py:gen_rand_ortho_butterfly*): x -> x[perm_in], reshaped to [p, q]; a p x p
/// rotation of each of the q columns; a q x q rotation of each of the p rows; -> [perm_out].
struct KroneckerFactors {
  at::Tensor perm_in, perm_out;  ///< int64 [n]; undefined: identity
  at::Tensor first;   ///< [q, p, p], one per column, or [p, p] for all
  at::Tensor second;  ///< [p, q, q], one per row, or [q, q] for all
};

std::shared_ptr<const Orthogonal> make_kronecker(const KroneckerFactors& factors);

/// p and q for n: prime factors ascending, p = the product of those at even positions (96 -> 8, 12).
std::pair<std::int64_t, std::int64_t> kronecker_shape(std::int64_t n);

/// Seeded random factors: Haar-distributed rotations, shared by all columns (rows), and permutations.
std::shared_ptr<const Orthogonal> random_kronecker(std::int64_t n, std::uint64_t seed);

/// A = kron(had_K, Sylvester_{n/K}) / sqrt(n), K in 1, 12, 20, 28, ... (QuaRot hadamard_utils.py, whose
/// had_K is used; k: 0, or a K that is wanted). @throws Error{unsupported} when n has no such factorisation:
/// ask has_hadamard(n).
std::shared_ptr<const Orthogonal> hadamard(std::int64_t n, std::int64_t k = 0);
bool has_hadamard(std::int64_t n);
/// K of the factorisation; 0: none. A power of two has K = 1.
std::int64_t hadamard_order(std::int64_t n);
/// had_K, entries +-1, float32 [K, K].
at::Tensor hadamard_matrix(std::int64_t k);

/// r -> A (signs * r): the randomised Hadamard transform. `signs`: +-1, float32 [n]; undefined: none.
std::shared_ptr<const Orthogonal> signed_hadamard(const at::Tensor& signs, std::int64_t n);
/// With seeded signs.
std::shared_ptr<const Orthogonal> random_hadamard(std::int64_t n, std::uint64_t seed);

/// Any orthogonal matrix, [n, n].
std::shared_ptr<const Orthogonal> dense_orthogonal(const at::Tensor& matrix);
/// One orthogonal matrix, [b, b], for each b consecutive elements: kron(1_{n/b}, block). b divides n.
std::shared_ptr<const Orthogonal> block_diagonal(const at::Tensor& block, std::int64_t n);

}  // namespace miq::quantizer
