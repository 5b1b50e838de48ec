// What chooses codes: GPTQ's column loop, groups fitted on their own, the nearest codes.
#include "functions.h"
#include "group_fit.h"

namespace miq::gpu {
inline namespace MIQ_GPU_SPACE {
namespace {

constexpr int kRows = 4;      // of a block of threads, a group of lanes each
constexpr int kColumns = 4;   // of a lane: 32 i + lane
constexpr int kBlock = kGroup * kColumns;

struct RowWeights {
  float at[kRows][kBlock];
};

// Lanes hold the row's weights, in turn broadcast the one that is rounded, and all know its code and its error: each updates its own.
__global__ void __launch_bounds__(kRows* kGroup) round_columns(miq_column_block b) {
  MIQ_SHARED(RowWeights, fitting);
  const int lane = static_cast<int>(threadIdx.x) % kGroup, warp = static_cast<int>(threadIdx.x) / kGroup;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + warp;
  if (row >= b.rows) return;
  const int width = static_cast<int>(b.end - b.begin);
  float* const weights = b.weights + row * b.columns + b.begin;
  const float* upper = b.upper + b.begin * b.columns + b.begin;  // U[k][begin ..]
  float values[kColumns], errors[kColumns], u[kColumns], next[kColumns];
  int slots[kColumns];
  uint8_t codes[kColumns];
  MIQ_UNROLL
  for (int i = 0; i < kColumns; ++i) {
    const int c = kGroup * i + lane;
    values[i] = c < width ? weights[c] : 0.0f;
    slots[i] = c < width ? b.slot[b.begin + c] : 0;
    next[i] = c < width ? upper[c] : 0.0f;
    errors[i] = 0;
    codes[i] = 0;
  }
  Fitted fitted = {};
  int slot = -1;
  float squares = 0;
  // Columns until the next group that is fitted here begins.
  const int group = static_cast<int>(b.fit_group);
  int to_fit = group > 0 ? static_cast<int>((group - b.begin % group) % group) : -1;
  MIQ_UNROLL
  for (int i = 0; i < kColumns; ++i)
    for (int l = 0; l < kGroup; ++l) {
      const int k = kGroup * i + l;
      if (k >= width) break;
      MIQ_UNROLL
      for (int j = 0; j < kColumns; ++j) u[j] = next[j];
      upper += b.columns;  // the next row comes while this column is worked on
      MIQ_UNROLL
      for (int j = 0; j < kColumns; ++j) next[j] = k + 1 < width && kGroup * j + lane < width ? upper[kGroup * j + lane] : 0.0f;
      const int its_slot = shuffle(slots[i], l);
      if (to_fit == 0) {
        MIQ_UNROLL
        for (int j = 0; j < kColumns; ++j) fitting.at[warp][kGroup * j + lane] = values[j];
        sync_group();
        const int count = group < width - k ? group : width - k;
        fitted = fit_weights(&fitting.at[warp][k], count, nullptr, b.grid, b.range);
        sync_group();
        if (lane == 0) {
          b.scales[row * b.groups + its_slot] = fitted.scale;
          b.zeros[row * b.groups + its_slot] = fitted.zero;
        }
        to_fit = group;
      } else if (its_slot != slot) {
        fitted = finish(b.scales[row * b.groups + its_slot], b.zeros[row * b.groups + its_slot], b.grid);
      }
      slot = its_slot;
      --to_fit;
      const float w = shuffle(values[i], l);
      const Rounded rounded = round_weight(w, fitted, b.grid);
      const float error = weight_minus_value(w, fitted.scale, rounded.steps) / shuffle(u[i], l);
      squares = fmaf(error, error, squares);
      if (lane == l) {
        codes[i] = code_byte(rounded.code, b.grid.type);
        errors[i] = error;
      }
      MIQ_UNROLL
      for (int j = i; j < kColumns; ++j)
        if (j > i || lane > l) values[j] = fmaf(-error, u[j], values[j]);
    }
  MIQ_UNROLL
  for (int i = 0; i < kColumns; ++i) {
    const int c = kGroup * i + lane;
    if (c >= width) continue;
    weights[c] = values[i];
    b.codes[row * b.columns + b.begin + c] = codes[i];
    b.errors[row * width + c] = errors[i];
  }
  if (lane == 0) b.squares[row] += squares;
}

__global__ void __launch_bounds__(kRows* kGroup) fit_each(miq_group_fit f, int64_t groups) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kGroup;
  if (at >= f.rows * groups) return;
  const int64_t row = at / groups, g = at % groups, first = f.begin + g * f.group, rest = f.end - first, to = row * f.stride + f.first_group + g;
  const Fitted fitted = fit_weights(f.weights + row * f.columns + first, rest < f.group ? rest : f.group, f.limits != nullptr ? f.limits + to : nullptr, f.grid, f.range);
  if (threadIdx.x % kGroup != 0) return;
  f.scales[to] = fitted.scale;
  f.zeros[to] = fitted.zero;
}

__global__ void __launch_bounds__(kRows* kGroup) round_each(miq_nearest n) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kGroup;
  if (at >= n.rows * n.groups) return;
  const int64_t row = at / n.groups, first = at % n.groups * n.group, end = first + n.group < n.columns ? first + n.group : n.columns;
  const Fitted fitted = finish(n.scales[at], n.zeros[at], n.grid);
  for (int64_t c = first + threadIdx.x % kGroup; c < end; c += kGroup) {
    const Rounded rounded = round_weight(n.weights[row * n.columns + c], fitted, n.grid);
    if (n.codes != nullptr) n.codes[row * n.columns + c] = code_byte(rounded.code, n.grid.type);
    if (n.values != nullptr) n.values[row * n.columns + c] = fitted.scale * rounded.steps;
  }
}

}  // namespace

const char* describe_error(int code) { return error_text(code); }

int gptq_columns(const miq_column_block* block, void* stream) {
  const int64_t width = block->end - block->begin;
  if (width < 0 || width > kBlock || block->begin < 0 || block->end > block->columns || block->fit_group < 0 || block->fit_group > block->columns) return kInvalid;
  if (width == 0) return 0;
  return launch(round_columns, to_grid(ceil_div(block->rows, kRows)), kRows * kGroup, stream, *block);
}

int fit_groups(const miq_group_fit* fit, void* stream) {
  if (fit->group <= 0 || fit->begin < 0 || fit->begin > fit->end || fit->end > fit->columns || (fit->limits != nullptr && fit->range.kind != 0)) return kInvalid;
  const int64_t groups = ceil_div(fit->end - fit->begin, fit->group);
  return launch(fit_each, to_grid(ceil_div(fit->rows * groups, kRows)), kRows * kGroup, stream, *fit, groups);
}

int round_nearest(const miq_nearest* nearest, void* stream) {
  if (nearest->group <= 0 || nearest->groups != ceil_div(nearest->columns, nearest->group)) return kInvalid;
  return launch(round_each, to_grid(ceil_div(nearest->rows * nearest->groups, kRows)), kRows * kGroup, stream, *nearest);
}

}  // namespace MIQ_GPU_SPACE
}  // namespace miq::gpu
