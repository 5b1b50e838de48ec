// Source: M. Matsumoto and T. Nishimura, mt19937ar (2002); CPython's Lib/random.py for the rest.
#include "miq/core/random.h"

#include <bit>
#include <cmath>
#include <unordered_set>

namespace miq {
namespace {
constexpr size_t kN = 624, kM = 397;
}

PythonRandom::PythonRandom(std::uint64_t seed) {
  // CPython: the key is the seed's 32-bit words, least significant first, at least one.
  std::vector<std::uint32_t> key{static_cast<std::uint32_t>(seed)};
  if (seed >> 32) key.push_back(static_cast<std::uint32_t>(seed >> 32));
  state_[0] = 19650218u;
  for (std::uint32_t i = 1; i < kN; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
  size_t i = 1, j = 0;
  const auto next_i = [&] {
    if (++i >= kN) {
      state_[0] = state_[kN - 1];
      i = 1;
    }
  };
  for (size_t k = std::max(kN, key.size()); k > 0; --k) {
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1664525u)) + key[j] + static_cast<std::uint32_t>(j);
    next_i();
    if (++j >= key.size()) j = 0;
  }
  for (size_t k = kN - 1; k > 0; --k) {
    state_[i] = (state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * 1566083941u)) - static_cast<std::uint32_t>(i);
    next_i();
  }
  state_[0] = 0x80000000u;
}

void PythonRandom::twist() {
  for (size_t k = 0; k < kN; ++k) {
    const std::uint32_t y = (state_[k] & 0x80000000u) | (state_[(k + 1) % kN] & 0x7fffffffu);
    state_[k] = state_[(k + kM) % kN] ^ (y >> 1) ^ ((y & 1u) ? 0x9908b0dfu : 0u);
  }
  index_ = 0;
}

std::uint32_t PythonRandom::next() {
  if (index_ >= kN) twist();
  std::uint32_t y = state_[index_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

std::uint32_t PythonRandom::getrandbits(int bits) { return next() >> (32 - bits); }

std::uint64_t PythonRandom::randbelow(std::uint64_t n) {
  const int bits = std::bit_width(n);
  for (;;) {
    // getrandbits(33), needed for n = 2^32 alone, takes two words, the low one first.
    const std::uint64_t low = bits <= 32 ? getrandbits(bits) : next();
    const std::uint64_t value = bits <= 32 ? low : low | (std::uint64_t{getrandbits(bits - 32)} << 32);
    if (value < n) return value;
  }
}

double PythonRandom::random() {
  const std::uint32_t a = next() >> 5, b = next() >> 6;
  return (a * 67108864.0 + b) / 9007199254740992.0;
}

std::vector<std::int64_t> PythonRandom::sample_indices(std::int64_t n, std::int64_t k) {
  std::int64_t setsize = 21;
  if (k > 5) {
    std::int64_t power = 4;  // 4^ceil(log4(3k))
    while (power < 3 * k) power *= 4;
    setsize += power;
  }
  std::vector<std::int64_t> out(static_cast<size_t>(k));
  if (n <= setsize) {
    std::vector<std::int64_t> pool(static_cast<size_t>(n));
    std::iota(pool.begin(), pool.end(), 0);
    for (std::int64_t i = 0; i < k; ++i) {
      const auto j = randbelow(static_cast<std::uint64_t>(n - i));
      out[static_cast<size_t>(i)] = pool[j];
      pool[j] = pool[static_cast<size_t>(n - i - 1)];
    }
    return out;
  }
  std::unordered_set<std::uint64_t> chosen;
  for (auto& index : out) {
    std::uint64_t j = randbelow(static_cast<std::uint64_t>(n));
    while (!chosen.insert(j).second) j = randbelow(static_cast<std::uint64_t>(n));
    index = static_cast<std::int64_t>(j);
  }
  return out;
}

}  // namespace miq
