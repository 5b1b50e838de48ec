// Hadamard matrices of the orders QuaRot and QuIP# use, made by their constructions (Paley, Williamson;
// they equal Sloane's tables, which both take), and the fast product.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <array>
#include <cmath>
#include <map>

#include "miq/core/error.h"
#include "miq/quantizer/orthogonal.h"

namespace miq::quantizer {
namespace {

// In the order in which they are tried (QuaRot hadamard_utils.py:get_hadK, then QuIP#'s other two).
constexpr std::array<std::int64_t, 13> kOrders = {172, 156, 140, 108, 60, 52, 36, 28, 40, 20, 12, 124, 116};

// The Legendre symbol of a modulo the prime p.
int legendre(std::int64_t a, std::int64_t p) {
  a = (a % p + p) % p;
  if (a == 0) return 0;
  for (std::int64_t x = 1; x <= p / 2; ++x)
    if (x * x % p == a) return 1;
  return -1;
}

// Jacobsthal matrix Q_ij = (j - i | p), [p, p].
at::Tensor jacobsthal(std::int64_t p) {
  at::Tensor q = at::empty({p, p}, at::kFloat);
  auto view = q.accessor<float, 2>();
  for (std::int64_t i = 0; i < p; ++i)
    for (std::int64_t j = 0; j < p; ++j) view[i][j] = static_cast<float>(legendre(j - i, p));
  return q;
}

// Order p + 1, p = 3 mod 4.
at::Tensor paley_first(std::int64_t p) {
  at::Tensor h = at::ones({p + 1, p + 1}, at::kFloat);
  h[0].narrow(0, 1, p).fill_(-1);
  h.narrow(0, 1, p).narrow(1, 1, p).copy_(at::eye(p) - jacobsthal(p));
  return h;
}

// Order 2 (p + 1), p = 1 mod 4, from the conference matrix S.
at::Tensor paley_second(std::int64_t p) {
  at::Tensor s = at::ones({p + 1, p + 1}, at::kFloat);
  s[0][0] = 0;
  s.narrow(0, 1, p).narrow(1, 1, p).copy_(jacobsthal(p));
  const at::Tensor one = at::eye(p + 1);
  return at::cat({at::cat({s + one, s - one}, 1), at::cat({s - one, -s - one}, 1)}, 0);
}

// The circulant matrix of a first row of '+' and '-'.
at::Tensor circulant(const char* row) {
  const auto n = static_cast<std::int64_t>(std::char_traits<char>::length(row));
  at::Tensor c = at::empty({n, n}, at::kFloat);
  auto view = c.accessor<float, 2>();
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) view[i][j] = row[(j - i + n) % n] == '+' ? 1.0f : -1.0f;
  return c;
}

at::Tensor williamson(const std::array<const char*, 4>& rows) {
  const at::Tensor a = circulant(rows[0]), b = circulant(rows[1]), c = circulant(rows[2]), d = circulant(rows[3]);
  return at::cat({at::cat({a, b, c, d}, 1), at::cat({-b, a, -d, c}, 1), at::cat({-c, d, a, -b}, 1), at::cat({-d, -c, b, a}, 1)}, 0);
}

const std::map<std::int64_t, std::array<const char*, 4>> kWilliamson = {
    {52, {"+-+--++++--+-", "+---++++++---", "++-+--++--+-+", "+----+--+----"}},
    {116, {"++--+--+-+++-++++-+++-+--+--+", "++++-++-+---++++++---+-++-+++", "+-+---++--+-++++++-+--++---+-", "+++---++--+-+----+-+--++---++"}},
    {124, {"+--+++-+--+----++----+--+-+++--", "+--+++-+--+----++----+--+-+++--", "+-----+++-+-+--++--+-+-+++-----", "++++++---+-+-++--++-+-+---+++++"}},
    {156, {"+++--+-+-----+--++----++--+-----+-+--++", "++++---+--++----+-+--+-+----++--+---+++", "+++--++-+---+-+--+----+--+-+---+-++--++",
           "+---++-+-+-----+++-++-+++-----+-+-++---"}},
    {172, {"+---++--++++-+-+++-++--++-+++-+-++++--++---", "++-++++++----+-+--++-++-++--+-+----++++++-+", "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++",
           "++---++++-+--+--++--------++--+--+-++++---+"}}};

at::Tensor make_matrix(std::int64_t k) {
  if (k == 1) return at::ones({1, 1}, at::kFloat);
  if (k == 28) return paley_second(13);
  if (k == 36) return paley_second(17);
  if (k == 40) {
    const at::Tensor half = paley_first(19);
    return at::cat({at::cat({half, half}, 1), at::cat({half, -half}, 1)}, 0);
  }
  if (const auto found = kWilliamson.find(k); found != kWilliamson.end()) return williamson(found->second);
  return paley_first(k - 1);  // 12, 20, 60, 108, 140
}

bool is_power_of_two(std::int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

// Each stretch of `width` (a power of two) of each row through the Sylvester matrix, in place.
void sylvester(float* rows, std::int64_t stretches, std::int64_t width) {
  at::parallel_for(0, stretches, std::max<std::int64_t>(1, 16384 / width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t s = begin; s < end; ++s) {
      float* const x = rows + s * width;
      for (std::int64_t half = 1; half < width; half *= 2)
        for (std::int64_t at = 0; at < width; at += 2 * half)
#pragma omp simd
          for (std::int64_t i = at; i < at + half; ++i) {
            const float a = x[i], b = x[i + half];
            x[i] = a + b;
            x[i + half] = a - b;
          }
    }
  });
}

class Hadamard : public Orthogonal {
 public:
  Hadamard(std::int64_t n, std::int64_t k, at::Tensor signs) : n_(n), k_(k), matrix_(hadamard_matrix(k)), signs_(std::move(signs)) {}
  std::int64_t order() const override { return n_; }
  at::Tensor apply(const at::Tensor& x) const override { return multiply(signs_.defined() ? x * signs_ : x.clone(), matrix_); }
  at::Tensor apply_transposed(const at::Tensor& x) const override {
    const at::Tensor y = multiply(x.clone(), matrix_.t());
    return signs_.defined() ? y * signs_ : y;
  }

 private:
  // x is its own copy. The Sylvester part is symmetric.
  at::Tensor multiply(at::Tensor x, const at::Tensor& matrix) const {
    const std::int64_t width = n_ / k_;
    const at::Device device = x.device();
    x = x.to(at::kCPU, at::kFloat).contiguous();
    sylvester(x.mutable_data_ptr<float>(), x.numel() / width, width);
    if (k_ > 1) x = at::matmul(matrix, x.view({-1, k_, width})).reshape(x.sizes());
    return x.mul_(1 / std::sqrt(static_cast<double>(n_))).to(device);
  }
  std::int64_t n_, k_;
  at::Tensor matrix_, signs_;
};

}  // namespace

std::int64_t hadamard_order(std::int64_t n) {
  for (const std::int64_t k : kOrders)
    if (n % k == 0 && is_power_of_two(n / k)) return k;
  return is_power_of_two(n) ? 1 : 0;
}

bool has_hadamard(std::int64_t n) { return hadamard_order(n) > 0; }

at::Tensor hadamard_matrix(std::int64_t k) {
  if (k != 1 && std::find(kOrders.begin(), kOrders.end(), k) == kOrders.end())
    throw Error(ErrorKind::unsupported, "no Hadamard matrix of order " + std::to_string(k) + " is known here");
  return make_matrix(k);
}

std::shared_ptr<const Orthogonal> hadamard(std::int64_t n, std::int64_t k) {
  if (k == 0) return signed_hadamard(at::Tensor(), n);
  if (n % k != 0 || !is_power_of_two(n / k)) throw Error(ErrorKind::unsupported, "no Hadamard matrix of order " + std::to_string(n) + " has the factor " + std::to_string(k));
  return std::make_shared<Hadamard>(n, k, at::Tensor());
}

std::shared_ptr<const Orthogonal> signed_hadamard(const at::Tensor& signs, std::int64_t n) {
  const std::int64_t order = signs.defined() ? signs.numel() : n, k = hadamard_order(order);
  if (k == 0)
    throw Error(ErrorKind::unsupported, "there is no known Hadamard matrix of order " + std::to_string(order), "",
                "use orthogonal: kronecker, which exists for every order");
  return std::make_shared<Hadamard>(order, k, signs);
}

}  // namespace miq::quantizer
