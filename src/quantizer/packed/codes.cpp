#include "codes.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <array>
#include <cstring>

#include "miq/core/narrow_float.h"
#include "miq/core/vectorised.h"
#include "storage.h"

namespace miq::quantizer::packed {
namespace {

// Which part of a dword of plane `Width` quad t is, to its place in a code.
template <int Bits, int Width>
MIQ_INLINE std::uint32_t plane_bits(const std::uint32_t* chunk, std::int64_t lane, int t) {
  if constexpr (!has_plane(Bits, Width)) return 0;
  constexpr std::uint32_t mask = 0x01010101u * ((1u << Width) - 1);
  const std::uint32_t dword = chunk[plane_offset(Bits, Width) / 4 + t * Width / 8 * kPanelRows + lane];
  return (dword >> (t * Width % 8) & mask) << plane_shift(Bits, Width);
}

template <int Bits>
MIQ_INLINE void unpack_bits(const std::uint32_t* chunk, std::uint32_t* quads) {
  for (int t = 0; t < kQuads; ++t)
#pragma omp simd
    for (std::int64_t lane = 0; lane < kPanelRows; ++lane)
      quads[lane * kQuads + t] = plane_bits<Bits, 8>(chunk, lane, t) | plane_bits<Bits, 4>(chunk, lane, t) |
                                 plane_bits<Bits, 2>(chunk, lane, t) | plane_bits<Bits, 1>(chunk, lane, t);
}

MIQ_VECTORISED void unpack_quads(const std::uint32_t* chunk, int bits, std::uint32_t* quads) {
  switch (bits) {
    case 2: return unpack_bits<2>(chunk, quads);
    case 3: return unpack_bits<3>(chunk, quads);
    case 4: return unpack_bits<4>(chunk, quads);
    case 5: return unpack_bits<5>(chunk, quads);
    case 6: return unpack_bits<6>(chunk, quads);
    case 7: return unpack_bits<7>(chunk, quads);
    default: return unpack_bits<8>(chunk, quads);
  }
}

void pack_chunk(const Tile& tile, int bits, std::uint8_t* chunk) {
  auto* const dwords = reinterpret_cast<std::uint32_t*>(chunk);
  for (const int width : {8, 4, 2, 1}) {
    if (!has_plane(bits, width)) continue;
    const std::uint32_t mask = 0x01010101u * ((1u << width) - 1);
    for (int t = 0; t < kQuads; ++t)
      for (std::int64_t lane = 0; lane < kPanelRows; ++lane)
        dwords[plane_offset(bits, width) / 4 + t * width / 8 * kPanelRows + lane] |=
            (tile.quads[lane * kQuads + t] >> plane_shift(bits, width) & mask) << (t * width % 8);
  }
}

// One row's piece of a tile as values; `end` - `begin` columns of one group.
template <class T>
MIQ_INLINE void place_values(const std::uint8_t* code, std::int64_t count, float scale, float zero, T* out) {
#pragma omp simd
  for (std::int64_t c = 0; c < count; ++c) store(scale * (static_cast<float>(code[c]) - zero), out[c]);
}

#define MIQ_VALUES(T)                                                                                            \
  MIQ_VECTORISED void values(const std::uint8_t* code, std::int64_t count, float scale, float zero, T* out) {   \
    if (count == kChunk)                                                                                         \
      place_values(code, kChunk, scale, zero, out);                                                              \
    else                                                                                                         \
      place_values(code, count, scale, zero, out);                                                               \
  }
MIQ_VALUES(float)
MIQ_VALUES(at::BFloat16)
MIQ_VALUES(at::Half)
#undef MIQ_VALUES

struct Shape {
  std::int64_t rows, columns;
  CodeType type;
  int bits;
  std::int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  std::int64_t chunks() const { return (columns + kChunk - 1) / kChunk; }
};

// Calls act(first_row, valid_rows, first_column, valid_columns, tile) for every chunk, panels in parallel.
template <class Act>
void for_each_tile(const at::Tensor& packed, const Shape& shape, const Act& act) {
  const std::uint8_t* const codes = packed.const_data_ptr<std::uint8_t>();
  const std::int64_t chunks = shape.chunks(), chunk_bytes = 64 * shape.bits;
  at::parallel_for(0, shape.panels(), 4, [&](std::int64_t begin, std::int64_t end) {
    Tile tile;
    for (std::int64_t p = begin; p < end; ++p)
      for (std::int64_t k = 0; k < chunks; ++k) {
        const std::uint8_t* const chunk = codes + (p * chunks + k) * chunk_bytes;
        if (shape.type == CodeType::integer) unpack_chunk(chunk, shape.bits, tile);
        else unpack_fp8_chunk(chunk, tile);
        act(p * kPanelRows, std::min(kPanelRows, shape.rows - p * kPanelRows), k * kChunk, std::min(kChunk, shape.columns - k * kChunk), tile);
      }
  });
}

const std::int32_t* data_of(const at::Tensor& order) { return order.defined() ? order.const_data_ptr<std::int32_t>() : nullptr; }

}  // namespace

void unpack_chunk(const std::uint8_t* chunk, int bits, Tile& tile) { unpack_quads(reinterpret_cast<const std::uint32_t*>(chunk), bits, tile.quads); }

void unpack_fp8_chunk(const std::uint8_t* chunk, Tile& tile) {
  auto* const bytes = reinterpret_cast<std::uint8_t*>(tile.quads);
  for (std::int64_t c = 0; c < kChunk; ++c)
    for (std::int64_t lane = 0; lane < kPanelRows; ++lane) bytes[lane * kChunk + c] = chunk[c * kPanelRows + lane];
}

at::Tensor pack_codes(const at::Tensor& codes_OI, CodeType type, int bits, const at::Tensor& order) {
  const at::Tensor source = codes_OI.to(at::kCPU, at::kByte).contiguous();
  const Shape shape{source.size(0), source.size(1), type, bits};
  const std::int64_t chunks = shape.chunks(), chunk_bytes = 64 * bits;
  at::Tensor packed = allocate({shape.panels(), chunks * chunk_bytes}, at::kByte);
  const std::uint8_t* const codes = source.const_data_ptr<std::uint8_t>();
  const std::int32_t* const column_at = data_of(order);
  std::uint8_t* const out = packed.mutable_data_ptr<std::uint8_t>();
  at::parallel_for(0, shape.panels(), 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p)
      for (std::int64_t k = 0; k < chunks; ++k) {
        Tile tile{};
        auto* const bytes = reinterpret_cast<std::uint8_t*>(tile.quads);
        const std::int64_t valid = std::min(kPanelRows, shape.rows - p * kPanelRows), first = k * kChunk, width = std::min(kChunk, shape.columns - first);
        for (std::int64_t lane = 0; lane < valid; ++lane) {
          const std::uint8_t* const row = codes + (p * kPanelRows + lane) * shape.columns;
          for (std::int64_t c = 0; c < width; ++c) bytes[lane * kChunk + c] = row[column_at ? column_at[first + c] : first + c];
        }
        std::uint8_t* const chunk = out + (p * chunks + k) * chunk_bytes;
        if (type == CodeType::integer) {
          pack_chunk(tile, bits, chunk);
          continue;
        }
        for (std::int64_t c = 0; c < kChunk; ++c)
          for (std::int64_t lane = 0; lane < kPanelRows; ++lane) chunk[c * kPanelRows + lane] = bytes[lane * kChunk + c];
      }
  });
  return packed;
}

at::Tensor unpack_codes(const at::Tensor& packed, std::int64_t rows, std::int64_t columns, CodeType type, int bits, const at::Tensor& order) {
  at::Tensor codes = at::empty({rows, columns}, at::kByte);
  std::uint8_t* const out = codes.mutable_data_ptr<std::uint8_t>();
  const std::int32_t* const column_at = data_of(order);
  for_each_tile(packed, {rows, columns, type, bits}, [&](std::int64_t row, std::int64_t valid, std::int64_t first, std::int64_t width, const Tile& tile) {
    for (std::int64_t lane = 0; lane < valid; ++lane) {
      std::uint8_t* const target = out + (row + lane) * columns;
      if (column_at == nullptr) std::memcpy(target + first, tile.row(lane), static_cast<size_t>(width));
      else
        for (std::int64_t c = 0; c < width; ++c) target[column_at[first + c]] = tile.row(lane)[c];
    }
  });
  return codes;
}

at::Tensor dequantize_codes(const at::Tensor& packed, const at::Tensor& scales_OG, const at::Tensor& zeros_OG, std::int64_t columns, CodeType type,
                            int bits, std::int64_t group, const at::Tensor& order, at::ScalarType dtype) {
  const std::int64_t rows = scales_OG.size(0), groups = scales_OG.size(1);
  const float* const scales = scales_OG.const_data_ptr<float>();
  const float* const zeros = zeros_OG.const_data_ptr<float>();
  const float* const floats = type == CodeType::integer ? nullptr : fp8_values(type);
  const std::int32_t* const column_at = data_of(order);
  at::Tensor weight = at::empty({rows, columns}, dtype);
  with_float_type(dtype, [&](auto none) {
    using T = decltype(none);
    T* const out = weight.mutable_data_ptr<T>();
    for_each_tile(packed, {rows, columns, type, bits}, [&](std::int64_t row, std::int64_t valid, std::int64_t first, std::int64_t width, const Tile& tile) {
      for (std::int64_t lane = 0; lane < valid; ++lane) {
        const std::uint8_t* const code = tile.row(lane);
        T* const target = out + (row + lane) * columns;
        for (std::int64_t c = 0; c < width;) {
          const std::int64_t g = (first + c) / group, end = std::min(width, (g + 1) * group - first), at = (row + lane) * groups + g;
          if (floats == nullptr && column_at == nullptr) {
            values(code + c, end - c, scales[at], zeros[at], target + first + c);
            c = end;
          }
          for (; c < end; ++c)
            store(scales[at] * (floats ? floats[code[c]] : static_cast<float>(code[c]) - zeros[at]), target[column_at ? column_at[first + c] : first + c]);
        }
      }
    });
  });
  return weight;
}

at::Tensor smallest_type(const at::Tensor& values) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) {
    const at::Tensor narrow = values.to(type);
    if (at::equal(narrow.to(at::kFloat), values)) return narrow;
  }
  return values;
}

at::Tensor pack_parameters(const at::Tensor& values_OG) {
  const at::Tensor values = values_OG.to(at::kCPU, at::kFloat).contiguous();
  const std::int64_t rows = values.size(0), groups = values.size(1), panels = (rows + kPanelRows - 1) / kPanelRows;
  if (values.numel() > 0 && values.eq(values.flatten()[0]).all().item<bool>()) return values.flatten()[0].clone();
  const bool whole = values.eq(values.round()).logical_and(values >= 0).logical_and(values <= 255).all().item<bool>();
  const at::Tensor narrow = whole ? values.to(at::kByte) : smallest_type(values);
  return keep(at::constant_pad_nd(narrow, {0, 0, 0, panels * kPanelRows - rows}).view({panels, kPanelRows, groups}).transpose(1, 2));
}

at::Tensor unpack_parameters(const at::Tensor& packed, std::int64_t rows, std::int64_t groups) {
  const at::Tensor values = packed.to(at::kCPU, at::kFloat);
  if (values.dim() == 0) return at::full({rows, groups}, values.item<float>(), at::kFloat);
  return values.transpose(1, 2).reshape({-1, groups}).narrow(0, 0, rows).contiguous();
}

Parameters parameters(const at::Tensor& packed) {
  if (packed.dim() == 0) return {Store::constant, packed.item<float>(), nullptr};
  const Store store = packed.scalar_type() == at::kByte    ? Store::uint8
                      : packed.scalar_type() == at::kHalf  ? Store::float16
                      : packed.scalar_type() == at::kFloat ? Store::float32
                                                           : Store::bfloat16;
  return {store, 0, packed.const_data_ptr()};
}

float value_at(const Parameters& p, std::int64_t at) {
  switch (p.store) {
    case Store::uint8: return static_cast<const std::uint8_t*>(p.data)[at];
    case Store::float16: return widen(static_cast<const at::Half*>(p.data)[at]);
    case Store::bfloat16: return widen(static_cast<const at::BFloat16*>(p.data)[at]);
    case Store::float32: return static_cast<const float*>(p.data)[at];
    default: return p.value;
  }
}

const float* fp8_values(CodeType type) {
  const auto table = [](at::ScalarType dtype) { return at::arange(256, at::kInt).to(at::kByte).view(dtype).to(at::kFloat); };
  static const at::Tensor e4m3 = table(at::kFloat8_e4m3fn), e5m2 = table(at::kFloat8_e5m2);
  return (type == CodeType::fp8_e4m3 ? e4m3 : e5m2).const_data_ptr<float>();
}

int code_at(const Matrix& m, std::int64_t row, std::int64_t column) {
  const std::int64_t panel = row / kPanelRows, lane = row % kPanelRows, k = column / kChunk;
  const std::uint8_t* const chunk = m.codes + panel * m.panel_bytes() + k * 64 * m.bits;
  if (m.type != CodeType::integer) return chunk[column % kChunk * kPanelRows + lane];
  const auto t = static_cast<int>(column % kChunk / 4), b = static_cast<int>(column % 4);
  int code = 0;
  for (const int width : {8, 4, 2, 1}) {
    if (!has_plane(m.bits, width)) continue;
    const int byte = chunk[plane_offset(m.bits, width) + 64 * (t * width / 8) + 4 * lane + b];
    code |= (byte >> (t * width % 8) & ((1 << width) - 1)) << plane_shift(m.bits, width);
  }
  return code;
}

}  // namespace miq::quantizer::packed
