#include "miq/quantizer/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "miq/core/error.h"
#include "problems.h"
#include "support/golden.h"

namespace miq::quantizer {
namespace {

using miq::test::relative_difference;
using test::normal;

at::Tensor reference(const at::Tensor& x, double sequences) {
  const at::Tensor rows = x.reshape({-1, x.size(-1)}).to(at::kDouble);
  return rows.t().mm(rows) * (2 / sequences);
}

TEST(Statistics, HessianMatchesFloat64ForEveryTypeAndShape) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf})
    for (const std::int64_t columns : {1, 7, 16, 47, 48, 49, 96, 100, 257})
      for (const std::int64_t tokens : {1, 2, 3, 64, 255, 300}) {
        SCOPED_TRACE(testing::Message() << c10::toString(dtype) << " " << tokens << "x" << columns);
        const at::Tensor x = normal(tokens, columns, 1).to(dtype);
        InputStatistics statistics(columns, at::kCPU, {.hessian = true});
        statistics.add(x, 1);
        EXPECT_LT(relative_difference(statistics.hessian(), reference(x, 1)), 2e-6);
        EXPECT_TRUE(at::equal(statistics.hessian(), statistics.hessian().t()));
        EXPECT_EQ(statistics.num_tokens(), tokens);
      }
}

TEST(Statistics, LongAccumulationStaysAccurate) {
  // 9001 tokens with a mean and loud channels: more than one packed chunk, odd at its end.
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = (normal(9001, 130, 2) + 0.5).mul_(at::rand({130}).pow(4) * 50 + 0.01).to(dtype);
    InputStatistics statistics(130, at::kCPU, {.hessian = true});
    statistics.add(x, 3);
    const at::Tensor expected = reference(x, 3), size = expected.diagonal().sqrt();
    const at::Tensor error = (statistics.hessian().to(at::kDouble) - expected).abs() / size.unsqueeze(0) / size.unsqueeze(1);
    EXPECT_LT(error.max().item<double>(), 3e-6) << c10::toString(dtype);
  }
}

TEST(Statistics, BatchesAddUpAndSequencesCount) {
  const at::Tensor x = normal(60, 33, 3).view({3, 20, 33});
  InputStatistics whole(33, at::kCPU, {.hessian = true}), parts(33, at::kCPU, {.hessian = true});
  whole.add(x, 3);
  parts.add(x.narrow(0, 0, 1), 1);
  parts.add(x.narrow(0, 1, 2), 2);
  EXPECT_EQ(parts.num_tokens(), 60);
  EXPECT_LT(relative_difference(parts.hessian(), whole.hessian()), 1e-6);
  EXPECT_LT(relative_difference(whole.hessian(), reference(x, 3)), 1e-6);
}

TEST(Statistics, TakesViewsAndEmptyBatches) {
  const at::Tensor x = normal(40, 64, 4).to(at::kBFloat16);
  InputStatistics statistics(20, at::kCPU, {.hessian = true});
  statistics.add(x.narrow(1, 10, 20), 1);  // not contiguous
  statistics.add(at::empty({0, 20}, at::kBFloat16), 0);
  EXPECT_LT(relative_difference(statistics.hessian(), reference(x.narrow(1, 10, 20), 1)), 1e-6);
}

TEST(Statistics, NotFiniteInputsAreAnError) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    for (const double bad : {std::nan(""), double{INFINITY}, -double{INFINITY}, 1e25}) {  // 1e50 is too large for a sum
      at::Tensor x = normal(70, 65, 5).to(dtype);
      x[69][64] = bad;
      InputStatistics statistics(65, at::kCPU, {.hessian = true});
      statistics.add(x, 1);
      statistics.add(normal(5, 65, 6).to(dtype), 1);
      try {
        statistics.hessian();
        FAIL() << "no error for " << bad << " in " << c10::toString(dtype);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::numeric);
      }
    }
}

TEST(Statistics, AnotherWidthIsRefused) {
  InputStatistics statistics(8, at::kCPU, {.hessian = true});
  EXPECT_THROW(statistics.add(at::zeros({4, 16}), 1), Error);
}

}  // namespace
}  // namespace miq::quantizer
