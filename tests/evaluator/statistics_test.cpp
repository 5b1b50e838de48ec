// Statistics against SciPy 1.17 and statsmodels 0.15: the numbers below were computed there.
#include "miq/evaluator/statistics.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>

#include "miq/core/error.h"

namespace miq::evaluator {
namespace {

double ratio(const double* sums) { return sums[0] / sums[1]; }

Units mean_units(const std::vector<double>& values) {
  Units units;
  units.width = 2;
  for (const double value : values) units.addends.insert(units.addends.end(), {value, 1.0});
  return units;
}

std::vector<double> waves(size_t count) {
  std::vector<double> values;
  for (size_t i = 0; i < count; ++i) values.push_back(std::cos(static_cast<double>(i) * 0.9) * 2 + static_cast<double>(i % 3));
  return values;
}

TEST(Statistics, MeansErrorsAndQuantiles) {
  const std::vector<double> values = {0.2, 1.5, -0.7, 3.1, 2.2, 0.9, -1.4};
  EXPECT_DOUBLE_EQ(mean(values), 0.8285714285714286);
  EXPECT_DOUBLE_EQ(standard_error(values), 0.6014721169622023);
  EXPECT_NEAR(quantile(values, 0.025), -1.295, 1e-12);
  EXPECT_NEAR(quantile(values, 0.5), 0.9, 1e-12);
  EXPECT_NEAR(quantile(values, 0.8), 2.06, 1e-12);
  EXPECT_NEAR(quantile(values, 0.975), 2.965, 1e-12);
  EXPECT_TRUE(std::isnan(mean({})));
  EXPECT_TRUE(std::isnan(standard_error({1.0})));
  EXPECT_TRUE(std::isnan(quantile({}, 0.5)));
}

TEST(Statistics, BootstrapOfAMean) {
  BootstrapOptions options;
  options.resamples = 20000;
  const Estimate estimate = bootstrap({mean_units(waves(80))}, ratio, options);
  EXPECT_DOUBLE_EQ(estimate.value, 1.0186588111395742);
  EXPECT_NEAR(estimate.standard_error, 0.181074, 0.004);  // 200 000 resamples
  EXPECT_NEAR(estimate.low, 0.66343, 0.02);
  EXPECT_NEAR(estimate.high, 1.37163, 0.02);
}

TEST(Statistics, ResamplesDependOnTheSeedAndOnNothingElse) {
  const std::vector<Units> strata = {mean_units(waves(80))};
  const Estimate first = bootstrap(strata, ratio);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Estimate alone = bootstrap(strata, ratio);
  at::set_num_threads(threads);
  EXPECT_EQ(first.low, alone.low);
  EXPECT_EQ(first.standard_error, alone.standard_error);
  BootstrapOptions other;
  other.seed = 5;
  EXPECT_NE(bootstrap(strata, ratio, other).low, first.low);
}

TEST(Statistics, StrataCountAlikeAndUndefinedOnesDoNot) {
  const std::vector<Units> strata = {mean_units({1, 1, 1, 0}), mean_units({0}), mean_units({})};
  EXPECT_DOUBLE_EQ(score_of(strata, ratio), (0.75 + 0.0) / 2);
  // within strata only the first varies: half of its error is the whole's
  BootstrapOptions options;
  options.resamples = 20000;
  EXPECT_NEAR(bootstrap(strata, ratio, options).standard_error, std::sqrt(0.75 * 0.25 / 4) / 2, 0.003);
  EXPECT_TRUE(std::isnan(bootstrap({mean_units({})}, ratio).value));
}

TEST(Statistics, PairedBootstrap) {
  std::vector<double> a, b;
  for (int i = 0; i < 80; ++i) {
    a.push_back(i * 7 % 5 / 5.0);
    b.push_back(a.back() + (i % 4 == 0 ? 0.3 : -0.05));
  }
  BootstrapOptions options;
  options.resamples = 20000;
  const DifferenceEstimate difference = paired_bootstrap({mean_units(a)}, {mean_units(b)}, ratio, options);
  EXPECT_NEAR(difference.value, 0.0375, 1e-12);
  EXPECT_NEAR(difference.standard_error, 0.0169027, 4e-4);
  EXPECT_NEAR(difference.low, 0.006875, 0.003);
  EXPECT_NEAR(difference.high, 0.0725, 0.003);
  EXPECT_NEAR(difference.p_value, 0.0214, 0.005);  // twice the share of 400 000 NumPy resamples at or below 0
  EXPECT_EQ(paired_bootstrap({mean_units(a)}, {mean_units(a)}, ratio).p_value, 1);
  EXPECT_THROW(paired_bootstrap({mean_units(a)}, {mean_units({1, 2})}, ratio), Error);
}

TEST(Statistics, McNemarIsTheExactBinomialTest) {
  EXPECT_DOUBLE_EQ(mcnemar(0, 0), 1);
  EXPECT_DOUBLE_EQ(mcnemar(0, 1), 1);
  EXPECT_NEAR(mcnemar(3, 9), 0.14599609375, 1e-13);
  EXPECT_NEAR(mcnemar(25, 10), 0.016673847800120715, 1e-13);
  EXPECT_NEAR(mcnemar(40, 41), 1, 1e-12);
  EXPECT_NEAR(mcnemar(5, 0), 0.0625, 1e-14);
  EXPECT_NEAR(mcnemar(120, 180), 0.0006342200069283566, 1e-13);
  EXPECT_LT(mcnemar(0, 5000), 1e-300);  // underflows to 0, not to something else
}

TEST(Statistics, RandomisationOfAMeanIsTheSignFlipTest) {
  const std::vector<double> zeros(60, 0.0);
  const auto p_value = [&](const std::vector<double>& differences, const BootstrapOptions& options = {}) {
    return randomisation_test({mean_units({zeros.begin(), zeros.begin() + static_cast<std::ptrdiff_t>(differences.size())})}, {mean_units(differences)}, ratio, options);
  };
  EXPECT_DOUBLE_EQ(p_value({1.2, -0.3, 0.8, 0.0, 2.5, -1.1, 0.4, 0.9}), 0.203125);
  std::vector<double> many;
  for (int i = 0; i < 60; ++i) many.push_back(std::sin(i * 1.7) + 0.15);
  BootstrapOptions options;
  options.resamples = 50000;
  EXPECT_NEAR(p_value(many, options), 0.1114, 0.006);
  EXPECT_EQ(p_value({0, 0, 0}), 1);
  EXPECT_EQ(p_value({3}), 1);  // one document tells nothing
  EXPECT_TRUE(std::isnan(p_value({})));
}

TEST(Statistics, RandomisationOfARatio) {
  // Every exchange of three units by hand: exp is monotone, so that the perplexity's order is the ratio's.
  Units a, b;
  a.width = b.width = 2;
  a.addends = {-10, 4, -21, 8, -9, 5};
  b.addends = {-12, 4, -25, 8, -10, 5};
  const Finish perplexity = [](const double* sums) { return std::exp(-sums[0] / sums[1]); };
  EXPECT_DOUBLE_EQ(randomisation_test({a}, {b}, perplexity), 2.0 / 8);  // all worse: only the observed one and its mirror
  b.addends[0] = -8;
  // differences of sums -2, 4, 1 in each sign: |+-2 +-4 +-1|; the observed 3 is reached by 7 5 3 and their mirrors
  EXPECT_DOUBLE_EQ(randomisation_test({a}, {b}, perplexity), 6.0 / 8);
}

TEST(Statistics, SingleUnitsHaveNoError) {
  const Estimate estimate = bootstrap({mean_units({3})}, ratio);
  EXPECT_EQ(estimate.value, 3);
  EXPECT_TRUE(std::isnan(estimate.standard_error) && std::isnan(estimate.low) && std::isnan(estimate.high));
  const DifferenceEstimate difference = paired_bootstrap({mean_units({3})}, {mean_units({4})}, ratio);
  EXPECT_EQ(difference.value, 1);
  EXPECT_TRUE(std::isnan(difference.p_value) && std::isnan(difference.low));
}

TEST(Statistics, Holm) {
  const std::vector<double> adjusted = holm({0.01, 0.04, 0.03, 0.005, 0.5});
  const std::vector<double> expected = {0.04, 0.09, 0.09, 0.025, 0.5};
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(adjusted[i], expected[i], 1e-15);
  const std::vector<double> with_gap = holm({0.04, kUndefined, 0.03});
  EXPECT_NEAR(with_gap[0], 0.06, 1e-15);
  EXPECT_TRUE(std::isnan(with_gap[1]));
  EXPECT_NEAR(with_gap[2], 0.06, 1e-15);
}

TEST(Statistics, DivergenceOfChoices) {
  EXPECT_NEAR(choice_divergence({-1.5, -2.25, -0.5, -7}, {-2, -1, -0.75, -3}), 0.22776553012750522, 1e-14);
  EXPECT_EQ(choice_divergence({-1, -2}, {-101, -102}), 0);  // only differences matter
  EXPECT_THROW(choice_divergence({1}, {1, 2}), Error);
}

}  // namespace
}  // namespace miq::evaluator
