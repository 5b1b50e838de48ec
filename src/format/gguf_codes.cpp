// Codes of a quantized linear as ggml's blocks, and back. A block's value is d * q (Q4_0, Q5_0, Q8_0, q signed) or d * q + m.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/Half.h>

#include <atomic>
#include <cmath>
#include <cstring>

#include "miq/core/error.h"
#include "miq/format/gguf.h"

namespace miq::format {
namespace {

constexpr std::int64_t kBlock = 32;

// The types with a scale for each 32 values.
struct BlockType {
  std::int32_t type;
  int bits, zero;  // zero: stored codes are that much above the signed ones
  bool minimum;
};
constexpr BlockType kTypes[] = {  // by size
    {kGgmlQ4_0, 4, 8, false}, {kGgmlQ4_1, 4, 0, true}, {kGgmlQ5_0, 5, 16, false}, {kGgmlQ5_1, 5, 0, true}, {kGgmlQ8_0, 8, 128, false}};

const BlockType* find_type(std::int32_t type) {
  for (const BlockType& row : kTypes)
    if (row.type == type) return &row;
  return nullptr;
}

// Why blocks of 32 cannot hold such weights.
std::optional<std::string> weight_loss(const Scheme& scheme, const BlockType& type) {
  const quantizer::Grid& grid = scheme.grid;
  if (scheme.divisor || scheme.rotated_input || scheme.rotated_output) return "its online transform goes into the weight";
  if (scheme.outliers) return "its outliers go among the other weights";
  if (scheme.group_of_column) return "its groups are not runs of columns";
  if (!grid.is_integer() || grid.bilevel.enabled()) return "its grid is not one of integers with a scale for each group";
  if (grid.granularity == quantizer::Granularity::block) return "a block of its grid is a square";
  if (scheme.in_features % kBlock != 0 || (grid.granularity == quantizer::Granularity::group && grid.group_size % kBlock != 0))
    return "its groups are not whole blocks of 32";
  if (grid.scale_dtype != at::kHalf) return "its scales are not numbers of float16 (quantize with that type of scales)";
  const bool whole_zeros = !grid.real_zeros && grid.convention != quantizer::GridConvention::quip;
  if (type.minimum) {
    if (grid.bits > type.bits) return "its codes have more bits";
    if (!grid.symmetric || !whole_zeros) return "its minima, -zero * scale, are rounded to float16 (codes and scales stay)";
    return std::nullopt;
  }
  if (!whole_zeros) return "its zeros are not codes";
  // Codes less a zero between 0 and the largest code: one bit more, unless the zero is in the middle.
  if (grid.bits + (grid.symmetric ? 0 : 1) > type.bits) return grid.bits > type.bits ? "its codes have more bits" : "its codes less their zeros have more bits";
  return std::nullopt;
}

bool keeps_codes(const Scheme& scheme, const BlockType& type) {
  const auto loss = weight_loss(scheme, type);
  return !loss || loss->find("codes and scales stay") != std::string::npos;
}

// The words of the file for 32 codes.
void pack_block(const std::uint8_t* codes, const BlockType& type, float d, float m, std::uint8_t* out) {
  const auto store = [&out](float x) {
    const std::uint16_t bits = c10::detail::fp16_ieee_from_fp32_value(x);
    std::memcpy(out, &bits, 2);
    out += 2;
  };
  store(d);
  if (type.minimum) store(m);
  if (type.bits == 8) {
    for (int i = 0; i < kBlock; ++i) out[i] = static_cast<std::uint8_t>(codes[i] ^ 0x80);  // code - 128, as a signed byte
    return;
  }
  if (type.bits == 5) {
    std::uint32_t fifth = 0;
    for (int i = 0; i < kBlock; ++i) fifth |= static_cast<std::uint32_t>(codes[i] >> 4) << i;
    std::memcpy(out, &fifth, 4);
    out += 4;
  }
  for (int i = 0; i < 16; ++i) out[i] = static_cast<std::uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

void unpack_block(const std::uint8_t* in, const BlockType& type, std::uint8_t* codes, float& d, float& m) {
  const auto load = [&in] {
    std::uint16_t bits;
    std::memcpy(&bits, in, 2);
    in += 2;
    return c10::detail::fp16_ieee_to_fp32_value(bits);
  };
  d = load();
  m = type.minimum ? load() : 0;
  if (type.bits == 8) {
    for (int i = 0; i < kBlock; ++i) codes[i] = static_cast<std::uint8_t>(in[i] ^ 0x80);
    return;
  }
  std::uint32_t fifth = 0;
  if (type.bits == 5) {
    std::memcpy(&fifth, in, 4);
    in += 4;
  }
  for (int i = 0; i < 16; ++i) {
    codes[i] = static_cast<std::uint8_t>((in[i] & 15) | (fifth >> i & 1) << 4);
    codes[i + 16] = static_cast<std::uint8_t>(in[i] >> 4 | (fifth >> (i + 16) & 1) << 4);
  }
}

template <class Body>
void for_rows(std::int64_t rows, std::int64_t columns, const Body& body) {
  at::parallel_for(0, rows, std::max<std::int64_t>(1, 32768 / std::max<std::int64_t>(columns, 1)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) body(r);
  });
}

}  // namespace

std::optional<std::string> gguf_loss(const Scheme& scheme, std::int32_t type) {
  std::optional<std::string> loss;
  if (const BlockType* const row = find_type(type)) {
    loss = weight_loss(scheme, *row);
    if (loss && !keeps_codes(scheme, *row)) *loss += ": its values are quantized once more";
  } else if (type == kGgmlF16 || type == kGgmlBf16) {
    loss = "its values are rounded to " + std::string(type == kGgmlF16 ? "float16" : "bfloat16");
  } else if (type != kGgmlF32) {
    loss = "its values are quantized once more, to blocks of 256";
  }
  if (scheme.activation.enabled()) loss = (loss ? *loss + "; " : "") + "the quantization of its input is not written (llama.cpp has its own)";
  return loss;
}

std::optional<std::int32_t> lossless_gguf_type(const Scheme& scheme) {
  for (const BlockType& row : kTypes)
    if (!weight_loss(scheme, row)) return row.type;
  return std::nullopt;
}

std::optional<at::Tensor> gguf_blocks_of_codes(const quantizer::QuantizedLinear& linear, std::int32_t type) {
  const BlockType* const row_type = find_type(type);
  Scheme scheme = scheme_of("", linear);
  scheme.grid.scale_dtype = at::kHalf;  // looked at below, number by number
  if (row_type == nullptr || !keeps_codes(scheme, *row_type)) return std::nullopt;
  const std::int64_t rows = linear.out_features(), columns = linear.in_features(), per_group = linear.grid.columns_per_group(columns);
  const at::Tensor codes = linear.codes_OI.contiguous(), scales = linear.params.scales_OG.to(at::kFloat).contiguous(),
                   zeros = linear.params.zeros_OG.to(at::kFloat).contiguous();
  if (!scales.to(at::kHalf).to(at::kFloat).equal(scales)) return std::nullopt;  // NaN is not equal either
  const std::int64_t groups = scales.size(1), block_bytes = ggml_block_bytes(type), row_bytes = columns / kBlock * block_bytes;
  at::Tensor blocks = at::empty({rows, row_bytes}, at::kByte);
  const std::uint8_t* const from = codes.const_data_ptr<std::uint8_t>();
  const float* const d = scales.const_data_ptr<float>();
  const float* const z = zeros.const_data_ptr<float>();
  std::uint8_t* const to = blocks.mutable_data_ptr<std::uint8_t>();
  std::atomic<bool> fits = true;
  const int largest = (1 << row_type->bits) - 1;
  for_rows(rows, columns, [&](std::int64_t r) {
    for (std::int64_t b = 0; b < columns / kBlock; ++b) {
      const std::int64_t group = r * groups + std::min(groups - 1, b * kBlock / per_group);
      const std::uint8_t* const own = from + r * columns + b * kBlock;
      std::uint8_t stored[kBlock];
      const int shift = row_type->minimum ? 0 : row_type->zero - static_cast<int>(z[group]);
      for (int i = 0; i < kBlock; ++i) {
        const int code = own[i] + shift;
        if (code < 0 || code > largest) fits = false;
        stored[i] = static_cast<std::uint8_t>(code);
      }
      const float m = -z[group] * d[group];
      if (std::abs(m) > 65504.0f || (!row_type->minimum && z[group] != std::floor(z[group]))) fits = false;
      pack_block(stored, *row_type, d[group], m, to + r * row_bytes + b * block_bytes);
    }
  });
  return fits ? std::optional(blocks) : std::nullopt;
}

std::optional<quantizer::QuantizedLinear> quantized_from_gguf(const PackedRows& packed) {
  const BlockType* const type = find_type(packed.type);
  if (type == nullptr) return std::nullopt;
  constexpr float kMaxZero = 1024;  // beyond it, code - zero would lose digits of the code
  const at::Tensor data = packed.blocks.contiguous();
  const std::int64_t rows = data.size(0), block_bytes = ggml_block_bytes(packed.type), groups = data.size(1) / block_bytes, columns = groups * kBlock;
  at::Tensor codes = at::empty({rows, columns}, at::kByte), scales = at::empty({rows, groups}, at::kFloat), zeros = at::empty({rows, groups}, at::kFloat);
  const std::uint8_t* const from = data.const_data_ptr<std::uint8_t>();
  std::uint8_t* const to = codes.mutable_data_ptr<std::uint8_t>();
  float* const d = scales.mutable_data_ptr<float>();
  float* const z = zeros.mutable_data_ptr<float>();
  std::atomic<bool> fits = true, whole = true;
  for_rows(rows, columns, [&](std::int64_t r) {
    for (std::int64_t b = 0; b < groups; ++b) {
      const std::int64_t g = r * groups + b;
      float m;
      unpack_block(from + g * block_bytes, *type, to + r * columns + b * kBlock, d[g], m);
      z[g] = type->minimum ? (m == 0 ? 0 : -m / d[g]) : static_cast<float>(type->zero);
      if (!std::isfinite(d[g]) || !(std::abs(z[g]) <= kMaxZero)) fits = false;
      if (z[g] != std::floor(z[g]) || z[g] < 0 || z[g] > static_cast<float>((1 << type->bits) - 1)) whole = false;
    }
  });
  if (!fits) return std::nullopt;
  quantizer::QuantizedLinear linear;
  linear.grid.bits = type->bits;
  linear.grid.symmetric = !type->minimum;
  linear.grid.group_size = kBlock;
  linear.grid.scale_dtype = at::kHalf;
  linear.grid.real_zeros = !whole;
  linear.codes_OI = codes;
  linear.params = {scales, zeros};
  return linear;
}

}  // namespace miq::format
