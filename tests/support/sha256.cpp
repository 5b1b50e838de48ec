#include "support/sha256.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace miq::test {
namespace {

// The first 32 bits of the fractional parts of roots of primes.
std::vector<std::uint32_t> prime_roots(int count, double exponent) {
  std::vector<std::uint32_t> roots;
  for (int n = 2; static_cast<int>(roots.size()) < count; ++n) {
    bool prime = true;
    for (int d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
    if (!prime) continue;
    const long double root = exponent > 0.4 ? std::sqrt(static_cast<long double>(n)) : std::cbrt(static_cast<long double>(n));
    roots.push_back(static_cast<std::uint32_t>((root - std::floor(root)) * 4294967296.0L));
  }
  return roots;
}

}  // namespace

std::string sha256(std::string_view data) {
  static const std::vector<std::uint32_t> kRound = prime_roots(64, 1.0 / 3);
  std::vector<std::uint32_t> state = prime_roots(8, 0.5);
  std::string padded(data);
  padded += '\x80';
  while (padded.size() % 64 != 56) padded += '\0';
  for (int shift = 56; shift >= 0; shift -= 8) padded += static_cast<char>(static_cast<std::uint64_t>(data.size()) * 8 >> shift);
  for (size_t block = 0; block < padded.size(); block += 64) {
    std::array<std::uint32_t, 64> w{};
    for (size_t i = 0; i < 64; ++i) w[i / 4] = i < 64 ? w[i / 4] << 8 | static_cast<unsigned char>(padded[block + i]) : 0;
    for (size_t i = 16; i < 64; ++i) {
      const auto s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
      const auto s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = std::array{state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7]};
    for (size_t i = 0; i < 64; ++i) {
      const auto t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
      const auto t2 = (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::array<std::uint32_t, 8> sums{a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < 8; ++i) state[i] += sums[i];
  }
  std::string hex;
  for (const std::uint32_t word : state) {
    char text[9];
    std::snprintf(text, sizeof text, "%08x", word);
    hex += text;
  }
  return hex;
}

}  // namespace miq::test
