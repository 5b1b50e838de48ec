// One source for nvcc, for hipcc and for the emulation of tests/gpu, which runs kernels as plain C++: what differs between them stands
// here and nowhere else. The rest is the dialect that both vendors share: __global__, threadIdx, __syncthreads, dim3.
//
// A group is 32 lanes that exchange values: a warp, or half a wavefront of 64. Nothing here depends on what the other half does.
#pragma once

#include "grid_math.h"

#if defined(MIQ_GPU_EMULATED)
#include "emulation.h"
#define MIQ_UNROLL
#elif defined(__HIPCC__)
#include <hip/hip_runtime.h>
#define MIQ_SHARED(type, name) __shared__ type name
#define MIQ_UNROLL _Pragma("unroll")
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define MIQ_SHARED(type, name) __shared__ type name
#define MIQ_UNROLL _Pragma("unroll")
#endif

namespace miq::gpu {
inline namespace MIQ_GPU_SPACE {

constexpr int kGroup = 32;

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

/* Exchange in a group; all of its lanes must take part. */

#if defined(MIQ_GPU_EMULATED)
using Stream = void*;
constexpr int kInvalid = 1;
inline const char* error_text(int code) { return code == 0 ? "no error" : "invalid argument"; }

template <class T>
inline T shuffle(T value, int lane) {
  return exchange(value, lane);
}
template <class T>
inline T shuffle_xor(T value, int mask) {
  return exchange(value, current_lane() ^ mask);
}
inline void sync_group() { exchange(char(), 0); }

inline float widen(Half x) {
  const int exponent = x.bits >> 10 & 31;
  if (exponent < 31) return decode_floating(x.bits, half_format());
  return float_of(static_cast<int32_t>((x.bits & 0x8000u) << 16 | 0x7f800000u | (x.bits & 0x3ffu) << 13));
}
inline void narrow(float x, Half& out) {
  const uint16_t sign = static_cast<uint16_t>(bits_of(x) < 0 ? 0x8000 : 0);
  const float magnitude = fabsf(x);
  if (magnitude < 65520.0f) out.bits = static_cast<uint16_t>(encode_floating(round_floating(x, half_format().mantissa, half_format().least_exponent), half_format()));
  else out.bits = static_cast<uint16_t>(sign | (x != x ? 0x7e00 : 0x7c00));
}

// Unsigned codes by signed bytes of x, added to `sum`; kWide: codes of 8 bits.
template <bool kWide>
inline int dot4(uint32_t codes, int x, int sum) {
  for (int b = 0; b < 32; b += 8) sum += static_cast<int>(codes >> b & 0xff) * static_cast<int8_t>(static_cast<uint32_t>(x) >> b);
  return sum;
}

template <class... P, class... A>
inline int launch(void (*kernel)(P...), dim3 grid, dim3 block, void*, A... arguments) {
  return run(grid, block, [&] { kernel(arguments...); });
}

#elif defined(__HIPCC__)
using Stream = hipStream_t;
constexpr int kInvalid = hipErrorInvalidValue;
inline const char* error_text(int code) { return hipGetErrorString(static_cast<hipError_t>(code)); }

template <class T>
__device__ inline T shuffle(T value, int lane) {
  return __shfl(value, lane, kGroup);
}
template <class T>
__device__ inline T shuffle_xor(T value, int mask) {
  return __shfl_xor(value, mask, kGroup);
}
__device__ inline void sync_group() {  // a wavefront runs in step: only the compiler must keep the order
  __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQ_REL, "wavefront");
}

__device__ inline float widen(Half x) { return static_cast<float>(__builtin_bit_cast(_Float16, x.bits)); }
__device__ inline void narrow(float x, Half& out) { out.bits = __builtin_bit_cast(uint16_t, static_cast<_Float16>(x)); }

template <bool kWide>
__device__ inline int dot4(uint32_t codes, int x, int sum) {
#if defined(__gfx906__) || defined(__gfx908__) || defined(__gfx90a__) || defined(__gfx940__) || defined(__gfx941__) || defined(__gfx942__)
  // Both sides are signed: codes of 8 bits are taken less 128.
  if constexpr (kWide) return __builtin_amdgcn_sdot4(static_cast<int>(codes ^ 0x80808080u), x, sum, false) + 128 * __builtin_amdgcn_sdot4(0x01010101, x, 0, false);
  else return __builtin_amdgcn_sdot4(static_cast<int>(codes), x, sum, false);
#else
  for (int b = 0; b < 32; b += 8) sum += static_cast<int>(codes >> b & 0xff) * static_cast<int8_t>(static_cast<uint32_t>(x) >> b);
  return sum;
#endif
}

template <class... P, class... A>
inline int launch(void (*kernel)(P...), dim3 grid, dim3 block, void* stream, A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return 0;
  kernel<<<grid, block, 0, static_cast<Stream>(stream)>>>(arguments...);
  return hipGetLastError();
}

#else
using Stream = cudaStream_t;
constexpr int kInvalid = cudaErrorInvalidValue;
inline const char* error_text(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

template <class T>
__device__ inline T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane, kGroup);
}
template <class T>
__device__ inline T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask, kGroup);
}
__device__ inline void sync_group() { __syncwarp(); }

__device__ inline float widen(Half x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline void narrow(float x, Half& out) { out.bits = __half_as_ushort(__float2half_rn(x)); }

template <bool kWide>
__device__ inline int dot4(uint32_t codes, int x, int sum) {
  int result;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(codes), "r"(x), "r"(sum));
  return result;
}

template <class... P, class... A>
inline int launch(void (*kernel)(P...), dim3 grid, dim3 block, void* stream, A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return 0;
  kernel<<<grid, block, 0, static_cast<Stream>(stream)>>>(arguments...);
  return cudaGetLastError();
}
#endif

/* The same everywhere from here on. */

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(BFloat16 x) { return float_of(static_cast<int32_t>(static_cast<uint32_t>(x.bits) << 16)); }
__device__ inline void narrow(float x, float& out) { out = x; }
/// Rounded to nearest, ties to even.
__device__ inline void narrow(float x, BFloat16& out) {
  const uint32_t bits = static_cast<uint32_t>(bits_of(x));
  out.bits = static_cast<uint16_t>(x == x ? (bits + 0x7fffu + (bits >> 16 & 1)) >> 16 : 0x7fc0u);
}
/// x as a number of T.
template <class T>
__device__ inline float rounded_to(float x) {
  T out;
  narrow(x, out);
  return widen(out);
}

/// kCount numbers that are read or written at once; the address is a multiple of their size.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T at[kCount];
};
template <int kCount, class T>
__device__ inline Pack<T, kCount> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}
template <class T, int kCount>
__device__ inline void store_pack(const Pack<T, kCount>& pack, T* to) {
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}
inline bool is_aligned(const void* address, size_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

__device__ inline float group_sum(float x) {
  for (int mask = kGroup / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}
__device__ inline float group_max(float x) {
  for (int mask = kGroup / 2; mask > 0; mask /= 2) x = greater(x, shuffle_xor(x, mask));
  return x;
}
__device__ inline float group_min(float x) {
  for (int mask = kGroup / 2; mask > 0; mask /= 2) x = lesser(x, shuffle_xor(x, mask));
  return x;
}

MIQ_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline unsigned to_grid(int64_t blocks) { return static_cast<unsigned>(blocks); }

/// Calls act(T()) with the element type of MIQ_FLOAT16, MIQ_BFLOAT16 or MIQ_FLOAT32; its error code.
template <class Act>
int with_type(int type, const Act& act) {
  switch (type) {
    case MIQ_FLOAT16: return act(Half());
    case MIQ_BFLOAT16: return act(BFloat16());
    case MIQ_FLOAT32: return act(float());
    default: return kInvalid;
  }
}

}  // namespace MIQ_GPU_SPACE
}  // namespace miq::gpu
