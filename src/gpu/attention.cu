// Attention of one new token a text: twin of model/decode_attention.cpp. The cache is cut into as many parts as fill the card, whatever it
// holds; a block of threads takes one part for the query heads of one kv head, which so read it once, and a second step adds the parts.
#include "functions.h"
#include "portable.h"

namespace miq::gpu {
inline namespace MIQ_GPU_SPACE {
namespace {

constexpr int kThreads = 256, kGroups = kThreads / kGroup;
constexpr int kTile = 64;          // keys at once
constexpr int kLanesOfKey = 8;
constexpr int kMostDim = 256, kMostHeads = 8, kMostParts = 32;
constexpr int kWantedBlocks = 264;  // of threads, two on each processor of a large card
static_assert(kMostHeads <= kGroups && kTile == 2 * kGroup, "a group of lanes softens one head's tile");

template <int kHeads>
struct Block {
  alignas(32) float query[kHeads][kMostDim];
  float sums[kHeads][kMostDim], scores[kHeads][kTile], factors[kHeads];
};

// One part's result for a head, in scratch: [batch][heads][kMostParts].
struct Part {
  float* sums;     // [dim]
  float* largest;  // -inf: no key
  float* total;
};
__device__ inline Part part_of(const miq_decode_attention& a, int64_t b, int64_t head, int64_t part) {
  float* const at = static_cast<float*>(a.scratch) + ((b * a.heads + head) * kMostParts + part) * (a.dim + 2);
  return {at, at + a.dim, at + a.dim + 1};
}

// Element d of x, turned to its position.
template <class T>
__device__ inline T rotated(const miq_decode_attention& a, const T* x, int64_t position, int64_t d) {
  if (a.cos == nullptr || d >= 2 * a.half) return x[d];
  const bool second = a.interleaved ? d % 2 == 1 : d >= a.half;
  const int64_t pair = a.interleaved ? d / 2 : d % a.half, other = a.interleaved ? d ^ 1 : second ? d - a.half : d + a.half;
  const float cos = a.cos[position * a.half + pair], sin = a.sin[position * a.half + pair], own = widen(x[d]), across = widen(x[other]);
  T turned;
  narrow(second ? own * cos + across * sin : own * cos - across * sin, turned);
  return turned;
}

template <class T, int kCount, int kHeads>
__global__ void __launch_bounds__(kThreads) attend(miq_decode_attention a) {
  using Block = Block<kHeads>;
  MIQ_SHARED(Block, shared);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kGroup, lane = thread % kGroup, dim = static_cast<int>(a.dim), pieces = dim / kCount;
  const int64_t part = blockIdx.x, b = blockIdx.y / a.kv_heads, kv = blockIdx.y % a.kv_heads, sharing = a.heads / a.kv_heads;
  const int64_t first_head = kv * sharing + static_cast<int64_t>(blockIdx.z) * kHeads;
  const int heads = static_cast<int>((kv + 1) * sharing - first_head < kHeads ? (kv + 1) * sharing - first_head : kHeads);
  const int64_t past = *a.past, first = a.window > 0 && past + 1 > a.window ? past + 1 - a.window : 0, count = past + 1 - first;
  const int64_t share = ceil_div(ceil_div(count, gridDim.x), kTile) * kTile, begin = part * share, end = begin + share < count ? begin + share : count;
  if (begin >= end) {
    if (thread < heads) *part_of(a, b, first_head + thread, part).largest = -INFINITY;
    return;
  }
  T* const keys = static_cast<T*>(a.keys) + ((b * a.kv_heads + kv) * a.capacity + first) * dim;
  T* const values = static_cast<T*>(a.values) + ((b * a.kv_heads + kv) * a.capacity + first) * dim;
  if (end == count)  // the new key is in this part; blocks of other query heads write the same
    for (int d = thread; d < dim; d += kThreads) {
      keys[(count - 1) * dim + d] = rotated(a, static_cast<const T*>(a.key) + b * a.key_stride + kv * dim, past, d);
      values[(count - 1) * dim + d] = (static_cast<const T*>(a.value) + b * a.value_stride + kv * dim)[d];
    }
  const float scale = 1.0f / sqrtf(static_cast<float>(dim));
  for (int i = thread; i < kHeads * dim; i += kThreads) {
    const int h = i / dim, d = i % dim;
    const T* const query = static_cast<const T*>(a.query) + b * a.query_stride + (first_head + (h < heads ? h : 0)) * dim;
    shared.query[h][d] = widen(rotated(a, query, past, d)) * scale;
  }
  __syncthreads();

  float sums[kHeads][kCount] = {};
  const int key_groups = kThreads / pieces, piece = thread % pieces, key_group = thread / pieces;  // of values
  float largest = -INFINITY, total = 0;  // of head `warp`
  for (int64_t tile = begin; tile < end; tile += kTile) {
    for (int round = 0; round < kTile / kGroups * kLanesOfKey / kGroup; ++round) {
      const int in_tile = (round * kGroups + warp) * (kGroup / kLanesOfKey) + lane / kLanesOfKey;
      const int64_t j = tile + in_tile;
      float scores[kHeads] = {};
      for (int p = lane % kLanesOfKey; p < pieces && j < end; p += kLanesOfKey) {
        const Pack<T, kCount> key = load_pack<kCount>(keys + j * dim + p * kCount);
        MIQ_UNROLL
        for (int h = 0; h < kHeads; ++h) {
          const Pack<float, kCount> query = load_pack<kCount>(&shared.query[h][p * kCount]);
          MIQ_UNROLL
          for (int i = 0; i < kCount; ++i) scores[h] = fmaf(query.at[i], widen(key.at[i]), scores[h]);
        }
      }
      MIQ_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        MIQ_UNROLL
        for (int mask = 1; mask < kLanesOfKey; mask *= 2) scores[h] += shuffle_xor(scores[h], mask);
        if (lane % kLanesOfKey != 0) continue;
        const float slope = a.slopes != nullptr && h < heads ? a.slopes[first_head + h] : 0.0f;
        shared.scores[h][in_tile] = j < end ? scores[h] + slope * static_cast<float>(j + 1 - count) : -INFINITY;
      }
    }
    __syncthreads();
    if (warp < kHeads) {
      const float low = shared.scores[warp][lane], high = shared.scores[warp][lane + kGroup];
      const float now = greater(largest, group_max(greater(low, high)));
      const float low_weight = expf(low - now), high_weight = expf(high - now), factor = expf(largest - now);
      total = total * factor + group_sum(low_weight + high_weight);
      largest = now;
      shared.scores[warp][lane] = low_weight;
      shared.scores[warp][lane + kGroup] = high_weight;
      if (lane == 0) shared.factors[warp] = factor;
    }
    __syncthreads();
    if (key_group < key_groups) {
      MIQ_UNROLL
      for (int h = 0; h < kHeads; ++h)
        MIQ_UNROLL
        for (int i = 0; i < kCount; ++i) sums[h][i] *= shared.factors[h];
      for (int k = key_group; k < kTile && tile + k < end; k += key_groups) {
        const Pack<T, kCount> value = load_pack<kCount>(values + (tile + k) * dim + piece * kCount);
        MIQ_UNROLL
        for (int h = 0; h < kHeads; ++h)
          MIQ_UNROLL
          for (int i = 0; i < kCount; ++i) sums[h][i] = fmaf(shared.scores[h][k], widen(value.at[i]), sums[h][i]);
      }
    }
    __syncthreads();
  }

  // Threads of one piece add up: by exchange where they are lanes of one group, then one after another.
  const bool in_group = kGroup % pieces == 0;
  if (in_group)
    for (int mask = pieces; mask < kGroup; mask *= 2)
      MIQ_UNROLL
      for (int h = 0; h < kHeads; ++h)
        MIQ_UNROLL
        for (int i = 0; i < kCount; ++i) sums[h][i] += shuffle_xor(sums[h][i], mask);
  const int turns = in_group ? kGroups : key_groups, turn = in_group ? warp : key_group;
  for (int t = 0; t < turns; ++t) {
    if (turn == t && (!in_group || lane < pieces))
      MIQ_UNROLL
      for (int h = 0; h < kHeads; ++h)
        MIQ_UNROLL
        for (int i = 0; i < kCount; ++i) {
          float& sum = shared.sums[h][piece * kCount + i];
          sum = t == 0 ? sums[h][i] : sum + sums[h][i];
        }
    __syncthreads();
  }
  for (int i = thread; i < heads * dim; i += kThreads) part_of(a, b, first_head + i / dim, part).sums[i % dim] = shared.sums[i / dim][i % dim];
  if (warp < heads && lane == 0) {
    const Part mine = part_of(a, b, first_head + warp, part);
    *mine.largest = largest;
    *mine.total = total;
  }
}

template <class T>
__global__ void __launch_bounds__(kMostDim) add_parts(miq_decode_attention a, int parts) {
  const int64_t head = blockIdx.x, b = blockIdx.y, d = threadIdx.x;
  if (d >= a.dim) return;
  float largest = -INFINITY, total = 0, sum = 0;
  for (int p = 0; p < parts; ++p) largest = greater(largest, *part_of(a, b, head, p).largest);
  for (int p = 0; p < parts; ++p) {
    const Part part = part_of(a, b, head, p);
    if (*part.largest == -INFINITY) continue;
    const float weight = expf(*part.largest - largest);
    total = fmaf(*part.total, weight, total);
    sum = fmaf(part.sums[d], weight, sum);
  }
  narrow(sum / total, static_cast<T*>(a.out)[(b * a.heads + head) * a.dim + d]);
}

template <class T, int kCount, int kHeads>
int start(const miq_decode_attention& a, void* stream) {
  const int64_t texts = a.batch * a.kv_heads, head_blocks = ceil_div(a.heads / a.kv_heads, kHeads);
  const int64_t wanted = ceil_div(kWantedBlocks, texts * head_blocks);
  const int parts = static_cast<int>(wanted < kMostParts ? wanted : kMostParts);
  const int code = launch(attend<T, kCount, kHeads>, dim3(to_grid(parts), to_grid(texts), to_grid(head_blocks)), kThreads, stream, a);
  if (code != 0) return code;
  return launch(add_parts<T>, dim3(to_grid(a.heads), to_grid(a.batch)), to_grid(ceil_div(a.dim, kGroup) * kGroup), stream, a, parts);
}

template <class T, int kCount>
int start_heads(const miq_decode_attention& a, void* stream) {
  const int64_t sharing = a.heads / a.kv_heads;
  if (sharing == 1) return start<T, kCount, 1>(a, stream);
  if (sharing == 2) return start<T, kCount, 2>(a, stream);
  if (sharing <= 4) return start<T, kCount, 4>(a, stream);
  return start<T, kCount, kMostHeads>(a, stream);
}

}  // namespace

size_t decode_attention_scratch(int64_t batch, int64_t heads, int64_t dim) { return static_cast<size_t>(batch * heads * kMostParts * (dim + 2)) * sizeof(float); }

int decode_attention(const miq_decode_attention* attention, void* stream) {
  const miq_decode_attention& a = *attention;
  if (a.dim < 1 || a.dim > kMostDim || a.kv_heads < 1 || a.heads % a.kv_heads != 0 || a.batch * a.kv_heads > 65535 || (a.cos != nullptr && 2 * a.half > a.dim)) return kInvalid;
  return with_type(a.type, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kCount = 16 / sizeof(T);
    const bool wide = a.dim % kCount == 0 && is_aligned(a.keys, 16) && is_aligned(a.values, 16);
    return wide ? start_heads<T, kCount>(a, stream) : start_heads<T, 1>(a, stream);
  });
}

}  // namespace MIQ_GPU_SPACE
}  // namespace miq::gpu
