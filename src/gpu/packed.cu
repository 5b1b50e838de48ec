// Codes into their packed layout and out of it.
#include "functions.h"
#include "packed_layout.h"

namespace miq::gpu {
inline namespace MIQ_GPU_SPACE {
namespace {

constexpr int kThreads = 256;
constexpr int kQuadsAtOnce = 32;  // of a row, by the lanes of a group

// A thread makes one dword of a chunk.
__global__ void __launch_bounds__(kThreads) pack(const uint8_t* codes, miq_packed_matrix m, int64_t chunks, int64_t dwords, uint32_t* packed) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= dwords) return;
  const int64_t chunk = at / (16 * m.bits) % chunks, panel = at / (16 * m.bits) / chunks;
  const int in_chunk = static_cast<int>(at % (16 * m.bits));
  uint32_t dword = 0;
  const auto code_at = [&](int64_t row, int64_t position) -> uint32_t {
    if (row >= m.rows || position >= m.columns) return 0;
    return codes[row * m.columns + (m.order != nullptr ? m.order[position] : position)];
  };
  if (m.type != 0) {  // the 16 rows of a column lie together
    for (int b = 0; b < 4; ++b) dword |= code_at(panel * kPanelRows + in_chunk % 4 * 4 + b, chunk * kChunk + in_chunk / 4) << (8 * b);
    packed[at] = dword;
    return;
  }
  const int vector = in_chunk / kPanelRows;
  const int64_t row = panel * kPanelRows + in_chunk % kPanelRows;
  for (int width = 8; width > 0; width /= 2) {
    if (!has_plane(m.bits, width)) continue;
    const int shift = plane_shift(m.bits, width);
    if (vector < shift || vector >= shift + width) continue;
    const int first = (vector - shift) * 8 / width;  // quad
    for (int q = 0; q < 8 / width; ++q)
      for (int b = 0; b < 4; ++b) dword |= (code_at(row, chunk * kChunk + 4 * (first + q) + b) >> shift & ((1u << width) - 1)) << (8 * b + q * width);
  }
  packed[at] = dword;
}

// The four codes of a quad, a byte each.
__device__ inline uint32_t four_codes(const miq_packed_matrix& m, int64_t chunks, int64_t panel, int lane, int64_t quad) {
  const uint8_t* const chunk = m.codes + (panel * chunks + quad / kQuads) * 64 * m.bits;
  const int t = static_cast<int>(quad % kQuads);
  if (m.type == 0) return quad_codes(reinterpret_cast<const uint32_t*>(chunk) + lane, kPanelRows, t, m.bits);
  uint32_t codes = 0;
  for (int b = 0; b < 4; ++b) codes |= static_cast<uint32_t>(chunk[(4 * t + b) * kPanelRows + lane]) << (8 * b);
  return codes;
}

// A block of threads takes 16 rows by 128 columns, a group of lanes each row: what is written lies together, what is read is in the first cache.
template <class Put>
__device__ inline void for_each_code(const miq_packed_matrix& m, int64_t chunks, const Put& put) {
  const int lane = static_cast<int>(threadIdx.x) / kGroup;
  const int64_t panel = blockIdx.x, row = panel * kPanelRows + lane, quad = static_cast<int64_t>(blockIdx.y) * kQuadsAtOnce + threadIdx.x % kGroup;
  if (row >= m.rows || 4 * quad >= m.columns) return;
  const uint32_t codes = four_codes(m, chunks, panel, lane, quad);
  for (int b = 0; b < 4; ++b) {
    const int64_t position = 4 * quad + b;
    if (position < m.columns) put(row, position, m.order != nullptr ? m.order[position] : position, static_cast<uint8_t>(codes >> (8 * b)));
  }
}

__global__ void __launch_bounds__(kPanelRows* kGroup) unpack(miq_packed_matrix m, int64_t chunks, uint8_t* codes) {
  for_each_code(m, chunks, [&](int64_t row, int64_t, int64_t column, uint8_t code) { codes[row * m.columns + column] = code; });
}

template <class T>
__global__ void __launch_bounds__(kPanelRows* kGroup) widen_codes(miq_packed_matrix m, int64_t chunks, T* values) {
  for_each_code(m, chunks, [&](int64_t row, int64_t position, int64_t column, uint8_t code) {
    const int64_t at = (row / kPanelRows * m.groups + position / m.group) * kPanelRows + row % kPanelRows;
    const float number = m.type == 0 ? static_cast<float>(code) - value_at(m.zeros, at) : fp8_value(code, m.type);
    narrow(value_at(m.scales, at) * number, values[row * m.columns + column]);
  });
}

template <class Kernel, class... A>
int start(Kernel kernel, const miq_packed_matrix& m, void* stream, A... out) {
  if (!is_packable(m)) return kInvalid;
  const dim3 grid(to_grid(ceil_div(m.rows, kPanelRows)), to_grid(ceil_div(m.columns, 4 * kQuadsAtOnce)));
  return launch(kernel, grid, kPanelRows * kGroup, stream, m, ceil_div(m.columns, kChunk), out...);
}

}  // namespace

int pack_codes(const uint8_t* codes, const miq_packed_matrix* matrix, uint8_t* packed, void* stream) {
  if (!is_packable(*matrix)) return kInvalid;
  const int64_t chunks = ceil_div(matrix->columns, kChunk), dwords = ceil_div(matrix->rows, kPanelRows) * chunks * 16 * matrix->bits;
  return launch(pack, to_grid(ceil_div(dwords, kThreads)), kThreads, stream, codes, *matrix, chunks, dwords, reinterpret_cast<uint32_t*>(packed));
}

int unpack_codes(const miq_packed_matrix* matrix, uint8_t* codes, void* stream) { return start(unpack, *matrix, stream, codes); }

int unpack_values(const miq_packed_matrix* matrix, int type, void* values, void* stream) {
  if (matrix->group <= 0 || matrix->groups != ceil_div(matrix->columns, matrix->group)) return kInvalid;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    return start(widen_codes<T>, *matrix, stream, static_cast<T*>(values));
  });
}

}  // namespace MIQ_GPU_SPACE
}  // namespace miq::gpu
