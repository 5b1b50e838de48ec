// Random quantized linears, and what comes back of them through a format.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include "golden_format.h"

namespace miq::format::test {

using quantizer::Activation;
using quantizer::ActivationGranularity;
using quantizer::Granularity;
using quantizer::Grid;
using quantizer::GridType;
using quantizer::QuantizedLinear;

inline Grid integer_grid(int bits, bool symmetric, Granularity granularity, std::int64_t group = 128) {
  Grid grid;
  grid.bits = bits;
  grid.symmetric = symmetric;
  grid.granularity = granularity;
  grid.group_size = group;
  return grid;
}

inline Grid fp8_grid(Granularity granularity, std::int64_t group = 128) {
  Grid grid = integer_grid(8, true, granularity, group);
  grid.type = GridType::fp8_e4m3;
  return grid;
}

inline Activation activation(GridType type, ActivationGranularity granularity, bool dynamic, bool symmetric = true) {
  Activation a;
  a.type = type;
  a.bits = 8;
  a.granularity = granularity;
  a.dynamic = dynamic;
  a.symmetric = symmetric;
  return a;
}

/// Scales are numbers of `dtype`; zero points are `least` or more.
inline std::shared_ptr<QuantizedLinear> random_linear(std::int64_t rows, std::int64_t columns, Grid grid, at::ScalarType dtype,
                                                      const Activation& a = {}, int least = 0) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<std::uint64_t>(rows * 1000 + columns + grid.bits));
  auto out = std::make_shared<QuantizedLinear>();
  grid.scale_dtype = dtype;
  out->grid = grid;
  out->codes_OI = at::randint(0, 1 << grid.bits, {rows, columns}, generator, at::TensorOptions().dtype(at::kByte));
  if (grid.is_fp8()) out->codes_OI.masked_fill_(out->codes_OI.bitwise_and(0x7f).eq(0x7f), 0x30);  // NaN
  const std::int64_t groups = grid.num_groups(columns), step = grid.granularity == Granularity::tensor  ? rows
                                                               : grid.granularity == Granularity::block ? grid.group_size
                                                                                                        : 1;
  const std::int64_t own = (rows + step - 1) / step;
  const at::Tensor row = at::arange(rows, at::kLong).div(step, "floor");
  out->params.scales_OG = at::rand({own, groups}, generator, at::TensorOptions()).add_(0.01).to(dtype).to(at::kFloat).index_select(0, row);
  at::Tensor zeros = at::randint(least, 1 << grid.bits, {own, groups}, generator, at::TensorOptions().dtype(at::kFloat));
  if (grid.symmetric) zeros.fill_(1 << (grid.bits - 1));
  if (grid.is_fp8()) zeros.zero_();
  out->params.zeros_OG = zeros.index_select(0, row);
  out->activation = a;
  if (a.enabled() && !a.dynamic) {
    out->activation_params.scale = at::scalar_tensor(0.0371, at::kFloat);
    if (!a.symmetric) out->activation_params.zero = at::scalar_tensor(-7.0, at::kFloat);
  }
  return out;
}

/// Opens what the format writes and declares of the linears.
inline std::unique_ptr<Decoder> written(const Format& format, const std::vector<NamedLinear>& linears, const FormatOptions& options,
                                        const std::vector<std::string>& kept = {}) {
  Declaration declaration;
  std::vector<Scheme> schemes;
  for (const NamedLinear& l : linears) schemes.push_back(scheme_of(l.name, *l.linear));
  format.declare(schemes, kept, options, declaration);
  const auto config = nlohmann::json::parse(declaration.config.dump());
  return format.open(std::make_shared<MemorySource>(format.encode(linears, options)), config.at("quantization_config"), config, "written");
}

/// All that comes back is what was given; `same_granularity`: a coarser one is not spread over rows.
inline void expect_round_trip(const Format& format, const std::vector<NamedLinear>& linears, const FormatOptions& options,
                              bool same_granularity = true) {
  for (const NamedLinear& l : linears) EXPECT_EQ(format.why_not(scheme_of(l.name, *l.linear), options), std::nullopt) << l.name;
  const auto decoder = written(format, linears, options);
  ASSERT_EQ(decoder->linears().size(), linears.size());
  for (const NamedTensor& t : format.encode(linears, options)) EXPECT_TRUE(decoder->owns(t.name)) << t.name;
  for (const NamedLinear& l : linears) {
    SCOPED_TRACE(l.name);
    const QuantizedLinear &in = *l.linear, out = decoder->linear(l.name);
    EXPECT_TRUE(same_bytes(out.codes_OI, in.codes_OI));
    EXPECT_TRUE(same_bytes(out.params.scales_OG, in.params.scales_OG));
    EXPECT_TRUE(same_bytes(out.params.zeros_OG, in.params.zeros_OG));
    EXPECT_TRUE(at::equal(quantizer::stored_weight(out), quantizer::stored_weight(in)));
    EXPECT_EQ(out.group_of_column.defined(), in.group_of_column.defined());
    if (in.group_of_column.defined()) {
      EXPECT_TRUE(at::equal(out.group_of_column, in.group_of_column));
    }
    if (in.activation_params.scale.defined()) {
      EXPECT_TRUE(at::equal(out.activation_params.scale, in.activation_params.scale));
      ASSERT_EQ(out.activation_params.zero.defined(), in.activation_params.zero.defined());
      if (in.activation_params.zero.defined()) {
        EXPECT_TRUE(at::equal(out.activation_params.zero, in.activation_params.zero));
      }
    }
    if (same_granularity) expect_same_scheme(scheme_of(l.name, out), scheme_of(l.name, in));
  }
}

}  // namespace miq::format::test
