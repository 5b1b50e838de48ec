// had_K of QuaRot and QuIP# (Sloane's library), made by their constructions instead of stored.
#include <ATen/ATen.h>

#include <array>
#include <string>
#include <string_view>

#include "miq/core/error.h"
#include "miq/quantizer/orthogonal.h"

namespace miq::quantizer {
namespace {

// In the order in which they are tried: QuaRot's get_hadK, then the two that only QuIP# has.
constexpr std::array<std::int64_t, 13> kOrders = {172, 156, 140, 108, 60, 52, 36, 28, 40, 20, 12, 124, 116};

bool is_power_of_two(std::int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

// Jacobsthal matrix, entry i, j the Legendre symbol (j - i | p) of the odd prime p.
at::Tensor jacobsthal_PP(std::int64_t p) {
  std::vector<float> symbol(p, -1.0f);
  symbol[0] = 0;
  for (std::int64_t a = 1; a < p; ++a) symbol[a * a % p] = 1;
  at::Tensor q_PP = at::empty({p, p}, at::kFloat);
  float* out = q_PP.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < p; ++i)
    for (std::int64_t j = 0; j < p; ++j) *out++ = symbol[(j - i + p) % p];
  return q_PP;
}

// [[a, b], [c, d]]
at::Tensor blocks(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, const at::Tensor& d) {
  return at::cat({at::cat({a, b}, 1), at::cat({c, d}, 1)}, 0);
}

// Paley's first construction: order p + 1 for a prime p = 3 mod 4.
at::Tensor paley_one(std::int64_t p) {
  const at::Tensor column = at::ones({p, 1}, at::kFloat);
  return blocks(at::ones({1, 1}, at::kFloat), -column.t(), column, at::eye(p, at::kFloat) - jacobsthal_PP(p));
}

// Paley's second construction: order 2 (p + 1) for a prime p = 1 mod 4, from a conference matrix.
at::Tensor paley_two(std::int64_t p) {
  const at::Tensor column = at::ones({p, 1}, at::kFloat), one = at::eye(p + 1, at::kFloat);
  const at::Tensor conference = blocks(at::zeros({1, 1}, at::kFloat), column.t(), column, jacobsthal_PP(p));
  return blocks(conference + one, conference - one, conference - one, -conference - one);
}

at::Tensor doubled(const at::Tensor& h) { return blocks(h, h, h, -h); }

// First rows of Williamson's four symmetric circulant blocks.
struct Williamson {
  std::int64_t order;
  std::array<std::string_view, 4> rows;
};

constexpr std::array<Williamson, 5> kWilliamson = {{
    {52, {"+-+--++++--+-", "+---++++++---", "++-+--++--+-+", "+----+--+----"}},
    {116,
     {"++--+--+-+++-++++-+++-+--+--+", "++++-++-+---++++++---+-++-+++", "+-+---++--+-++++++-+--++---+-",
      "+++---++--+-+----+-+--++---++"}},
    {124,
     {"+--+++-+--+----++----+--+-+++--", "+--+++-+--+----++----+--+-+++--", "+-----+++-+-+--++--+-+-+++-----",
      "++++++---+-+-++--++-+-+---+++++"}},
    {156,
     {"+++--+-+-----+--++----++--+-----+-+--++", "++++---+--++----+-+--+-+----++--+---+++",
      "+++--++-+---+-+--+----+--+-+---+-++--++", "+---++-+-+-----+++-++-+++-----+-+-++---"}},
    {172,
     {"+---++--++++-+-+++-++--++-+++-+-++++--++---", "++-++++++----+-+--++-++-++--+-+----++++++-+",
      "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++", "++---++++-+--+--++--------++--+--+-++++---+"}},
}};

at::Tensor circulant(std::string_view row) {
  const auto n = static_cast<std::int64_t>(row.size());
  at::Tensor c_NN = at::empty({n, n}, at::kFloat);
  float* out = c_NN.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) *out++ = row[(j - i + n) % n] == '+' ? 1.0f : -1.0f;
  return c_NN;
}

at::Tensor williamson(const std::array<std::string_view, 4>& rows) {
  const at::Tensor a = circulant(rows[0]), b = circulant(rows[1]), c = circulant(rows[2]), d = circulant(rows[3]);
  return blocks(blocks(a, b, -b, a), blocks(c, d, -d, c), blocks(-c, d, -d, -c), blocks(a, -b, b, a));
}

}  // namespace

std::int64_t hadamard_order(std::int64_t n) {
  for (const std::int64_t k : kOrders)
    if (n % k == 0 && is_power_of_two(n / k)) return k;
  return is_power_of_two(n) ? 1 : 0;
}

bool has_hadamard(std::int64_t n) { return hadamard_order(n) > 0; }

at::Tensor hadamard_matrix(std::int64_t k) {
  for (const Williamson& w : kWilliamson)
    if (w.order == k) return williamson(w.rows);
  switch (k) {
    case 1:
      return at::ones({1, 1}, at::kFloat);
    case 12:
    case 20:
    case 60:
    case 108:
    case 140:
      return paley_one(k - 1);
    case 28:
    case 36:
      return paley_two(k / 2 - 1);
    case 40:
      return doubled(paley_one(19));
    default:
      throw Error(ErrorKind::unsupported, "there is no table of a Hadamard matrix of order " + std::to_string(k), "",
                  "orders are 1, 12, 20, 28, 36, 40, 52, 60, 108, 116, 124, 140, 156, 172");
  }
}

}  // namespace miq::quantizer
