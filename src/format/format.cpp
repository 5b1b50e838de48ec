#include "miq/format/format.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cstdio>

#include "formats.h"
#include "miq/core/error.h"
#include "miq/core/text.h"

namespace miq::format {
namespace {

// FNV-1a over a rotation's parts, of a repeated block those of the block alone; may stand in a tensor's name.
std::string fingerprint(const std::shared_ptr<const quantizer::Orthogonal>& rotation) {
  if (!rotation) return "";
  std::uint64_t hash = 14695981039346656037ull;
  const auto mix = [&](const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 1099511628211ull;
  };
  const quantizer::OrthogonalParts parts = rotation->parts();
  const bool is_matrix = parts.kind == "dense" || parts.kind == "block_diagonal";
  if (!is_matrix) {
    mix(parts.kind.data(), parts.kind.size());
    mix(&parts.order, sizeof parts.order);
  }
  for (const auto& [name, tensor] : parts.tensors) {
    const at::Tensor values = tensor.cpu().contiguous();
    if (!is_matrix) mix(name.data(), name.size());
    mix(values.const_data_ptr(), values.nbytes());
  }
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  const auto block = parts.tensors.find("block");
  return std::to_string(block == parts.tensors.end() ? parts.order : block->second.size(0)) + "_" + std::string(digits, 12);
}

}  // namespace

Scheme scheme_of(const std::string& name, const quantizer::QuantizedLinear& linear) {
  return {.name = name,
          .out_features = linear.out_features(),
          .in_features = linear.in_features(),
          .grid = linear.grid,
          .activation = linear.activation,
          .group_of_column = linear.group_of_column.defined(),
          .outliers = linear.outliers.defined(),
          .zero_point_of_zero = linear.grid.is_integer() && linear.params.zeros_OG.min().item<float>() < 0.5f,
          .divisor = linear.online.divisor_I.defined(),
          .rotated_input = linear.online.input != nullptr,
          .rotated_output = linear.online.output != nullptr,
          .input_rotation = fingerprint(linear.online.input),
          .output_rotation = fingerprint(linear.online.output)};
}

const std::vector<const Format*>& formats() {
  static const std::vector<const Format*> all = {
#define MIQ_FORMAT(identifier) &identifier##_format,
#include "formats.def"
#undef MIQ_FORMAT
  };
  return all;
}

std::vector<std::string> export_names() {
  std::vector<std::string> names;
  for (const Format* format : formats()) names.push_back(format->name);
  names.insert(names.end(), {"gguf", "dequantized"});
  return names;
}

const Format& find_format(const std::string& name) {
  std::vector<std::string> names;
  for (const Format* format : formats()) {
    if (name == format->name) return *format;
    names.push_back(format->name);
  }
  throw Error(ErrorKind::config, "unknown export format '" + name + "'", "export.format",
              "did you mean " + nearest_name(name, names) + "?");
}

bool holds(at::ScalarType dtype, const at::Tensor& values) { return at::equal(values.to(dtype).to(at::kFloat), values); }

at::Tensor pack_bits(const at::Tensor& data, int bits) {
  const at::Tensor codes = data.to(at::kCPU, at::kByte).contiguous();
  const std::int64_t rows = codes.size(0), n = codes.size(1), words = (n * bits + 31) / 32;
  at::Tensor out = at::zeros({rows, words}, at::kInt);
  const std::uint8_t* const from = codes.const_data_ptr<std::uint8_t>();
  auto* const to = reinterpret_cast<std::uint32_t*>(out.mutable_data_ptr<std::int32_t>());
  at::parallel_for(0, rows, std::max<std::int64_t>(1, (1 << 15) / std::max<std::int64_t>(n, 1)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      std::uint64_t window = 0;
      int held = 0;
      std::uint32_t* word = to + r * words;
      for (std::int64_t i = 0; i < n; ++i) {
        window |= static_cast<std::uint64_t>(from[r * n + i]) << held;
        held += bits;
        if (held < 32) continue;
        *word++ = static_cast<std::uint32_t>(window);
        window >>= 32;
        held -= 32;
      }
      if (held > 0) *word = static_cast<std::uint32_t>(window);
    }
  });
  return out;
}

at::Tensor unpack_bits(const at::Tensor& words, int bits, std::int64_t n) {
  const at::Tensor packed = words.to(at::kInt).contiguous();
  const std::int64_t rows = packed.size(0), held_words = packed.size(1);
  if (held_words * 32 < n * bits)
    throw Error(ErrorKind::io, std::to_string(held_words) + " words cannot hold " + std::to_string(n) + " codes of " + std::to_string(bits) + " bits");
  at::Tensor out = at::empty({rows, n}, at::kByte);
  const auto* const from = reinterpret_cast<const std::uint32_t*>(packed.const_data_ptr<std::int32_t>());
  std::uint8_t* const to = out.mutable_data_ptr<std::uint8_t>();
  const std::uint64_t mask = (1u << bits) - 1;
  at::parallel_for(0, rows, std::max<std::int64_t>(1, (1 << 15) / std::max<std::int64_t>(n, 1)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      std::uint64_t window = 0;
      int held = 0;
      const std::uint32_t* word = from + r * held_words;
      for (std::int64_t i = 0; i < n; ++i) {
        if (held < bits) {
          window |= static_cast<std::uint64_t>(*word++) << held;
          held += 32;
        }
        to[r * n + i] = static_cast<std::uint8_t>(window & mask);
        window >>= bits;
        held -= bits;
      }
    }
  });
  return out;
}

}  // namespace miq::format
