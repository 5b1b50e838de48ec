#include "tile_update.h"

#include <algorithm>
#include <cstring>

#include "row_tile.h"

namespace miq::quantizer {
namespace {

// kColumns columns by two vectors of lanes, kept in registers over the whole depth. The body is inlined
// into one function per instruction set.
template <class Vector, int kColumns>
[[gnu::always_inline]] inline void update_columns(float* tile, const float* errors, std::int64_t depth, const float* upper,
                                                  std::int64_t stride) {
  constexpr std::int64_t kStep = sizeof(Vector) / sizeof(float);
  Vector sums[kColumns][2];
#pragma GCC unroll 12
  for (int c = 0; c < kColumns; ++c) {
    std::memcpy(&sums[c][0], tile + c * kLanes, sizeof(Vector));
    std::memcpy(&sums[c][1], tile + c * kLanes + kStep, sizeof(Vector));
  }
  for (std::int64_t b = 0; b < depth; ++b, errors += kLanes, upper += stride) {
    Vector low, high;
    std::memcpy(&low, errors, sizeof(Vector));
    std::memcpy(&high, errors + kStep, sizeof(Vector));
#pragma GCC unroll 12
    for (int c = 0; c < kColumns; ++c) {
      sums[c][0] -= low * upper[c];
      sums[c][1] -= high * upper[c];
    }
  }
#pragma GCC unroll 12
  for (int c = 0; c < kColumns; ++c) {
    std::memcpy(tile + c * kLanes, &sums[c][0], sizeof(Vector));
    std::memcpy(tile + c * kLanes + kStep, &sums[c][1], sizeof(Vector));
  }
}

template <class Vector, int kColumns>
[[gnu::always_inline]] inline void update_all(float* tile, std::int64_t columns, const float* errors, std::int64_t depth,
                                              const float* upper, std::int64_t stride) {
  constexpr std::int64_t kStep = 2 * sizeof(Vector) / sizeof(float);
  std::int64_t c = 0;
  for (; c + kColumns <= columns; c += kColumns)
    for (std::int64_t lane = 0; lane < kLanes; lane += kStep)
      update_columns<Vector, kColumns>(tile + c * kLanes + lane, errors + lane, depth, upper + c, stride);
  for (; c + 3 <= columns; c += 3)
    for (std::int64_t lane = 0; lane < kLanes; lane += kStep)
      update_columns<Vector, 3>(tile + c * kLanes + lane, errors + lane, depth, upper + c, stride);
  for (; c < columns; ++c)
    for (std::int64_t lane = 0; lane < kLanes; lane += kStep)
      update_columns<Vector, 1>(tile + c * kLanes + lane, errors + lane, depth, upper + c, stride);
}

using Vector128 = float __attribute__((vector_size(16)));
using Update = void (*)(float*, std::int64_t, const float*, std::int64_t, const float*, std::int64_t);

void update_portable(float* tile, std::int64_t columns, const float* errors, std::int64_t depth, const float* upper,
                     std::int64_t stride) {
  update_all<Vector128, 6>(tile, columns, errors, depth, upper, stride);
}

#if defined(__x86_64__)

using Vector256 = float __attribute__((vector_size(32)));
using Vector512 = float __attribute__((vector_size(64)));

__attribute__((target("avx2,fma"))) void update_avx2(float* tile, std::int64_t columns, const float* errors,
                                                     std::int64_t depth, const float* upper, std::int64_t stride) {
  update_all<Vector256, 6>(tile, columns, errors, depth, upper, stride);
}

__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw"))) void update_avx512(float* tile, std::int64_t columns,
                                                                                 const float* errors, std::int64_t depth,
                                                                                 const float* upper, std::int64_t stride) {
  update_all<Vector512, 12>(tile, columns, errors, depth, upper, stride);
}

Update best_update() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw"))
    return update_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return update_avx2;
  return update_portable;
}

#else

Update best_update() { return update_portable; }

#endif

}  // namespace

void subtract_products(float* tile, std::int64_t columns, const float* errors, std::int64_t depth, const float* upper,
                       std::int64_t stride) {
  static const Update update = best_update();
  update(tile, columns, errors, depth, upper, stride);
}

void pack_panel(const float* upper, std::int64_t stride, std::int64_t columns, std::int64_t depth, float* panel) {
  for (std::int64_t b = 0; b < depth; ++b, upper += stride, panel += columns) std::copy_n(upper, columns, panel);
}

}  // namespace miq::quantizer
