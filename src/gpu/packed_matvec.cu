// The decode product of packed codes, as packed/kernel_avx512.cpp computes it: x as whole numbers of 16 bits with a
// scale for each block of columns, sums of codes times the two bytes of x in int32, then float32. A warp takes a panel
// of 16 rows for a share of its chunks: lanes 0-15 and 16-31 read 64 bytes side by side, one dword a row.
#include "packed_matvec.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace {

constexpr int kPanelRows = 16, kChunk = 32, kQuads = 8, kWarps = 8;
constexpr float kLargest = 127 * 256 + 127;

// Where the rows of x stand in scratch.
struct Input {
  float* scales;  // [rows][blocks]
  float* sums;    // [rows][blocks]
  signed char* high;  // [rows][columns]
  signed char* low;
};

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

__host__ inline Input place(void* scratch, int64_t rows, int64_t columns, int64_t blocks) {
  Input input;
  input.scales = static_cast<float*>(scratch);
  input.sums = input.scales + rows * blocks;
  input.high = reinterpret_cast<signed char*>(input.sums + rows * blocks);
  input.low = input.high + rows * columns;
  return input;
}

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void store(float x, float* out) { *out = x; }
__device__ inline void store(float x, __half* out) { *out = __float2half(x); }
__device__ inline void store(float x, __nv_bfloat16* out) { *out = __float2bfloat16(x); }

__device__ inline float value_at(const miq_parameters& p, int64_t at) {
  switch (p.store) {
    case MIQ_UINT8: return static_cast<const uint8_t*>(p.data)[at];
    case MIQ_FLOAT16: return __half2float(static_cast<const __half*>(p.data)[at]);
    case MIQ_BFLOAT16: return __bfloat162float(static_cast<const __nv_bfloat16*>(p.data)[at]);
    case MIQ_FLOAT32: return static_cast<const float*>(p.data)[at];
    default: return p.value;
  }
}

// One block of columns of one row of x by one warp, up to 128 columns.
template <class T>
__global__ void to_integers(const T* x, int64_t width, int64_t columns, int64_t block, int64_t blocks, Input out) {
  const int64_t row = blockIdx.y, b = blockIdx.x;
  const int lane = threadIdx.x;
  float values[4], largest = 0, total = 0;
  for (int i = 0; i < 4; ++i) {
    const int64_t in_block = lane + 32 * i, column = b * block + in_block;
    values[i] = in_block < block && column < width ? widen(x[row * width + column]) : 0.0f;
    largest = fmaxf(largest, fabsf(values[i]));
    total += values[i];
  }
  for (int step = 16; step > 0; step /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, step));
    total += __shfl_xor_sync(0xFFFFFFFFu, total, step);
  }
  const float inverse = largest > 0 ? kLargest / largest : 0.0f;
  int sum = 0;
  for (int i = 0; i < 4; ++i) {
    const int64_t in_block = lane + 32 * i, column = b * block + in_block;
    const int whole = __float2int_rn(values[i] * inverse);
    sum += whole;
    if (in_block >= block || column >= columns) continue;
    out.high[row * columns + column] = static_cast<signed char>((whole + 128) >> 8);
    out.low[row * columns + column] = static_cast<signed char>(whole & 0xFF);
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
  if (lane != 0) return;
  out.scales[row * blocks + b] = largest / kLargest + total * 0.0f;  // what is not finite stays so
  out.sums[row * blocks + b] = static_cast<float>(sum);
}

// Unsigned codes by signed bytes of x, added to `sum`.
__device__ inline int dot4(unsigned codes, int x, int sum) {
  int result;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(codes), "r"(x), "r"(sum));
  return result;
}

template <int Bits, int Width>
__device__ constexpr bool has_plane() { return Bits == 8 ? Width == 8 : Width < 8 && (Bits & Width) != 0; }
template <int Bits, int Width>
__device__ constexpr int plane_shift() { return Bits == 8 ? 0 : (Width < 4 && (Bits & 4) ? 4 : 0) + (Width < 2 && (Bits & 2) ? 2 : 0); }

template <int Bits, int Width>
__device__ inline unsigned plane_bits(const unsigned* chunk, int lane, int t) {
  if constexpr (!has_plane<Bits, Width>()) return 0;
  constexpr unsigned mask = 0x01010101u * ((1u << Width) - 1);
  const unsigned dword = chunk[16 * plane_shift<Bits, Width>() + t * Width / 8 * kPanelRows + lane];
  return (dword >> (t * Width % 8) & mask) << plane_shift<Bits, Width>();
}

template <int Bits, class T>
__global__ void multiply(miq_packed_matrix m, Input in, int64_t columns, int64_t blocks, T* y) {
  const int64_t panel = blockIdx.x, row_of_x = blockIdx.y, chunks = columns / kChunk;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % kPanelRows, half = threadIdx.x % 32 / kPanelRows;
  const uint8_t* const codes = m.codes + panel * chunks * 64 * Bits;
  const int* const high = reinterpret_cast<const int*>(in.high + row_of_x * columns);
  const int* const low = reinterpret_cast<const int*>(in.low + row_of_x * columns);
  float sum = 0;
  for (int64_t k = 2 * warp + half; k < chunks; k += 2 * kWarps) {
    const unsigned* const chunk = reinterpret_cast<const unsigned*>(codes + k * 64 * Bits);
    int sum_high = 0, sum_low = 0, x_sum = 0;
#pragma unroll
    for (int t = 0; t < kQuads; ++t) {
      const unsigned quad = plane_bits<Bits, 8>(chunk, lane, t) | plane_bits<Bits, 4>(chunk, lane, t) | plane_bits<Bits, 2>(chunk, lane, t) |
                            plane_bits<Bits, 1>(chunk, lane, t);
      const int x_high = high[k * kQuads + t], x_low = low[k * kQuads + t];
      sum_high = dot4(quad, x_high, sum_high);
      sum_low = dot4(quad, x_low, sum_low);
      x_sum = dot4(0x01010101u, x_low, x_sum) + 256 * dot4(0x01010101u, x_high, 0);
    }
    // The zero meets the sum of this chunk of x: a block's sum belongs to all of its chunks.
    const int64_t at = (panel * m.groups + k / m.chunks_per_group) * kPanelRows + lane;
    const float centred = static_cast<float>(256 * sum_high + sum_low) - value_at(m.zeros, at) * static_cast<float>(x_sum);
    sum += value_at(m.scales, at) * in.scales[row_of_x * blocks + k / m.chunks_per_block] * centred;
  }
  sum += __shfl_xor_sync(0xFFFFFFFFu, sum, kPanelRows);
  __shared__ float sums[kWarps][kPanelRows];
  if (half == 0) sums[warp][lane] = sum;
  __syncthreads();
  const int64_t row = panel * kPanelRows + lane;
  if (warp != 0 || half != 0 || row >= m.rows) return;
  for (int w = 1; w < kWarps; ++w) sum += sums[w][lane];
  store(sum, y + row_of_x * m.rows + row);
}

template <class T>
cudaError_t run(const miq_packed_matrix& m, const T* x, int64_t x_rows, T* y, void* scratch, cudaStream_t stream) {
  const int64_t chunks = ceil_div(m.columns, kChunk), columns = chunks * kChunk, blocks = ceil_div(chunks, m.chunks_per_block);
  const Input input = place(scratch, x_rows, columns, blocks);
  to_integers<<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(x_rows)), 32, 0, stream>>>(x, m.columns, columns, m.chunks_per_block * kChunk,
                                                                                                     blocks, input);
  const dim3 grid(static_cast<unsigned>(ceil_div(m.rows, kPanelRows)), static_cast<unsigned>(x_rows));
  const auto start = [&](auto* kernel) { kernel<<<grid, 32 * kWarps, 0, stream>>>(m, input, columns, blocks, y); };
  switch (m.bits) {
    case 2: start(multiply<2, T>); break;
    case 3: start(multiply<3, T>); break;
    case 4: start(multiply<4, T>); break;
    case 5: start(multiply<5, T>); break;
    case 6: start(multiply<6, T>); break;
    case 7: start(multiply<7, T>); break;
    case 8: start(multiply<8, T>); break;
    default: return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

}  // namespace

extern "C" size_t miq_cuda_scratch_bytes(const miq_packed_matrix* m, int64_t x_rows) {
  const int64_t chunks = ceil_div(m->columns, kChunk), blocks = ceil_div(chunks, m->chunks_per_block);
  return static_cast<size_t>(x_rows * (2 * blocks * static_cast<int64_t>(sizeof(float)) + 2 * chunks * kChunk));
}

extern "C" int miq_cuda_packed_matvec(const miq_packed_matrix* matrix, const void* x, int64_t x_rows, int type, void* y, void* scratch, void* stream) {
  const auto started = static_cast<cudaStream_t>(stream);
  switch (type) {
    case MIQ_FLOAT16: return run(*matrix, static_cast<const __half*>(x), x_rows, static_cast<__half*>(y), scratch, started);
    case MIQ_BFLOAT16: return run(*matrix, static_cast<const __nv_bfloat16*>(x), x_rows, static_cast<__nv_bfloat16*>(y), scratch, started);
    case MIQ_FLOAT32: return run(*matrix, static_cast<const float*>(x), x_rows, static_cast<float*>(y), scratch, started);
    default: return cudaErrorInvalidValue;
  }
}
