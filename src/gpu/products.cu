// The product of error feedback: 128 x 128 tiles, 8 x 8 numbers a thread in registers, which receive their fused multiply-adds one by
// one in the order of the columns: the result is the CPU's (quantizer/tile_update.h) to the last bit, however columns are cut into blocks.
#include "functions.h"
#include "portable.h"

namespace miq::gpu {
inline namespace MIQ_GPU_SPACE {
namespace {

constexpr int kTile = 128, kDepth = 8, kThreads = 256, kQuarter = 4;
constexpr int kPitch = kTile + 4;  // errors are turned on their way in: columns of one row meet different banks

struct Tiles {
  alignas(16) float errors[2][kDepth][kPitch];  // less than 0: -e
  alignas(16) float upper[2][kDepth][kTile];
};

struct Product {
  float* target;
  int64_t target_stride, rows, columns;
  const float* errors;
  int64_t depth;
  const float* upper;
  int64_t upper_stride;
};

using Four = Pack<float, kQuarter>;

// Four neighbours of a row of `count` numbers, 0 behind its end.
template <bool kAligned>
__device__ inline Four load_four(const float* row, int at, int count) {
  Four four = {};
  if constexpr (kAligned) {
    if (at < count) four = load_pack<kQuarter>(row + at);
  } else {
    MIQ_UNROLL
    for (int i = 0; i < kQuarter; ++i)
      if (at + i < count) four.at[i] = row[at + i];
  }
  return four;
}

template <bool kAligned>
__device__ inline void store_four(const Four& four, float* row, int at, int count) {
  if constexpr (kAligned) {
    if (at < count) store_pack(four, row + at);
  } else {
    MIQ_UNROLL
    for (int i = 0; i < kQuarter; ++i)
      if (at + i < count) row[at + i] = four.at[i];
  }
}

// What a thread brings from memory for one step of kDepth: four errors of a row, four columns of a row of U.
struct Fetched {
  Four errors, upper;
};

// Where it brings them from. What lies outside is 0: no depth, no columns.
struct Source {
  const float* errors;  // row of the thread
  const float* upper;   // row and columns of the first step
  int depth, columns;   // of the row; columns from the thread's first on
  int64_t upper_step;
  int last_depth;

  template <bool kAligned>
  __device__ Fetched fetch(int first_depth) const {
    const int t = static_cast<int>(threadIdx.x);
    Fetched fetched;
    fetched.errors = load_four<kAligned>(errors, first_depth + t % 2 * kQuarter, depth);
    fetched.upper = load_four<kAligned>(upper, 0, first_depth + t / kGroup < last_depth ? columns : 0);
    return fetched;
  }
};

__device__ inline Source source_of(const Product& p, int64_t first_row, int64_t first_column) {
  const int t = static_cast<int>(threadIdx.x);
  const int64_t row = first_row + t / 2, column = first_column + t % kGroup * kQuarter, columns = p.columns - column;
  return {p.errors + row * p.depth, p.upper + t / kGroup * p.upper_stride + column, row < p.rows ? static_cast<int>(p.depth) : 0,
          columns < kQuarter ? static_cast<int>(columns) : kQuarter, kDepth * p.upper_stride, static_cast<int>(p.depth)};
}

__device__ inline void put(const Fetched& fetched, Tiles& tiles, int buffer) {
  const int t = static_cast<int>(threadIdx.x);
  MIQ_UNROLL
  for (int i = 0; i < kQuarter; ++i) tiles.errors[buffer][t % 2 * kQuarter + i][t / 2] = -fetched.errors.at[i];
  store_pack(fetched.upper, &tiles.upper[buffer][t / kGroup][t % kGroup * kQuarter]);
}

// A thread's rows and columns are two runs of four each, half a tile apart, so that a group reads neighbours.
__device__ inline void add_products(const Tiles& tiles, int buffer, int k, int row, int column, float (&sums)[8][8]) {
  Four e[2], u[2];
  MIQ_UNROLL
  for (int h = 0; h < 2; ++h) {
    e[h] = load_pack<kQuarter>(&tiles.errors[buffer][k][h * kTile / 2 + row]);
    u[h] = load_pack<kQuarter>(&tiles.upper[buffer][k][h * kTile / 2 + column]);
  }
  MIQ_UNROLL
  for (int i = 0; i < 8; ++i)
    MIQ_UNROLL
    for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(e[i / kQuarter].at[i % kQuarter], u[j / kQuarter].at[j % kQuarter], sums[i][j]);
}

template <bool kAligned>
__global__ void __launch_bounds__(kThreads, 2) subtract(Product p) {
  MIQ_SHARED(Tiles, tiles);
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTile, first_column = static_cast<int64_t>(blockIdx.x) * kTile;
  const int row = static_cast<int>(threadIdx.x) / 16 * kQuarter, column = static_cast<int>(threadIdx.x) % 16 * kQuarter;
  const int rows = static_cast<int>(p.rows - first_row < kTile ? p.rows - first_row : kTile), columns = static_cast<int>(p.columns - first_column < kTile ? p.columns - first_column : kTile);
  const int depth = static_cast<int>(p.depth);
  float* const target = p.target + first_row * p.target_stride + first_column;
  Source source = source_of(p, first_row, first_column);
  put(source.fetch<kAligned>(0), tiles, 0);
  float sums[8][8];
  MIQ_UNROLL
  for (int i = 0; i < 8; ++i) {
    const int r = i / kQuarter * (kTile / 2) + row + i % kQuarter;
    MIQ_UNROLL
    for (int h = 0; h < 2; ++h) {
      Four four = {};
      if (r < rows) four = load_four<kAligned>(target + r * p.target_stride, h * kTile / 2 + column, columns);
      MIQ_UNROLL
      for (int j = 0; j < kQuarter; ++j) sums[i][h * kQuarter + j] = four.at[j];
    }
  }
  int buffer = 0;
  for (int first = 0; first < depth; first += kDepth, buffer ^= 1) {
    __syncthreads();
    const bool more = first + kDepth < depth;
    source.upper += source.upper_step;
    Fetched fetched = {};
    if (more) fetched = source.fetch<kAligned>(first + kDepth);
    const int steps = more ? kDepth : depth - first;
    MIQ_UNROLL
    for (int k = 0; k < kDepth; ++k)
      if (k < steps) add_products(tiles, buffer, k, row, column, sums);
    if (more) put(fetched, tiles, buffer ^ 1);
  }
  MIQ_UNROLL
  for (int i = 0; i < 8; ++i) {
    const int r = i / kQuarter * (kTile / 2) + row + i % kQuarter;
    if (r >= rows) continue;
    MIQ_UNROLL
    for (int h = 0; h < 2; ++h) {
      Four four;
      MIQ_UNROLL
      for (int j = 0; j < kQuarter; ++j) four.at[j] = sums[i][h * kQuarter + j];
      store_four<kAligned>(four, target + r * p.target_stride, h * kTile / 2 + column, columns);
    }
  }
}

}  // namespace

int subtract_products(float* target, int64_t target_stride, int64_t rows, int64_t columns, const float* errors, int64_t depth, const float* upper, int64_t upper_stride, void* stream) {
  const Product product = {target, target_stride, rows, columns, errors, depth, upper, upper_stride};
  if (depth > (1 << 30)) return kInvalid;
  const bool aligned = is_aligned(target, sizeof(Four)) && is_aligned(errors, sizeof(Four)) && is_aligned(upper, sizeof(Four)) && target_stride % kQuarter == 0 &&
                       upper_stride % kQuarter == 0 && columns % kQuarter == 0 && depth % kQuarter == 0;
  constexpr int64_t kMost = 65535 * static_cast<int64_t>(kTile);  // rows of one launch
  for (int64_t first = 0; first < rows && columns > 0 && depth > 0; first += kMost) {
    Product part = product;
    part.target += first * target_stride;
    part.errors += first * depth;
    part.rows = rows - first < kMost ? rows - first : kMost;
    const dim3 grid(to_grid(ceil_div(columns, kTile)), to_grid(ceil_div(part.rows, kTile)));
    const int code = launch(aligned ? subtract<true> : subtract<false>, grid, kThreads, stream, part);
    if (code != 0) return code;
  }
  return 0;
}

}  // namespace MIQ_GPU_SPACE
}  // namespace miq::gpu
