#include <gtest/gtest.h>

#include <cmath>

#include "miq/core/error.h"
#include "problems.h"

namespace miq::quantizer {
namespace {

using test::group_grid;
using test::normal;

Grid grid_with(int bits, bool symmetric, Granularity granularity, std::int64_t group, GridConvention convention) {
  Grid grid = group_grid(bits, group, symmetric);
  grid.granularity = granularity;
  grid.convention = convention;
  return grid;
}

// The grid and its codes written again, one weight at a time, from the table of conventions.
struct Reference {
  float scale, zero;
  int code(float w, const Grid& grid) const {
    const float top = static_cast<float>((1 << grid.bits) - 1), half = static_cast<float>(1 << (grid.bits - 1));
    if (grid.convention == GridConvention::ct)
      return static_cast<int>(std::nearbyint(std::min(std::max(w / scale + (zero - half), -half), half - 1)) + half);
    return static_cast<int>(std::min(std::max(std::nearbyint(w / scale) + zero, 0.0f), top));
  }
};

Reference reference_fit(const std::vector<float>& w, const Grid& grid) {
  float low = *std::min_element(w.begin(), w.end()), high = *std::max_element(w.begin(), w.end());
  const float q = static_cast<float>((1 << grid.bits) - 1), half = static_cast<float>(1 << (grid.bits - 1));
  if (grid.convention == GridConvention::awq) {
    if (grid.symmetric) return {std::max(std::max(std::abs(low), std::abs(high)), 1e-5f) / (half - 1), half};
    const float scale = std::max(high - low, 1e-5f) / q;
    return {scale, std::min(std::max(-std::nearbyint(low / scale), 0.0f), q)};
  }
  low = std::min(low, 0.0f);
  high = std::max(high, 0.0f);
  if (grid.convention == GridConvention::ct) {
    if (low == 0 && high == 0) return {1.1920929e-7f, half};
    if (grid.symmetric) return {std::max(-low, high) / (q / 2), half};
    const float scale = (high - low) / q;
    return {scale, std::nearbyint(std::min(std::max(-half - low / scale, -half), half - 1)) + half};
  }
  if (grid.symmetric) {
    const float bound = std::max(-low, high);
    if (grid.convention == GridConvention::miq || low < 0) low = -bound;
    high = bound;
  }
  if (low == 0 && high == 0) low = -1, high = 1;
  const float scale = (high - low) / q;
  return {scale, grid.symmetric ? (q + 1) / 2 : std::nearbyint(-low / scale)};
}

void expect_matches_reference(const at::Tensor& weight, const Grid& grid) {
  const GridParams params = fit_grid(weight, grid, Range{});
  const at::Tensor codes = nearest_codes(weight, grid, params);
  const std::int64_t rows = weight.size(0), columns = weight.size(1), width = grid.columns_per_group(columns);
  ASSERT_EQ(params.scales_OG.sizes(), (at::IntArrayRef{rows, grid.num_groups(columns)}));
  const auto w = weight.accessor<float, 2>();
  const auto scales = params.scales_OG.accessor<float, 2>(), zeros = params.zeros_OG.accessor<float, 2>();
  const auto code = codes.accessor<std::uint8_t, 2>();
  std::vector<float> all(weight.const_data_ptr<float>(), weight.const_data_ptr<float>() + weight.numel());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::int64_t g = c / width, begin = g * width, end = std::min(begin + width, columns);
      const Reference expected = reference_fit(
          grid.granularity == Granularity::tensor ? all : std::vector<float>(&w[r][begin], &w[r][begin] + (end - begin)), grid);
      ASSERT_EQ(scales[r][g], expected.scale) << r << "," << c;
      ASSERT_EQ(zeros[r][g], expected.zero) << r << "," << c;
      ASSERT_EQ(int{code[r][c]}, expected.code(w[r][c], grid)) << r << "," << c << " weight " << w[r][c];
    }
  }
}

TEST(Grid, EveryCombinationMatchesOneWeightAtATime) {
  at::Tensor weight = normal(37, 50, 1);
  weight[3].zero_();               // constant rows, and rows of one sign
  weight[4].fill_(0.25);
  weight[5].abs_();
  weight[6].abs_().neg_();
  weight[7][13] = 1e4;
  for (const GridConvention convention : {GridConvention::miq, GridConvention::ist, GridConvention::awq, GridConvention::ct})
    for (const bool symmetric : {false, true})
      for (int bits = 2; bits <= 8; ++bits) {
        SCOPED_TRACE(testing::Message() << "convention " << static_cast<int>(convention) << " symmetric " << symmetric << " bits " << bits);
        expect_matches_reference(weight, grid_with(bits, symmetric, Granularity::tensor, 1, convention));
        expect_matches_reference(weight, grid_with(bits, symmetric, Granularity::channel, 1, convention));
        for (const std::int64_t group : {1, 7, 16, 25, 49, 50, 128})
          expect_matches_reference(weight, grid_with(bits, symmetric, Granularity::group, group, convention));
      }
}

TEST(Grid, DequantizedIsScaleTimesCodeMinusZero) {
  for (const std::int64_t columns : {1, 31, 64, 100}) {
    QuantizedLinear linear;
    linear.grid = group_grid(3, 32);
    const at::Tensor weight = normal(33, columns, 2);
    linear.params = fit_grid(weight, linear.grid, Range{});
    linear.codes_OI = nearest_codes(weight, linear.grid, linear.params);
    const at::Tensor index = at::arange(columns).floor_divide(32);
    const at::Tensor expected = linear.params.scales_OG.index_select(1, index) *
                                (linear.codes_OI.to(at::kFloat) - linear.params.zeros_OG.index_select(1, index));
    EXPECT_TRUE(at::equal(dequantize(linear, at::kFloat), expected));
    linear.group_of_column = index;
    EXPECT_TRUE(at::equal(dequantize(linear, at::kFloat), expected));
    EXPECT_TRUE(at::equal(dequantize(linear, at::kBFloat16), expected.to(at::kBFloat16)));
  }
}

TEST(Grid, BitsPerWeightCountsCodesScalesAndZeros) {
  EXPECT_DOUBLE_EQ(bits_per_weight(group_grid(4, 128), 10, 256), 4 + 20.0 / 128);
  EXPECT_DOUBLE_EQ(bits_per_weight(group_grid(4, 128, true), 10, 256), 4 + 16.0 / 128);
  EXPECT_DOUBLE_EQ(bits_per_weight(group_grid(3, 64), 10, 100), 3 + 2 * 19.0 / 100);
  EXPECT_DOUBLE_EQ(bits_per_weight(grid_with(8, true, Granularity::channel, 1, GridConvention::miq), 10, 100), 8 + 16.0 / 100);
  EXPECT_DOUBLE_EQ(bits_per_weight(grid_with(8, true, Granularity::tensor, 1, GridConvention::miq), 10, 100), 8 + 16.0 / 1000);
  QuantizedLinear linear;
  linear.grid = group_grid(4, 128);
  linear.codes_OI = at::zeros({10, 256}, at::kByte);
  EXPECT_EQ(linear.bytes(), (10 * 256 * 4 + 20 * 20) / 8);
  linear.group_of_column = at::zeros({256}, at::kLong);
  EXPECT_EQ(linear.bytes(), (10 * 256 * 4 + 20 * 20) / 8 + 256 * 4);
}

TEST(Range, MseNeverLosesAgainstMinMax) {
  const at::Tensor weight = normal(40, 96, 3);
  for (const int bits : {2, 3, 4})
    for (const bool symmetric : {false, true})
      for (const bool adjacent : {false, true}) {
        Range mse;
        mse.kind = RangeKind::mse;
        mse.adjacent_zeros = adjacent;
        const Grid grid = group_grid(bits, 32, symmetric);
        const auto error = [&](const Range& range) {
          QuantizedLinear linear;
          linear.grid = grid;
          linear.params = fit_grid(weight, grid, range);
          linear.codes_OI = nearest_codes(weight, grid, linear.params);
          return (dequantize(linear, at::kFloat) - weight).abs().pow(2.4).view({40, 3, 32}).sum(2);
        };
        const at::Tensor whole = error(Range{}), shrunk = error(mse);
        EXPECT_TRUE(shrunk.le(whole * 1.00001).all().item<bool>());
        EXPECT_LT(shrunk.sum().item<double>(), whole.sum().item<double>());
      }
}

TEST(Range, MseKeepsTheFirstMinimumOfTheSteps) {
  // Written again in float64 for one row: the first of the 80 candidates with the least error.
  const at::Tensor weight = normal(8, 24, 4);
  Grid grid = group_grid(3, 24);
  grid.granularity = Granularity::channel;
  Range range;
  range.kind = RangeKind::mse;
  const GridParams params = fit_grid(weight, grid, range);
  for (std::int64_t r = 0; r < 8; ++r) {
    const float low = std::min(0.0f, weight[r].min().item<float>()), high = std::max(0.0f, weight[r].max().item<float>());
    double least = 1e300;
    float best = 0;
    for (int i = 0; i < 80; ++i) {
      const auto p = static_cast<float>(1 - i / 100.0);
      const float scale = (p * high - p * low) / 7, zero = std::nearbyint(-p * low / scale);
      double error = 0;
      for (std::int64_t c = 0; c < 24; ++c) {
        const float w = weight[r][c].item<float>();
        const float code = std::min(std::max(std::nearbyint(w / scale) + zero, 0.0f), 7.0f);
        error += std::pow(std::abs(double{scale} * (code - zero) - w), 2.4);
      }
      if (error < least) least = error, best = scale;
    }
    EXPECT_FLOAT_EQ(params.scales_OG[r][0].item<float>(), best);
  }
}

TEST(Range, RefusesWeightsThatAreNotFinite) {
  for (const double bad : {std::nan(""), double{INFINITY}}) {
    at::Tensor weight = normal(4, 8, 5);
    weight[2][3] = bad;
    for (const Granularity granularity : {Granularity::tensor, Granularity::channel, Granularity::group}) {
      Grid grid = group_grid(4, 4);
      grid.granularity = granularity;
      try {
        fit_grid(weight, grid, Range{});
        FAIL() << "no error";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::numeric);
      }
    }
  }
}

TEST(Range, HugeAndTinyWeightsKeepFiniteParameters) {
  for (const double size : {1e-45, 1e-38, 1e-30, 1e30, 1e38})
    for (const GridConvention convention : {GridConvention::miq, GridConvention::ist, GridConvention::awq, GridConvention::ct})
      for (const bool symmetric : {false, true}) {
        const at::Tensor weight = (normal(8, 16, 6).clamp(-1, 1) * size);
        Grid grid = grid_with(4, symmetric, Granularity::group, 8, convention);
        SCOPED_TRACE(testing::Message() << size << " convention " << static_cast<int>(convention) << " symmetric " << symmetric);
        const GridParams params = fit_grid(weight, grid, Range{});
        EXPECT_TRUE(params.scales_OG.isfinite().all().item<bool>());
        EXPECT_TRUE(params.zeros_OG.isfinite().all().item<bool>());
        EXPECT_TRUE(params.scales_OG.gt(0).all().item<bool>());
        EXPECT_LE(nearest_codes(weight, grid, params).max().item<int>(), 15);
      }
  at::Tensor weight = normal(8, 16, 6);  // an interval that overflows
  weight[0][0] = 3e38;
  weight[0][1] = -3e38;
  EXPECT_THROW(round_linear({"layer", weight, nullptr}, group_grid(4, 8), Range{}, Rounding{}), Error);
}

}  // namespace
}  // namespace miq::quantizer
