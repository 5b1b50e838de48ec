// The decode product of packed codes, as quantizer/packed computes it: x as whole numbers of 16 bits with a scale for each block of
// columns, sums of codes times the two bytes of x in int32, then float32. A thread takes four rows by a chunk of 32 columns at a time, and
// meets every row of x with the codes that it holds: they are read once, 16 bytes a load, all of a chunk's (or two chunks') before the first is used.
#include "functions.h"
#include "packed_layout.h"

namespace miq::gpu {
inline namespace MIQ_GPU_SPACE {
namespace {

constexpr int kThreads = 256, kGroups = kThreads / kGroup, kRowsAtOnce = 4, kRowQuads = kPanelRows / kRowsAtOnce;
constexpr int kChunksOfGroup = kGroup / kRowQuads;  // chunks that a group of lanes takes at once
constexpr int kMatrices = 4;                        // of a launch
constexpr int kMostRows = 8;
constexpr float kLargest = 127 * 256 + 127;  // both bytes lie in -128 .. 127, the high one above -128

// Rows of x in scratch: x = scale * (256 high + low).
struct Input {
  int8_t* high;   // [rows][chunks * 32]
  int8_t* low;
  float* scales;  // [rows][chunks]
  float* sums;    // [rows][chunks], of 256 high + low
  int64_t chunks;
};

Input place(void* scratch, int64_t rows, int64_t columns) {
  const int64_t chunks = ceil_div(columns, kChunk);
  Input in;
  in.high = static_cast<int8_t*>(scratch);
  in.low = in.high + rows * chunks * kChunk;
  in.scales = reinterpret_cast<float*>(in.low + rows * chunks * kChunk);
  in.sums = in.scales + rows * chunks;
  in.chunks = chunks;
  return in;
}

// One block of up to 128 columns of one row of x by a group of lanes, chunk by chunk.
template <class T>
__global__ void __launch_bounds__(kGroup) to_integers(const T* x, int64_t width, const int32_t* order, int chunks_of_block, Input in) {
  constexpr int kMost = 4;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  const int64_t row = blockIdx.y, first = static_cast<int64_t>(blockIdx.x) * chunks_of_block;
  const int lane = static_cast<int>(threadIdx.x);
  float values[kMost], largest = 0, total = 0;
  MIQ_UNROLL
  for (int i = 0; i < kMost; ++i) {
    const int64_t position = (first + i) * kChunk + lane;
    const bool inside = i < chunks_of_block && position < width;
    values[i] = inside ? widen(x[row * width + (order != nullptr ? order[position] : position)]) : 0.0f;
    largest = greater(largest, fabsf(values[i]));
    total += values[i];
  }
  largest = group_max(largest);
  total = group_sum(total);
  const float inverse = largest > 0 ? kLargest / largest : 0.0f, scale = largest / kLargest + total * 0.0f;  // what is not finite stays so
  MIQ_UNROLL
  for (int i = 0; i < kMost; ++i) {
    const int64_t chunk = first + i;
    if (i >= chunks_of_block || chunk >= in.chunks) break;
    const int whole = bits_of(fmaf(values[i], inverse, kRound)) - bits_of(kRound);
    const int64_t at = (row * in.chunks + chunk) * kChunk + lane;
    in.high[at] = static_cast<int8_t>((whole + 128) >> 8);
    in.low[at] = static_cast<int8_t>(whole);
    int sum = whole;
    for (int mask = kGroup / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (lane != 0) continue;
    in.scales[row * in.chunks + chunk] = scale;
    in.sums[row * in.chunks + chunk] = static_cast<float>(sum);
  }
}

struct Matrix {
  const uint8_t* codes;
  int64_t rows, groups, first_panel;
  int chunks_of_group;
  miq_parameters scales, zeros;
  void* out;
};

struct Work {
  Matrix matrices[kMatrices];
  int count, x_rows, type;
  Input x;
};

// What a thread holds of a chunk: dwords v of its four rows, at 4 v.
template <int kBits>
struct Codes {
  alignas(16) uint32_t words[kBits * kRowsAtOnce];
};

template <int kBits, int kRows>
__device__ inline void multiply_chunk(const Matrix& m, const Input& x, int x_rows, int64_t panel, int64_t chunk, int quad_of_rows, const Codes<kBits>& codes,
                                      float (&y)[kRows][kRowsAtOnce]) {
  int high[kRows][kRowsAtOnce] = {}, low[kRows][kRowsAtOnce] = {};
  MIQ_UNROLL
  for (int half = 0; half < 2; ++half) {
    uint32_t quads[4][kRowsAtOnce];
    MIQ_UNROLL
    for (int t = 0; t < 4; ++t)
      MIQ_UNROLL
      for (int r = 0; r < kRowsAtOnce; ++r) quads[t][r] = quad_codes(codes.words + r, kRowsAtOnce, 4 * half + t, kBits);
    MIQ_UNROLL
    for (int n = 0; n < kRows; ++n) {
      const int64_t at = ((n < x_rows ? n : 0) * x.chunks + chunk) * kChunk + 16 * half;
      const Pack<int, 4> x_high = load_pack<4>(reinterpret_cast<const int*>(x.high + at)), x_low = load_pack<4>(reinterpret_cast<const int*>(x.low + at));
      MIQ_UNROLL
      for (int t = 0; t < 4; ++t)
        MIQ_UNROLL
        for (int r = 0; r < kRowsAtOnce; ++r) {
          high[n][r] = dot4<kBits == 8>(quads[t][r], x_high.at[t], high[n][r]);
          low[n][r] = dot4<kBits == 8>(quads[t][r], x_low.at[t], low[n][r]);
        }
    }
  }
  const int64_t at = (panel * m.groups + chunk / m.chunks_of_group) * kPanelRows + quad_of_rows * kRowsAtOnce;
  const Pack<float, 4> scales = four_values_at(m.scales, at), zeros = four_values_at(m.zeros, at);
  MIQ_UNROLL
  for (int n = 0; n < kRows; ++n) {
    const int64_t x_at = (n < x_rows ? n : 0) * x.chunks + chunk;
    const float x_scale = x.scales[x_at], x_sum = x.sums[x_at];
    MIQ_UNROLL
    for (int r = 0; r < kRowsAtOnce; ++r)
      y[n][r] = fmaf(scales.at[r] * x_scale, fmaf(-zeros.at[r], x_sum, static_cast<float>(256 * high[n][r] + low[n][r])), y[n][r]);
  }
}

template <int kRows>
struct Sums {
  float at[kGroups][kRows][kPanelRows];
};

__device__ inline void put(void* out, int type, int64_t at, float value) {
  if (type == MIQ_FLOAT16) narrow(value, static_cast<Half*>(out)[at]);
  else if (type == MIQ_BFLOAT16) narrow(value, static_cast<BFloat16*>(out)[at]);
  else static_cast<float*>(out)[at] = value;
}

template <int kBits, int kRows>
__global__ void __launch_bounds__(kThreads) multiply(Work work) {
  MIQ_SHARED(Sums<kRows>, sums);
  int which = 0;
  while (which + 1 < work.count && static_cast<int64_t>(blockIdx.x) >= work.matrices[which + 1].first_panel) ++which;
  const Matrix& m = work.matrices[which];
  const int64_t panel = static_cast<int64_t>(blockIdx.x) - m.first_panel, chunks = work.x.chunks;
  const int thread = static_cast<int>(threadIdx.x), group = thread / kGroup, lane = thread % kGroup, quad_of_rows = lane % kRowQuads;
  constexpr int kAhead = kBits <= 4 && kRows <= 4 ? 2 : 1;  // chunks whose codes are on their way at once; many rows of x are bound by arithmetic
  constexpr int64_t kStep = kThreads / kRowQuads;
  const uint8_t* const panel_codes = m.codes + panel * chunks * 64 * kBits + 16 * quad_of_rows;
  float y[kRows][kRowsAtOnce] = {};
  for (int64_t chunk = group * kChunksOfGroup + lane / kRowQuads; chunk < chunks; chunk += kAhead * kStep) {
    Codes<kBits> codes[kAhead];
    MIQ_UNROLL
    for (int a = 0; a < kAhead; ++a)
      if (chunk + a * kStep < chunks)
        MIQ_UNROLL
        for (int v = 0; v < kBits; ++v)
          store_pack(load_pack<kRowsAtOnce>(reinterpret_cast<const uint32_t*>(panel_codes + ((chunk + a * kStep) * kBits + v) * 64)), codes[a].words + kRowsAtOnce * v);
    MIQ_UNROLL
    for (int a = 0; a < kAhead; ++a)
      if (chunk + a * kStep < chunks) multiply_chunk<kBits, kRows>(m, work.x, work.x_rows, panel, chunk + a * kStep, quad_of_rows, codes[a], y);
  }
  MIQ_UNROLL
  for (int n = 0; n < kRows; ++n)
    MIQ_UNROLL
    for (int r = 0; r < kRowsAtOnce; ++r) {
      for (int mask = kRowQuads; mask < kGroup; mask *= 2) y[n][r] += shuffle_xor(y[n][r], mask);
      if (lane < kRowQuads) sums.at[group][n][quad_of_rows * kRowsAtOnce + r] = y[n][r];
    }
  __syncthreads();
  const int n = thread / kPanelRows, in_panel = thread % kPanelRows;
  const int64_t row = panel * kPanelRows + in_panel;
  if (n >= kRows || n >= work.x_rows || row >= m.rows) return;
  float sum = 0;
  for (int g = 0; g < kGroups; ++g) sum += sums.at[g][n][in_panel];
  put(m.out, work.type, n * m.rows + row, sum);
}

template <int kBits>
int start_bits(const Work& work, unsigned panels, void* stream) {
  if (work.x_rows == 1) return launch(multiply<kBits, 1>, panels, kThreads, stream, work);
  if (work.x_rows == 2) return launch(multiply<kBits, 2>, panels, kThreads, stream, work);
  if (work.x_rows <= 4) return launch(multiply<kBits, 4>, panels, kThreads, stream, work);
  return launch(multiply<kBits, 8>, panels, kThreads, stream, work);
}

int start(const Work& work, int bits, int64_t panels, void* stream) {
  const unsigned grid = to_grid(panels);
  switch (bits) {
    case 2: return start_bits<2>(work, grid, stream);
    case 3: return start_bits<3>(work, grid, stream);
    case 4: return start_bits<4>(work, grid, stream);
    case 5: return start_bits<5>(work, grid, stream);
    case 6: return start_bits<6>(work, grid, stream);
    case 7: return start_bits<7>(work, grid, stream);
    case 8: return start_bits<8>(work, grid, stream);
    default: return kInvalid;
  }
}

// Chunks of x that share a scale; 0 where groups do not consist of chunks.
int block_chunks(const miq_packed_matrix& m) {
  const int64_t group = m.groups == 1 ? ceil_div(m.columns, kChunk) * kChunk : m.group;
  for (const int chunks : {4, 2, 1})
    if (group % (chunks * kChunk) == 0) return chunks;
  return 0;
}

}  // namespace

size_t matvec_scratch(int64_t columns, int64_t x_rows) {
  const int64_t chunks = ceil_div(columns, kChunk);
  return static_cast<size_t>(x_rows * chunks * (2 * kChunk + 2 * static_cast<int64_t>(sizeof(float))));
}

int matvec(const miq_packed_matrix* matrices, int count, const void* x, int64_t x_rows, int type, void* const* outputs, void* scratch, void* stream) {
  if (count < 1 || x_rows < 1 || x_rows > kMostRows) return kInvalid;
  const miq_packed_matrix& first = matrices[0];
  const int chunks_of_block = block_chunks(first);
  for (int i = 0; i < count; ++i)
    if (matrices[i].type != 0 || !is_packable(matrices[i]) || matrices[i].columns != first.columns || matrices[i].order != first.order || chunks_of_block == 0 ||
        block_chunks(matrices[i]) != chunks_of_block)
      return kInvalid;
  const Input in = place(scratch, x_rows, first.columns);
  const dim3 blocks(to_grid(ceil_div(in.chunks, chunks_of_block)), to_grid(x_rows));
  int code = with_type(type, [&](auto zero) {
    using T = decltype(zero);
    return launch(to_integers<T>, blocks, kGroup, stream, static_cast<const T*>(x), first.columns, first.order, chunks_of_block, in);
  });
  // Matrices of one width of codes go together.
  for (int i = 0; i < count && code == 0;) {
    Work work = {};
    work.x_rows = static_cast<int>(x_rows);
    work.type = type;
    work.x = in;
    int64_t panels = 0;
    const int bits = matrices[i].bits;
    for (; i < count && matrices[i].bits == bits && work.count < kMatrices; ++i, ++work.count) {
      const miq_packed_matrix& m = matrices[i];
      const int64_t of_group = m.groups == 1 ? in.chunks : m.group / kChunk;
      work.matrices[work.count] = {m.codes, m.rows, m.groups, panels, static_cast<int>(of_group), m.scales, m.zeros, outputs[i]};
      panels += ceil_div(m.rows, kPanelRows);
    }
    code = start(work, bits, panels, stream);
  }
  return code;
}

}  // namespace MIQ_GPU_SPACE
}  // namespace miq::gpu
