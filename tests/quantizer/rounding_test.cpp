#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "miq/core/error.h"
#include "problems.h"

namespace miq::quantizer {
namespace {

using test::error_feedback;
using test::group_grid;
using test::hessian;
using test::normal;
using test::quadratic;

QuantizedLinear solve(const at::Tensor& weight, StageHessian* stage, const Grid& grid, const Rounding& rounding,
                      const Range& range = {}) {
  return round_linear({"layer", weight, stage}, grid, range, rounding);
}

// GPTQ one weight at a time in float64, with the grid fitted on fully updated weights.
struct Naive {
  at::Tensor values;
  double squared_error = 0;
};

// The groups' parameters are taken from the result under test: what is checked is the feedback.
Naive naive_feedback(const at::Tensor& weight, const HessianFactor& factor, const QuantizedLinear& linear) {
  const std::int64_t rows = weight.size(0), columns = weight.size(1);
  const at::Tensor perm = factor.perm.defined() ? factor.perm : at::arange(columns);
  at::Tensor w = weight.to(at::kDouble).clone();
  if (factor.dead.defined()) w.masked_fill_(factor.dead, 0);
  const at::Tensor u = factor.upper_II.to(at::kDouble);
  at::Tensor index = linear.group_of_column;
  if (!index.defined()) index = at::arange(columns).floor_divide(linear.grid.columns_per_group(columns));
  const double top = (1 << linear.grid.bits) - 1;
  Naive naive{at::zeros_like(w)};
  for (std::int64_t k = 0; k < columns; ++k) {
    const auto column = perm[k].item<std::int64_t>(), group = index[column].item<std::int64_t>();
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto scale = linear.params.scales_OG[r][group].item<double>(), zero = linear.params.zeros_OG[r][group].item<double>();
      const auto value = w[r][column].item<double>();
      const double code = std::clamp(std::nearbyint(value / scale) + zero, 0.0, top);
      naive.values[r][column] = scale * (code - zero);
      const double error = (value - scale * (code - zero)) / u[k][k].item<double>();
      naive.squared_error += error * error;
      w[r].index_add_(0, perm.narrow(0, k, columns - k), u[k].narrow(0, k, columns - k) * -error);
    }
  }
  return naive;
}

TEST(ErrorFeedback, MatchesOneWeightAtATime) {
  const at::Tensor weight = normal(5, 70, 1);
  at::Tensor h = hessian(70, 200, 2);
  h[9].zero_();
  h.select(1, 9).zero_();
  for (const auto& [order, group_aware] : {std::pair(ActOrder::none, false), {ActOrder::desc, false}, {ActOrder::none, true}})
    for (const bool static_groups : {false, true})
      for (const GroupFit fit : {GroupFit::fresh, GroupFit::stale}) {
        StageHessian stage(h, 200);
        Rounding rounding = error_feedback();
        rounding.act_order = order;
        rounding.group_aware = group_aware;
        rounding.static_groups = static_groups;
        rounding.group_fit = fit;
        rounding.block_size = 24;
        const QuantizedLinear linear = solve(weight, &stage, group_grid(3, 16), rounding);
        const Naive naive = naive_feedback(weight, stage.factor(rounding, 16), linear);
        const at::Tensor difference = (dequantize(linear, at::kDouble) - naive.values).abs();
        EXPECT_LT(difference.max().item<double>(), 1e-4) << static_cast<int>(order) << group_aware << static_groups << static_cast<int>(fit);
      }
}

TEST(ErrorFeedback, FreshGroupsAreFittedOnFullyUpdatedWeights) {
  // Replays the sweep in float64 and fits each group when its first column comes.
  const std::int64_t columns = 90, group = 20;
  const at::Tensor weight = normal(3, columns, 3);
  StageHessian stage(hessian(columns, 300, 4), 300);
  const at::Tensor u = stage.factor(error_feedback(), group).upper_II.to(at::kDouble);
  for (const std::int64_t block : {7, 20, 32, 128}) {
    Rounding rounding = error_feedback();
    rounding.block_size = block;
    const QuantizedLinear linear = solve(weight, &stage, group_grid(4, group), rounding);
    const at::Tensor values = dequantize(linear, at::kDouble);
    at::Tensor w = weight.to(at::kDouble).clone();
    for (std::int64_t k = 0; k < columns; ++k) {
      if (k % group == 0) {
        const at::Tensor seen = w.narrow(1, k, std::min(group, columns - k)).to(at::kFloat).contiguous();
        Grid channel = group_grid(4, group);
        channel.granularity = Granularity::channel;
        const at::Tensor scales = fit_grid(seen, channel, Range{}).scales_OG;
        EXPECT_LT((scales / linear.params.scales_OG.narrow(1, k / group, 1) - 1).abs().max().item<double>(), 1e-4) << k;
      }
      const at::Tensor error = (w.select(1, k) - values.select(1, k)) / u[k][k];
      w.sub_(error.unsqueeze(1) * u[k].unsqueeze(0));
    }
  }
}

TEST(ErrorFeedback, LossIsTheQuadraticForm) {
  const at::Tensor weight = normal(40, 150, 5), h = hessian(150, 400, 6);
  for (const double percdamp : {0.0, 0.01, 1.0, 10.0})
    for (const char* kind : {"nearest", "error_feedback"}) {
      StageHessian stage(h, 400);
      Rounding rounding = error_feedback();
      rounding.kind = kind;
      rounding.percdamp = percdamp;
      const QuantizedLinear linear = solve(weight, &stage, group_grid(3, 64), rounding);
      const at::Tensor change = dequantize(linear, at::kFloat) - weight;
      EXPECT_NEAR(linear.loss / quadratic(change, h), 1, 1e-4) << kind << percdamp;
      EXPECT_NEAR(linear.relative_error, (change.norm() / weight.norm()).item<double>(), 1e-6);
    }
}

TEST(ErrorFeedback, PrintedErrorIsTheDampedQuadraticForm) {
  const at::Tensor weight = normal(6, 50, 7), h = hessian(50, 30, 8);
  StageHessian stage(h, 30);
  for (const ActOrder order : {ActOrder::none, ActOrder::desc}) {
    Rounding rounding = error_feedback();
    rounding.act_order = order;
    const QuantizedLinear linear = solve(weight, &stage, group_grid(2, 16), rounding);
    const HessianFactor& factor = stage.factor(rounding, 16);
    const Naive naive = naive_feedback(weight, factor, linear);
    const at::Tensor change = dequantize(linear, at::kFloat) - weight;
    EXPECT_NEAR(naive.squared_error / quadratic(change, h + at::eye(50) * factor.damp), 1, 1e-4);
  }
}

TEST(ErrorFeedback, BlockSizeChangesNothing) {
  const at::Tensor weight = normal(70, 200, 9);
  StageHessian stage(hessian(200, 500, 10), 500);
  for (const std::int64_t group : {13, 32, 64, 200, 300})
    for (const bool static_groups : {false, true}) {
      Rounding rounding = error_feedback();
      rounding.static_groups = static_groups;
      const QuantizedLinear expected = solve(weight, &stage, group_grid(4, group), rounding);
      for (const std::int64_t block : {1, 16, 50, 199, 4096}) {
        rounding.block_size = block;
        const QuantizedLinear linear = solve(weight, &stage, group_grid(4, group), rounding);
        EXPECT_TRUE(at::equal(linear.codes_OI, expected.codes_OI)) << group << " " << block;
        EXPECT_TRUE(at::equal(linear.params.scales_OG, expected.params.scales_OG)) << group << " " << block;
      }
    }
}

TEST(ErrorFeedback, RowsAloneGiveTheSameAsTogether) {
  const at::Tensor weight = normal(67, 150, 11);
  StageHessian stage(hessian(150, 400, 12), 400);
  for (const GroupFit fit : {GroupFit::fresh, GroupFit::stale}) {
    Rounding rounding = error_feedback();
    rounding.group_fit = fit;
    const QuantizedLinear together = solve(weight, &stage, group_grid(3, 48), rounding);
    for (const std::int64_t row : {0, 31, 32, 66}) {
      const QuantizedLinear alone = solve(weight.narrow(0, row, 1).contiguous(), &stage, group_grid(3, 48), rounding);
      EXPECT_TRUE(at::equal(alone.codes_OI, together.codes_OI.narrow(0, row, 1))) << row;
      EXPECT_TRUE(at::equal(alone.params.scales_OG, together.params.scales_OG.narrow(0, row, 1))) << row;
      EXPECT_TRUE(at::equal(alone.params.zeros_OG, together.params.zeros_OG.narrow(0, row, 1))) << row;
    }
  }
}

TEST(ErrorFeedback, WithoutCorrelationItIsNearest) {
  const at::Tensor weight = normal(20, 64, 13);
  StageHessian stage(at::diag(at::rand({64}) + 0.1), 1000);
  const QuantizedLinear linear = solve(weight, &stage, group_grid(4, 16), error_feedback());
  EXPECT_TRUE(at::equal(linear.codes_OI, solve(weight, nullptr, group_grid(4, 16), Rounding{}).codes_OI));
}

TEST(ErrorFeedback, NeverMuchWorseThanNearest) {
  int better = 0;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const std::int64_t columns = 24 + static_cast<std::int64_t>(seed) * 3;
    const at::Tensor weight = normal(16, columns, seed);
    StageHessian stage(hessian(columns, 2 * columns, seed + 1000), 2 * columns);
    const int bits = 3 + static_cast<int>(seed % 3);  // at 2 bits min-max grids drown the gain
    const Grid grid = group_grid(bits, 32, seed % 2 == 0);
    const double feedback = solve(weight, &stage, grid, error_feedback()).loss;
    Rounding nearest;
    const double plain = solve(weight, &stage, grid, nearest).loss;
    EXPECT_LT(feedback, 1.1 * plain) << seed;
    better += feedback < plain;
  }
  EXPECT_GE(better, 45);
}

TEST(ErrorFeedback, EveryBitsGranularityAndRaggedSize) {
  for (const std::int64_t columns : {1, 2, 31, 65, 130})
    for (const std::int64_t rows : {1, 33}) {
      const at::Tensor weight = normal(rows, columns, 14);
      StageHessian stage(hessian(columns, 200, 15), 200);
      for (int bits = 2; bits <= 8; ++bits)
        for (const Granularity granularity : {Granularity::tensor, Granularity::channel, Granularity::group})
          for (const bool symmetric : {false, true})
            for (const std::int64_t group : {1, 32, 64}) {
              Grid grid = group_grid(bits, group, symmetric);
              grid.granularity = granularity;
              const QuantizedLinear linear = solve(weight, &stage, grid, error_feedback());
              ASSERT_EQ(linear.codes_OI.sizes(), weight.sizes());
              ASSERT_EQ(linear.params.scales_OG.size(1), grid.num_groups(columns));
              ASSERT_LT(linear.codes_OI.max().item<int>(), 1 << bits);
              ASSERT_TRUE(std::isfinite(linear.loss));
              if (granularity != Granularity::group) break;
            }
    }
}

TEST(ErrorFeedback, ActOrderWithDynamicGroupsHasAnIndex) {
  const at::Tensor weight = normal(9, 80, 16), h = hessian(80, 300, 17);
  StageHessian stage(h, 300);
  Rounding rounding = error_feedback();
  rounding.act_order = ActOrder::desc;
  const QuantizedLinear linear = solve(weight, &stage, group_grid(4, 32), rounding);
  ASSERT_TRUE(linear.group_of_column.defined());
  const at::Tensor perm = stage.factor(rounding, 32).perm;
  EXPECT_TRUE(at::equal(linear.group_of_column.index_select(0, perm), at::arange(80).floor_divide(32)));
  rounding.static_groups = true;
  EXPECT_FALSE(solve(weight, &stage, group_grid(4, 32), rounding).group_of_column.defined());
  rounding.static_groups = false;
  rounding.act_order = ActOrder::none;
  rounding.group_aware = true;
  EXPECT_FALSE(solve(weight, &stage, group_grid(4, 32), rounding).group_of_column.defined());
}

TEST(ErrorFeedback, DeadColumnsBecomeZeroAndDoNotCount) {
  const at::Tensor weight = normal(12, 40, 18);
  at::Tensor h = hessian(40, 200, 19);
  for (const std::int64_t dead : {0, 17, 39}) {
    h[dead].zero_();
    h.select(1, dead).zero_();
  }
  for (const GridConvention convention : {GridConvention::miq, GridConvention::ist, GridConvention::awq, GridConvention::ct}) {
    StageHessian stage(h, 200);
    Grid grid = group_grid(4, 16);
    grid.convention = convention;
    const QuantizedLinear linear = solve(weight, &stage, grid, error_feedback());
    const at::Tensor values = dequantize(linear, at::kFloat);
    if (convention != GridConvention::awq) {  // whose grids need not hold 0
      EXPECT_EQ(values.index_select(1, at::tensor({0, 17, 39}, at::kLong)).abs().max().item<float>(), 0);
    }
    EXPECT_NEAR(linear.loss / quadratic(values - weight, h), 1, 1e-4);
    EXPECT_EQ(linear.events.at(0).code, "dead_columns");
  }
}

TEST(ErrorFeedback, AllZeroHessian) {
  StageHessian stage(at::zeros({24, 24}), 10);
  const QuantizedLinear linear = solve(normal(5, 24, 20), &stage, group_grid(4, 8), error_feedback());
  EXPECT_EQ(dequantize(linear, at::kFloat).abs().max().item<float>(), 0);
  EXPECT_EQ(linear.loss, 0);
}

TEST(Rounding, ErrorsNameTheLayer) {
  at::Tensor weight = normal(4, 8, 21);
  weight[1][1] = std::nan("");
  StageHessian stage(hessian(8, 40, 22), 40);
  for (const char* kind : {"nearest", "error_feedback"}) {
    Rounding rounding;
    rounding.kind = kind;
    try {
      solve(weight, &stage, group_grid(4, 4), rounding);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::numeric);
      EXPECT_EQ(error.where(), "layer");
    }
  }
}

TEST(Rounding, MisuseIsAnError) {
  const at::Tensor weight = normal(4, 8, 23);
  StageHessian stage(hessian(9, 40, 24), 40);
  EXPECT_THROW(solve(weight, &stage, group_grid(4, 4), error_feedback()), Error);   // another width
  EXPECT_THROW(solve(weight, nullptr, group_grid(4, 4), error_feedback()), Error);  // no data
  EXPECT_THROW(solve(weight, nullptr, group_grid(1, 4), Rounding{}), Error);
  EXPECT_THROW(solve(weight, nullptr, group_grid(4, 0), Rounding{}), Error);
  EXPECT_THROW(solve(at::empty({0, 4}), nullptr, group_grid(4, 4), Rounding{}), Error);
  Rounding unknown;
  unknown.kind = "neerest";
  try {
    solve(weight, nullptr, group_grid(4, 4), unknown);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    EXPECT_THAT(error.what(), testing::HasSubstr("nearest"));
  }
}

TEST(Rounding, NearestNeedsNoData) {
  const QuantizedLinear linear = solve(normal(4, 8, 25), nullptr, group_grid(8, 4), Rounding{});
  EXPECT_TRUE(std::isnan(linear.loss));
  EXPECT_LT(linear.relative_error, 0.01);
  EXPECT_FALSE(needs_hessian("nearest"));
  EXPECT_TRUE(needs_hessian("error_feedback"));
}

TEST(Rounding, TheWeightIsNotModified) {
  const at::Tensor weight = normal(33, 40, 26), copy = weight.clone();
  StageHessian stage(hessian(40, 100, 27), 100);
  solve(weight, &stage, group_grid(4, 16), error_feedback());
  EXPECT_TRUE(at::equal(weight, copy));
}

}  // namespace
}  // namespace miq::quantizer
