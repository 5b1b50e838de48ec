// The decoder's norm, activation, residual and rotation, in one pass each: twins of model/kernels.cpp.
#include "functions.h"
#include "portable.h"

namespace miq::gpu {
inline namespace MIQ_GPU_SPACE {
namespace {

constexpr int kThreads = 256, kGroups = kThreads / kGroup, kFour = 4;

struct Squares {
  float at[kGroups];
};

// kCount neighbours at once.
template <int kCount, class T>
__device__ inline Pack<float, kCount> widen_pack(const T* from) {
  const Pack<T, kCount> narrow_pack = load_pack<kCount>(from);
  Pack<float, kCount> wide;
  MIQ_UNROLL
  for (int i = 0; i < kCount; ++i) wide.at[i] = widen(narrow_pack.at[i]);
  return wide;
}

template <class In, class Out, int kCount>
__global__ void __launch_bounds__(kThreads) norm(const In* x, const float* weight, int64_t columns, float eps, Out* out) {
  MIQ_SHARED(Squares, squares);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * columns;
  const int thread = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int64_t c = thread * kCount; c < columns; c += kThreads * kCount) {
    const Pack<float, kCount> values = widen_pack<kCount>(x + first + c);
    MIQ_UNROLL
    for (int i = 0; i < kCount; ++i) sum = fmaf(values.at[i], values.at[i], sum);
  }
  sum = group_sum(sum);
  if (thread % kGroup == 0) squares.at[thread / kGroup] = sum;
  __syncthreads();
  sum = 0;
  for (int g = 0; g < kGroups; ++g) sum += squares.at[g];
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(columns) + eps);
  for (int64_t c = thread * kCount; c < columns; c += kThreads * kCount) {
    const Pack<float, kCount> values = widen_pack<kCount>(x + first + c), factors = load_pack<kCount>(weight + c);
    Pack<Out, kCount> normalised;
    MIQ_UNROLL
    for (int i = 0; i < kCount; ++i) narrow(rounded_to<Out>(values.at[i] * scale) * factors.at[i], normalised.at[i]);
    store_pack(normalised, out + first + c);
  }
}

template <class T, int kCount>
__global__ void __launch_bounds__(kThreads) gate_and_up(const T* gate, int64_t gate_stride, const T* up, int64_t up_stride, int64_t columns, int64_t packs, T* out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= packs) return;
  const int64_t row = at / (columns / kCount), c = at % (columns / kCount) * kCount;
  const Pack<float, kCount> g = widen_pack<kCount>(gate + row * gate_stride + c), u = widen_pack<kCount>(up + row * up_stride + c);
  Pack<T, kCount> product;
  MIQ_UNROLL
  for (int i = 0; i < kCount; ++i) narrow(rounded_to<T>(g.at[i] / (1.0f + expf(-g.at[i]))) * u.at[i], product.at[i]);  // silu is rounded by itself, as in the references
  store_pack(product, out + row * columns + c);
}

template <class T, int kCount>
__global__ void __launch_bounds__(kThreads) add(float* hidden, const T* x, int64_t packs) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= packs) return;
  const Pack<float, kCount> values = widen_pack<kCount>(x + at * kCount);
  Pack<float, kCount> sums = load_pack<kCount>(hidden + at * kCount);
  MIQ_UNROLL
  for (int i = 0; i < kCount; ++i) sums.at[i] += values.at[i];
  store_pack(sums, hidden + at * kCount);
}

struct Turn {
  int64_t stride_b, stride_n, stride_t, heads, tokens, dim, count;
  const float* cos;
  const float* sin;
  int64_t half;
  int interleaved;
};

template <class T>
__global__ void __launch_bounds__(kThreads) rotate(const T* x, Turn turn, T* out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= turn.count) return;
  const int64_t d = at % turn.dim, row = at / turn.dim, t = row % turn.tokens, n = row / turn.tokens % turn.heads, b = row / turn.tokens / turn.heads;
  const T* const source = x + b * turn.stride_b + n * turn.stride_n + t * turn.stride_t;
  if (d >= 2 * turn.half) {
    out[at] = source[d];
    return;
  }
  const bool second = turn.interleaved ? d % 2 == 1 : d >= turn.half;
  const int64_t pair = turn.interleaved ? d / 2 : d % turn.half, other = turn.interleaved ? d ^ 1 : second ? d - turn.half : d + turn.half;
  const float cos = turn.cos[t * turn.half + pair], sin = turn.sin[t * turn.half + pair];
  const float own = widen(source[d]), across = widen(source[other]);
  narrow(second ? own * cos + across * sin : own * cos - across * sin, out[at]);
}

template <class In, class Out>
int start_norm(const In* x, const float* weight, int64_t rows, int64_t columns, float eps, Out* out, void* stream) {
  const bool four = columns % kFour == 0 && is_aligned(x, kFour * sizeof(In)) && is_aligned(weight, kFour * sizeof(float)) && is_aligned(out, kFour * sizeof(Out));
  return launch(four ? norm<In, Out, kFour> : norm<In, Out, 1>, to_grid(rows), kThreads, stream, x, weight, columns, eps, out);
}

}  // namespace

int rms_norm(const void* x, int x_type, const float* weight, int64_t rows, int64_t columns, float eps, int type, void* out, void* stream) {
  if (x_type != MIQ_FLOAT32 && x_type != type) return kInvalid;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    if (x_type == MIQ_FLOAT32) return start_norm(static_cast<const float*>(x), weight, rows, columns, eps, static_cast<T*>(out), stream);
    return start_norm(static_cast<const T*>(x), weight, rows, columns, eps, static_cast<T*>(out), stream);
  });
}

int silu_mul(const void* gate, int64_t gate_stride, const void* up, int64_t up_stride, int64_t rows, int64_t columns, int type, void* out, void* stream) {
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const size_t bytes = kFour * sizeof(T);
    const bool four = columns % kFour == 0 && gate_stride % kFour == 0 && up_stride % kFour == 0 && is_aligned(gate, bytes) && is_aligned(up, bytes) && is_aligned(out, bytes);
    const int64_t packs = rows * columns / (four ? kFour : 1);
    return launch(four ? gate_and_up<T, kFour> : gate_and_up<T, 1>, to_grid(ceil_div(packs, kThreads)), kThreads, stream, static_cast<const T*>(gate), gate_stride,
                  static_cast<const T*>(up), up_stride, columns, packs, static_cast<T*>(out));
  });
}

int add_to(float* hidden, const void* x, int type, int64_t count, void* stream) {
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const bool four = count % kFour == 0 && is_aligned(hidden, kFour * sizeof(float)) && is_aligned(x, kFour * sizeof(T));
    const int64_t packs = count / (four ? kFour : 1);
    return launch(four ? add<T, kFour> : add<T, 1>, to_grid(ceil_div(packs, kThreads)), kThreads, stream, hidden, static_cast<const T*>(x), packs);
  });
}

int rotate_pairs(const void* x, int64_t stride_b, int64_t stride_n, int64_t stride_t, int64_t batch, int64_t heads, int64_t tokens, int64_t dim, const float* cos, const float* sin,
                 int64_t half, int interleaved, int type, void* out, void* stream) {
  if (half < 0 || 2 * half > dim) return kInvalid;
  const Turn turn = {stride_b, stride_n, stride_t, heads, tokens, dim, batch * heads * tokens * dim, cos, sin, half, interleaved};
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    return launch(rotate<T>, to_grid(ceil_div(turn.count, kThreads)), kThreads, stream, static_cast<const T*>(x), turn, static_cast<T*>(out));
  });
}

}  // namespace MIQ_GPU_SPACE
}  // namespace miq::gpu
