// Packed codes: nothing is lost, products agree with the dequantized weight, memory falls to the bits.
#include "miq/quantizer/packed_linear.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "miq/quantizer/linear_problem.h"
#include "problems.h"
#include "support/test_device.h"

namespace miq::quantizer {
namespace {

QuantizedLinear quantized(std::int64_t rows, std::int64_t columns, const Grid& grid, const std::string& kind = "nearest") {
  StageHessian stage(test::hessian(columns, 4 * columns, 7), 4 * columns);
  const LinearProblem problem{"linear", test::normal(rows, columns, 11) * 0.05, &stage};
  Rounding rounding;
  rounding.kind = kind;
  return round_linear(problem, grid, Range{}, rounding);
}

QuantizedLinear with_scales_of(QuantizedLinear linear, at::ScalarType type) {
  linear.params.scales_OG = linear.params.scales_OG.to(type).to(at::kFloat);
  return linear;
}

Grid fp8_grid(GridType type, Granularity granularity, std::int64_t size) {
  Grid grid;
  grid.type = type;
  grid.bits = 8;
  grid.symmetric = true;
  grid.granularity = granularity;
  grid.group_size = size;
  return grid;
}

void add_random_outliers(QuantizedLinear& linear) {
  const at::Tensor chosen = at::rand(linear.codes_OI.sizes()) < 0.02;
  linear.outliers.row_offsets = at::cat({at::zeros({1}, at::kLong), chosen.sum(1).cumsum(0)}).to(at::kInt);
  linear.outliers.columns = chosen.nonzero().select(1, 1).to(at::kInt);
  linear.outliers.values = at::randn({linear.outliers.columns.numel()}).to(at::kHalf).to(at::kFloat);
}

void group_by_random_order(QuantizedLinear& linear) {
  const std::int64_t columns = linear.in_features();
  linear.group_of_column = at::empty({columns}, at::kLong);
  linear.group_of_column.index_put_({at::randperm(columns)}, at::arange(columns).floor_divide(linear.grid.group_size));
}

bool same(const at::Tensor& a, const at::Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || (a.scalar_type() == b.scalar_type() && at::equal(a, b)));
}

void expect_same(const QuantizedLinear& a, const QuantizedLinear& b) {
  EXPECT_TRUE(same(a.codes_OI, b.codes_OI));
  EXPECT_TRUE(same(a.params.scales_OG, b.params.scales_OG));
  EXPECT_TRUE(same(a.params.zeros_OG, b.params.zeros_OG));
  EXPECT_TRUE(same(a.group_of_column, b.group_of_column));
  EXPECT_TRUE(same(a.outliers.columns, b.outliers.columns));
  EXPECT_TRUE(same(a.outliers.values, b.outliers.values));
  EXPECT_TRUE(same(a.outliers.row_offsets, b.outliers.row_offsets));
  EXPECT_TRUE(same(a.bilevel.scale_codes_OG, b.bilevel.scale_codes_OG));
  EXPECT_TRUE(same(a.bilevel.zero_codes_OG, b.bilevel.zero_codes_OG));
  EXPECT_TRUE(same(a.bilevel.scale_scales_RG, b.bilevel.scale_scales_RG));
  EXPECT_TRUE(same(a.bilevel.zero_zeros_RG, b.bilevel.zero_zeros_RG));
  EXPECT_EQ(a.loss, b.loss);
  EXPECT_EQ(a.grid.bits, b.grid.bits);
  EXPECT_EQ(a.events.size(), b.events.size());
}

// Few rows at every level of instructions against float64, many rows against quantizer::forward.
void expect_products(const QuantizedLinear& linear, const std::string& what, bool with_kernel = true) {
  SCOPED_TRACE(what);
  const PackedLinear packed(linear);
  EXPECT_EQ(packed.has_kernel(), with_kernel);
  expect_same(packed.unpack(), linear);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) EXPECT_TRUE(at::equal(packed.dequantize(type), dequantize(linear, type)));
  const at::Tensor weight = dequantize(linear, at::kFloat).to(at::kDouble);
  for (const std::int64_t rows : {1, 2, 3, 8, 9}) {
    const at::Tensor x = test::normal(rows, linear.in_features(), 5 + static_cast<std::uint64_t>(rows)) * at::rand({linear.in_features()}).mul(4).exp();
    const at::Tensor expected = at::linear(x.to(at::kDouble), weight);
    const at::Tensor scale = x.to(at::kDouble).norm(2, {1}, true) * weight.norm(2, {1});  // of a product's terms
    for (const Simd level : {Simd::portable, Simd::avx2, Simd::avx512}) {
      limit_simd(level);
      const at::Tensor y = packed.forward(x);
      if (rows > 8 || !with_kernel)
        EXPECT_TRUE(at::equal(y, forward(linear, x)));
      else
        EXPECT_LT(((y.to(at::kDouble) - expected).abs() / scale.clamp_min(1e-30)).max().item<double>(), 3e-5) << rows << " rows at level " << int(level);
      const at::Tensor half = packed.forward(x.to(at::kBFloat16));
      EXPECT_EQ(half.scalar_type(), at::kBFloat16);
      EXPECT_LT((half.to(at::kDouble) - expected).norm().item<double>(), 0.01 * expected.norm().item<double>());
    }
    limit_simd(Simd::avx512);
  }
}

TEST(Packed, EveryWidthKeepsItsCodesAndMultiplies) {
  for (int bits = 2; bits <= 8; ++bits)
    for (const bool symmetric : {false, true})
      expect_products(quantized(49, 192, test::group_grid(bits, 64, symmetric)), std::to_string(bits) + " bits");
}

TEST(Packed, ShapesAndGroupsOfEveryKind) {
  for (const auto& [rows, columns, group] : {std::tuple{1, 32, 32}, {3, 96, 96}, {16, 576, 128}, {49, 576, 32}, {33, 96, 64}, {17, 384, 256}})
    for (const int bits : {3, 4, 8}) expect_products(quantized(rows, columns, test::group_grid(bits, group)), std::to_string(columns) + " in groups of " + std::to_string(group));
  for (const Granularity granularity : {Granularity::tensor, Granularity::channel, Granularity::block})
    for (const std::int64_t columns : {100, 576}) {
      Grid grid = test::group_grid(4, 64, granularity == Granularity::tensor);
      grid.granularity = granularity;
      expect_products(quantized(70, columns, grid), "granularity " + std::to_string(int(granularity)));
    }
}

TEST(Packed, GroupsThatAreNoChunksAreUnpacked) {
  expect_products(quantized(20, 96, test::group_grid(4, 16)), "groups of 16", /*with_kernel=*/false);
  expect_products(quantized(20, 96, test::group_grid(3, 24)), "groups of 24", /*with_kernel=*/false);
}

TEST(Packed, Fp8) {
  for (const GridType type : {GridType::fp8_e4m3, GridType::fp8_e5m2})
    for (const Granularity granularity : {Granularity::tensor, Granularity::channel, Granularity::block})
      expect_products(quantized(70, 288, fp8_grid(type, granularity, 128)), "fp8");
}

TEST(Packed, ScalesOfEveryTypeAreKeptExactly) {
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) expect_products(with_scales_of(quantized(40, 128, test::group_grid(4, 32)), type), "scales");
}

TEST(Packed, OutliersAndColumnsInGroupsOfTheirOwn) {
  for (const int bits : {3, 4}) {
    QuantizedLinear linear = quantized(40, 160, test::group_grid(bits, 32));
    group_by_random_order(linear);
    expect_products(linear, "order");
    add_random_outliers(linear);
    expect_products(linear, "order and outliers");
    linear.group_of_column = at::Tensor();
    expect_products(linear, "outliers");
    linear.group_of_column = at::arange(160).remainder(7).remainder(5);  // groups of different sizes
    expect_products(linear, "ragged order", /*with_kernel=*/false);
  }
}

TEST(Packed, TwoLevelsAreNotHeldTwice) {
  Grid grid = test::group_grid(3, 16);
  grid.convention = GridConvention::spqr;
  grid.bilevel.scale_bits = grid.bilevel.zero_bits = 3;
  const QuantizedLinear linear = quantized(256, 256, grid, "spqr");
  expect_products(linear, "spqr", /*with_kernel=*/false);
  EXPECT_LT(static_cast<double>(PackedLinear(linear).bytes()), 1.15 * static_cast<double>(linear.bytes()));
}

TEST(Packed, RealZeros) {
  Grid grid = test::group_grid(4, 64);
  grid.convention = GridConvention::hqq;
  grid.real_zeros = true;
  expect_products(quantized(40, 128, grid), "real zeros");
}

TEST(Packed, TransformsAndQuantizedActivations) {
  QuantizedLinear linear = quantized(64, 128, test::group_grid(4, 32));
  linear.online.divisor_I = at::rand({128}) + 0.5;
  linear.online.input = random_hadamard(128, 1);
  linear.online.output = random_hadamard(64, 2);
  linear.online.parameter_bits = 128;
  expect_products(linear, "transform");
  linear.online = OnlineTransform();
  linear.activation.bits = 8;
  for (const bool symmetric : {false, true}) {
    linear.activation.symmetric = symmetric;
    const at::Tensor x = test::normal(5, 128, 3), expected = forward(linear, x);
    EXPECT_LT((PackedLinear(linear).forward(x) - expected).norm().item<double>(), 1e-4 * expected.norm().item<double>());
    const at::Tensor many = test::normal(20, 128, 3);
    EXPECT_TRUE(at::equal(PackedLinear(linear).forward(many), forward(linear, many)));
  }
}

TEST(Packed, MemoryFallsToTheBits) {
  for (int bits = 2; bits <= 8; ++bits)
    for (const std::int64_t group : {32, 64, 128})
      for (const bool symmetric : {false, true}) {
        const QuantizedLinear linear = with_scales_of(quantized(192, 576, test::group_grid(bits, group, symmetric)), at::kHalf);
        EXPECT_LT(static_cast<double>(PackedLinear(linear).bytes()), 1.15 * static_cast<double>(linear.bytes())) << bits << " bits, groups of " << group;
      }
}

TEST(Packed, OneInputForSeveralMatrices) {
  const PackedLinear a(quantized(48, 128, test::group_grid(4, 64))), b(quantized(20, 128, test::group_grid(3, 64, true))),
      other(quantized(20, 128, test::group_grid(4, 16)));
  const at::Tensor x = test::normal(2, 128, 3).view({1, 2, 128});
  for (const auto& linears : {std::vector{&a, &b}, std::vector{&a, &b, &other}}) {
    const std::vector<at::Tensor> outputs = PackedLinear::forward_many(linears, x);
    ASSERT_EQ(outputs.size(), linears.size());
    for (size_t i = 0; i < linears.size(); ++i) EXPECT_TRUE(at::equal(outputs[i], linears[i]->forward(x)));
  }
}

TEST(Packed, WhatIsNotFiniteStaysSo) {
  const PackedLinear packed(quantized(16, 64, test::group_grid(4, 32)));
  at::Tensor x = test::normal(1, 64, 3);
  x[0][40] = NAN;
  EXPECT_TRUE(packed.forward(x).isnan().all().item<bool>());
}

TEST(PackedDevice, MultipliesAndUnpacksWhereTheCodesLie) {
  for (const Grid& grid : {test::group_grid(2, 64), test::group_grid(3, 64), test::group_grid(4, 32), test::group_grid(8, 96)})
    for (const std::int64_t rows : {2, 20}) {
      QuantizedLinear linear = quantized(49, 192, grid);
      const at::Tensor x = test::normal(rows, 192, 3), expected = forward(linear, x);
      const PackedLinear packed(to_device(linear, miq::test::device()));
      EXPECT_TRUE(at::equal(packed.unpack().codes_OI.cpu(), linear.codes_OI));
      EXPECT_TRUE(at::equal(packed.dequantize(at::kFloat).cpu(), dequantize(linear, at::kFloat)));
      const at::Tensor found = packed.forward(miq::test::on_device(x));
      EXPECT_EQ(found.device(), miq::test::device());
      EXPECT_LT((found.cpu() - expected).norm().item<double>(), 1e-4 * expected.norm().item<double>()) << grid.bits << " bits, " << rows << " rows";
    }
}

TEST(Packed, AVocabularyOfRows) {
  Grid grid = test::group_grid(8, 32, true);
  const LinearProblem problem{"head", test::normal(49152, 64, 11), nullptr};
  const QuantizedLinear linear = round_linear(problem, grid, Range{}, Rounding{});
  const at::Tensor x = test::normal(1, 64, 3), expected = forward(linear, x);
  EXPECT_LT((PackedLinear(linear).forward(x) - expected).norm().item<double>(), 1e-4 * expected.norm().item<double>());
}

}  // namespace
}  // namespace miq::quantizer
