#include "miq/quantizer/orthogonal.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "miq/core/error.h"
#include "problems.h"

namespace miq::quantizer {
namespace {

using test::normal;
using Matrix = std::shared_ptr<const Orthogonal>;

double largest(const at::Tensor& t) { return t.abs().max().item<double>(); }

// Rows of the identity through apply are the columns of Q.
at::Tensor dense(const Matrix& q, at::ScalarType type = at::kFloat) { return q->apply(at::eye(q->order(), type)).t(); }

// Q Q^T = 1, apply is x Q^T, apply_transposed is x Q and its inverse, for rows of any shape and stride.
void expect_orthogonal(const Matrix& q) {
  const std::int64_t n = q->order();
  SCOPED_TRACE(n);
  const at::Tensor q_NN = dense(q).to(at::kDouble), one = at::eye(n, at::kDouble);
  EXPECT_LT(largest(q_NN.mm(q_NN.t()) - one), 3e-6);
  EXPECT_LT(largest(q->apply_transposed(at::eye(n)).to(at::kDouble) - q_NN), 1e-6);
  const at::Tensor x = normal(6, n, 3), kept = x.clone(), y = q->apply(x);
  EXPECT_LT(largest(y.to(at::kDouble) - x.to(at::kDouble).mm(q_NN.t())), 2e-5);
  EXPECT_LT(largest(q->apply_transposed(y) - x), 2e-5);
  EXPECT_LT(largest(q->apply(q->apply_transposed(x)) - x), 2e-5);
  EXPECT_TRUE(at::equal(x, kept)) << "the input changed";
  EXPECT_TRUE(at::allclose(q->apply(x.view({2, 3, n})), y.view({2, 3, n}), 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(q->apply(x.t().contiguous().t()), y, 1e-5, 1e-6)) << "rows that are not contiguous";
  EXPECT_TRUE(at::allclose(q->apply(x[0]), y[0], 1e-5, 1e-5));
  EXPECT_EQ(q->apply(x.narrow(0, 0, 0)).sizes(), (at::IntArrayRef{0, n}));
}

void expect_error(const std::function<void()>& call, ErrorKind kind, const std::string& text) {
  try {
    call();
    ADD_FAILURE() << "no error; expected '" << text << "'";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    EXPECT_THAT(error.what(), testing::HasSubstr(text));
  }
}

TEST(Orthogonal, KroneckerShapeIsThatOfTheReference) {
  using Pair = std::pair<std::int64_t, std::int64_t>;
  EXPECT_EQ(kronecker_shape(96), (Pair{8, 12}));
  EXPECT_EQ(kronecker_shape(60), (Pair{6, 10}));
  EXPECT_EQ(kronecker_shape(64), (Pair{8, 8}));
  EXPECT_EQ(kronecker_shape(1), (Pair{1, 1}));
  EXPECT_EQ(kronecker_shape(7), (Pair{7, 1}));
  EXPECT_EQ(kronecker_shape(2 * 999983), (Pair{2, 999983}));
  for (std::int64_t n = 1; n < 300; ++n) {
    const auto [p, q] = kronecker_shape(n);
    EXPECT_EQ(p * q, n);
  }
  expect_error([] { kronecker_shape(0); }, ErrorKind::internal, "order 0");
}

TEST(Orthogonal, RandomKroneckerIsOrthogonal) {
  for (const std::int64_t n : {1, 2, 7, 30, 96, 144}) expect_orthogonal(random_kronecker(n, 5));
}

TEST(Orthogonal, KroneckerWithAFactorPerColumnAndRow) {
  const std::int64_t p = 4, q = 6;
  KroneckerFactors factors;
  std::vector<at::Tensor> first, second;
  for (std::int64_t j = 0; j < q; ++j) first.push_back(dense(random_kronecker(p, 10 + j)));
  for (std::int64_t i = 0; i < p; ++i) second.push_back(dense(random_kronecker(q, 50 + i)));
  factors.first = at::stack(first);
  factors.second = at::stack(second);
  expect_orthogonal(make_kronecker(factors));
  // Column j of [p, q] by first[j], then row i by second[i].
  const at::Tensor z = normal(p, q, 8);
  at::Tensor expected = z.clone();
  for (std::int64_t j = 0; j < q; ++j) expected.select(1, j).copy_(first[j].mv(z.select(1, j)));
  for (std::int64_t i = 0; i < p; ++i) expected.select(0, i).copy_(second[i].mv(expected.select(0, i).clone()));
  EXPECT_LT(largest(make_kronecker(factors)->apply(z.view({p * q})) - expected.view({p * q})), 1e-5);
  factors.perm_in = at::arange(p * q).flip(0).to(at::kInt);
  expect_orthogonal(make_kronecker(factors));
  EXPECT_LT(largest(make_kronecker(factors)->apply(z.view({p * q}).flip(0)) - expected.view({p * q})), 1e-5);
}

TEST(Orthogonal, FactorsThatDoNotAgreeAreErrors) {
  KroneckerFactors factors{at::Tensor(), at::Tensor(), at::eye(4), at::eye(6)};
  factors.perm_in = at::arange(23);
  expect_error([&] { make_kronecker(factors); }, ErrorKind::internal, "order 24");
  factors.perm_in = at::zeros({24}, at::kLong);
  expect_error([&] { make_kronecker(factors); }, ErrorKind::internal, "no permutation");
  factors.perm_in = at::Tensor();
  factors.first = at::eye(4).expand({5, 4, 4});
  expect_error([&] { make_kronecker(factors); }, ErrorKind::internal, "do not agree");
  expect_error([] { dense_orthogonal(at::ones({2, 3})); }, ErrorKind::internal, "square");
}

// A seed stands for: the permutation in, the one out, then the factors. n prime: one factor.
at::Tensor rotation_of(std::int64_t n, std::uint64_t seed) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const at::Tensor in = at::randperm(n, generator, at::TensorOptions().dtype(at::kLong));
  const at::Tensor out = at::randperm(n, generator, at::TensorOptions().dtype(at::kLong));
  return dense(random_kronecker(n, seed)).index_select(0, out.argsort()).index_select(1, in).to(at::kDouble);
}

TEST(Orthogonal, RandomRotationsAreProperAndUniform) {
  double trace = 0, squared_trace = 0, square = 0;
  constexpr int kDraws = 2000;
  for (int seed = 0; seed < kDraws; ++seed) {
    const at::Tensor r = rotation_of(3, seed);
    ASSERT_NEAR(at::linalg_det(r).item<double>(), 1, 1e-5) << seed;
    const double t = r.trace().item<double>();
    trace += t / kDraws;
    squared_trace += t * t / kDraws;
    square += r.square()[0][2].item<double>() / kDraws;
  }
  EXPECT_NEAR(trace, 0, 0.1);  // the moments of SO(3), within four standard errors or more
  EXPECT_NEAR(squared_trace, 1, 0.16);
  EXPECT_NEAR(square, 1.0 / 3, 0.03);
  for (const std::int64_t n : {2, 5, 31}) EXPECT_NEAR(at::linalg_det(rotation_of(n, 1)).item<double>(), 1, 1e-5);
}

TEST(Orthogonal, SeedsReproduceAndLeaveTheGlobalGeneratorAlone) {
  at::manual_seed(1);
  const at::Tensor expected = at::randn({4});
  at::manual_seed(1);
  const at::Tensor kronecker = dense(random_kronecker(48, 9)), signs = dense(random_hadamard(48, 9));
  EXPECT_TRUE(at::equal(at::randn({4}), expected));
  EXPECT_TRUE(at::equal(dense(random_kronecker(48, 9)), kronecker));
  EXPECT_TRUE(at::equal(dense(random_hadamard(48, 9)), signs));
  EXPECT_FALSE(at::equal(dense(random_kronecker(48, 10)), kronecker));
  EXPECT_FALSE(at::equal(dense(random_hadamard(48, 10)), signs));
}

TEST(Orthogonal, Dense) {
  const at::Tensor q = dense(random_kronecker(40, 2));
  expect_orthogonal(dense_orthogonal(q));
  EXPECT_LT(largest(dense(dense_orthogonal(q)) - q), 1e-6);
}

TEST(Orthogonal, BlockDiagonal) {
  const at::Tensor block = dense(random_kronecker(12, 3)).contiguous();
  for (const std::int64_t n : {12, 60}) {
    expect_orthogonal(block_diagonal(block, n));
    EXPECT_LT(largest(dense(block_diagonal(block, n)) - at::kron(at::eye(n / 12), block)), 1e-6);
  }
  expect_error([&] { block_diagonal(block, 30); }, ErrorKind::internal, "of order 30");
  expect_error([] { block_diagonal(at::ones({2, 3}), 6); }, ErrorKind::internal, "square");
}

TEST(Orthogonal, PartsMakeTheSameMatrixAgain) {
  KroneckerFactors bare{at::Tensor(), at::Tensor(), dense(random_kronecker(4, 1)), dense(random_kronecker(6, 2))};
  KroneckerFactors permuted = bare;
  permuted.perm_in = at::arange(24).flip(0);
  permuted.perm_out = at::arange(24).roll(5).to(at::kInt);
  const at::Tensor signs = at::where(normal(1, 24, 3)[0] < 0, -1.0, 1.0), block = dense(random_kronecker(8, 4));
  const std::map<std::string, std::vector<Matrix>> all = {
      {"kronecker", {make_kronecker(bare), make_kronecker(permuted)}},
      {"hadamard", {hadamard(24), hadamard(160, 20), hadamard(160), signed_hadamard(signs, 24)}},
      {"dense", {dense_orthogonal(block), dense_orthogonal(block.to(at::kDouble))}},
      {"block_diagonal", {block_diagonal(block, 24)}},
      {"random_kronecker", {random_kronecker(24, 7), random_kronecker(24, ~0ull)}},
      {"random_hadamard", {random_hadamard(24, 7), random_hadamard(24, ~0ull)}},
  };
  for (const auto& [kind, matrices] : all)
    for (const Matrix& q : matrices) {
      SCOPED_TRACE(kind);
      const OrthogonalParts parts = q->parts();
      EXPECT_EQ(parts.kind, kind);
      EXPECT_EQ(parts.order, q->order());
      OrthogonalParts copy = parts;  // stored and read
      for (auto& [name, tensor] : copy.tensors) tensor = tensor.clone();
      const Matrix again = make_orthogonal(copy);
      const at::Tensor x = normal(5, q->order(), 6);
      EXPECT_TRUE(at::equal(again->apply(x), q->apply(x)));
      EXPECT_TRUE(at::equal(again->apply_transposed(x), q->apply_transposed(x)));
      for (const auto& [name, tensor] : again->parts().tensors) EXPECT_TRUE(at::equal(tensor, parts.tensors.at(name))) << name;
    }
}

TEST(Orthogonal, PartsThatMakeNoMatrixAreErrors) {
  const auto refused = [](const OrthogonalParts& parts, const std::string& text, ErrorKind kind = ErrorKind::io) {
    expect_error([&] { make_orthogonal(parts); }, kind, text);
  };
  const at::Tensor seed = at::scalar_tensor(1, at::kLong);
  refused({"householder", 4, {}}, "is not known");
  refused({"dense", 4, {}}, "no part 'matrix'");
  refused({"dense", 5, {{"matrix", at::eye(4)}}}, "of order 4, not 5");
  refused({"dense", 0, {{"matrix", at::eye(4)}}}, "has order 0");
  refused({"dense", 4, {{"matrix", at::ones({4})}}}, "no matrix");
  refused({"dense", 4, {{"matrix", at::ones({4, 4}, at::kInt)}}}, "floating-point");
  refused({"block_diagonal", 30, {{"block", at::eye(4)}}}, "of order 30");
  refused({"kronecker", 24, {{"first", at::eye(4)}, {"second", at::eye(6)}, {"perm_in", at::zeros({24}, at::kLong)}}}, "no permutation");
  refused({"kronecker", 24, {{"first", at::eye(4)}}}, "no part 'second'");
  refused({"hadamard", 24, {}}, "no part 'k'");
  refused({"hadamard", 24, {{"k", at::scalar_tensor(-12, at::kLong)}}}, "K = -12");
  refused({"hadamard", 24, {{"signs", at::ones({12})}}}, "12 signs");
  refused({"hadamard", 44, {{"signs", at::ones({44})}}}, "order 44", ErrorKind::unsupported);
  refused({"random_hadamard", 44, {{"seed", seed}}}, "order 44", ErrorKind::unsupported);
  refused({"random_hadamard", 24, {{"seed", at::ones({2}, at::kLong)}}}, "not one int64");
  refused({"random_kronecker", 24, {{"seed", at::ones({})}}}, "not one int64");
}

TEST(Orthogonal, RowsThatDoNotFitAreErrors) {
  for (const Matrix& q : {hadamard(24), random_kronecker(24, 1), dense_orthogonal(at::eye(24)), block_diagonal(at::eye(6), 24)}) {
    expect_error([&] { q->apply(at::ones({2, 48})); }, ErrorKind::internal, "rows of 48");
    expect_error([&] { q->apply_transposed(at::ones({24, 2})); }, ErrorKind::internal, "rows of 2 ");
    expect_error([&] { q->apply(at::ones({24}, at::kBFloat16)); }, ErrorKind::internal, "BFloat16");
  }
}

TEST(Hadamard, EveryTableIsOrthogonal) {
  for (const std::int64_t k : {1, 12, 20, 28, 36, 40, 52, 60, 108, 116, 124, 140, 156, 172}) {
    const at::Tensor h = hadamard_matrix(k);
    EXPECT_TRUE(at::equal(h.mm(h.t()), at::eye(k) * k)) << k;
    EXPECT_TRUE(at::equal(h.abs(), at::ones({k, k}))) << k;
    EXPECT_EQ(hadamard_order(k), k);
  }
  expect_error([] { hadamard_matrix(44); }, ErrorKind::unsupported, "order 44");
}

TEST(Hadamard, OrdersAreTriedAsInQuaRot) {
  EXPECT_EQ(hadamard_order(160), 40);
  EXPECT_EQ(hadamard_order(80), 40);
  EXPECT_EQ(hadamard_order(20), 20);
  EXPECT_EQ(hadamard_order(576), 36);
  EXPECT_EQ(hadamard_order(1536), 12);
  EXPECT_EQ(hadamard_order(4096), 1);
  EXPECT_EQ(hadamard_order(11008), 172);
  EXPECT_EQ(hadamard_order(13824), 108);
  EXPECT_EQ(hadamard_order(14336), 28);
  EXPECT_EQ(hadamard_order(248), 124);
  EXPECT_EQ(hadamard_order(232), 116);
  for (const std::int64_t n : {-4, 0, 3, 9, 44, 72 * 9, 18944}) {
    EXPECT_EQ(hadamard_order(n), 0) << n;
    EXPECT_FALSE(has_hadamard(n)) << n;
  }
}

TEST(Hadamard, AnOrderWithoutOneIsAnError) {
  const auto text = "there is no known Hadamard matrix of order 44";
  expect_error([] { hadamard(44); }, ErrorKind::unsupported, text);
  expect_error([] { random_hadamard(44, 1); }, ErrorKind::unsupported, text);
  expect_error([] { signed_hadamard(at::ones({44}), 44); }, ErrorKind::unsupported, text);
  expect_error([] { hadamard(44); }, ErrorKind::unsupported, "orthogonal: kronecker");
  expect_error([] { hadamard(0); }, ErrorKind::unsupported, "order 0");
  expect_error([] { hadamard(160, 12); }, ErrorKind::unsupported, "160 is not 12 times");
  expect_error([] { hadamard(88, 44); }, ErrorKind::unsupported, "order 44");
  expect_error([] { signed_hadamard(at::ones({12}), 24); }, ErrorKind::internal, "12 signs");
  expect_error([] { signed_hadamard(at::zeros({24}), 24); }, ErrorKind::internal, "1 or -1");
}

// The definition: kron(had_K, Sylvester) / sqrt(n).
at::Tensor definition(std::int64_t n, std::int64_t k) {
  at::Tensor h = at::ones({1, 1}, at::kDouble);
  const at::Tensor two = at::ones({2, 2}, at::kDouble);
  two[1][1] = -1;
  for (std::int64_t order = k; order < n; order *= 2) h = at::kron(two, h);
  return at::kron(hadamard_matrix(k).to(at::kDouble), h) / std::sqrt(static_cast<double>(n));
}

TEST(Hadamard, EqualsItsDefinition) {
  for (const std::int64_t n : {1, 2, 4, 8, 16, 32, 64, 256, 1024, 12, 24, 48, 96, 192, 384, 160, 576, 172, 344, 496}) {
    const at::Tensor expected = definition(n, hadamard_order(n));
    EXPECT_LT(largest(dense(hadamard(n)) - expected), 1e-7) << n;
    EXPECT_LT(largest(dense(hadamard(n), at::kDouble) - expected), 1e-15) << n << ", float64";
  }
  EXPECT_LT(largest(dense(hadamard(160, 20)) - definition(160, 20)), 1e-7);
  EXPECT_LT(largest(dense(hadamard(64, 1)) - definition(64, 1)), 1e-7);
}

TEST(Hadamard, IsOrthogonal) {
  for (const std::int64_t n : {1, 2, 4, 12, 24, 40, 64, 96, 160, 172, 248, 512, 576}) {
    expect_orthogonal(hadamard(n));
    expect_orthogonal(random_hadamard(n, 4));
  }
}

TEST(Hadamard, SignsComeFirst) {
  for (const std::int64_t n : {2, 24, 64, 160}) {
    const at::Tensor signs = at::where(normal(1, n, 11)[0] < 0, -1.0, 1.0).to(at::kFloat), x = normal(5, n, 12);
    const Matrix q = signed_hadamard(signs, n), plain = hadamard(n);
    EXPECT_TRUE(at::allclose(q->apply(x), plain->apply(x * signs), 1e-6, 1e-6)) << n;
    EXPECT_TRUE(at::allclose(q->apply_transposed(x), plain->apply_transposed(x) * signs, 1e-6, 1e-6)) << n;
    EXPECT_TRUE(at::allclose(q->apply(x.to(at::kDouble)), q->apply(x).to(at::kDouble), 1e-5, 1e-5)) << n;
  }
  const at::Tensor q = dense(random_hadamard(64, 3)) * 8;
  EXPECT_LT(std::abs(q[0].sum().item<double>()), 40) << "seeded signs are mixed";
}

TEST(Hadamard, ManyRowsAndThreads) {
  const Matrix q = random_hadamard(576, 6);
  const at::Tensor x = normal(700, 576, 7), expected = x.mm(dense(q).t());
  EXPECT_LT(largest(q->apply(x) - expected), 2e-5);
  std::vector<at::Tensor> out(4);
  std::vector<std::thread> threads;
  for (at::Tensor& y : out) threads.emplace_back([&] { y = q->apply_transposed(q->apply(x)); });
  for (std::thread& t : threads) t.join();
  for (const at::Tensor& y : out) EXPECT_LT(largest(y - x), 2e-5);
}

}  // namespace
}  // namespace miq::quantizer
