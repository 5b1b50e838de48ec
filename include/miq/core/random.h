// Python's `random.Random`, bit for bit: calibration samples must be those of the references.
#pragma once

#include <array>
#include <cstdint>
#include <numeric>
#include <vector>

namespace miq {

/// MT19937 seeded as CPython seeds it from a non-negative integer (init_by_array).
class PythonRandom {
 public:
  explicit PythonRandom(std::uint64_t seed);

  std::uint32_t next();                       ///< genrand_uint32
  std::uint32_t getrandbits(int bits);        ///< 1..32 bits
  std::uint64_t randbelow(std::uint64_t n);   ///< 0..n-1, n in 1..2^32
  std::int64_t randint(std::int64_t a, std::int64_t b) { return a + static_cast<std::int64_t>(randbelow(b - a + 1)); }
  double random();                            ///< 53 bits in [0, 1)

  template <class T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i-- > 1;) std::swap(values[i], values[randbelow(i + 1)]);
  }
  /// Indices that random.sample(range(n), k) gives, k <= n.
  std::vector<std::int64_t> sample_indices(std::int64_t n, std::int64_t k);

 private:
  void twist();
  std::array<std::uint32_t, 624> state_;
  size_t index_ = 624;
};

}  // namespace miq
