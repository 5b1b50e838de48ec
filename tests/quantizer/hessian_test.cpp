#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "miq/core/error.h"
#include "problems.h"
#include "support/golden.h"

namespace miq::quantizer {
namespace {

using miq::test::relative_difference;
using test::error_feedback;
using test::hessian;

std::vector<std::string> codes_of(const HessianFactor& factor) {
  std::vector<std::string> codes;
  for (const Event& event : factor.events) codes.push_back(event.code);
  return codes;
}

TEST(Hessian, FactorInvertsTheDampedHessian) {
  for (const std::int64_t n : {1, 2, 15, 128, 129, 300, 515}) {
    const at::Tensor h = hessian(n, n + 200, 1);
    StageHessian stage(h, n + 200);
    const HessianFactor& factor = stage.factor(error_feedback(), 128);
    EXPECT_NEAR(factor.damp, 0.01 * h.diagonal().mean().item<double>(), 1e-5 * factor.damp);
    EXPECT_NEAR(factor.percdamp_used, 0.01, 1e-12);
    EXPECT_TRUE(factor.events.empty());
    EXPECT_FALSE(factor.perm.defined());
    EXPECT_FALSE(factor.dead.defined());
    const at::Tensor u = factor.upper_II.to(at::kDouble);
    EXPECT_TRUE(at::equal(u, u.triu()));
    const at::Tensor damped = h.to(at::kDouble) + at::eye(n, at::kDouble) * factor.damp;
    EXPECT_LT(relative_difference(u.t().mm(u).mm(damped), at::eye(n)), 1e-3) << n;
    EXPECT_LT(relative_difference(u, at::linalg_cholesky(damped.inverse(), /*upper=*/true)), 2e-5) << n;
  }
}

TEST(Hessian, ChoicesAreCachedAndShared) {
  StageHessian stage(hessian(64, 100, 2), 100);
  Rounding a = error_feedback(), b = a;
  b.block_size = 32;  // nothing to the factor
  EXPECT_EQ(&stage.factor(a, 32), &stage.factor(b, 64));
  b.percdamp = 0.1;
  EXPECT_NE(&stage.factor(a, 32), &stage.factor(b, 32));
  b = a;
  b.group_aware = true;
  EXPECT_NE(&stage.factor(b, 32), &stage.factor(b, 16));
}

TEST(Hessian, DescendingOrder) {
  const at::Tensor h = hessian(50, 100, 3);
  StageHessian stage(h, 100);
  Rounding rounding = error_feedback();
  rounding.act_order = ActOrder::desc;
  const at::Tensor sorted = h.diagonal().index_select(0, stage.factor(rounding, 16).perm);
  EXPECT_TRUE(at::equal(sorted, std::get<0>(h.diagonal().sort(0, true))));
}

TEST(Hessian, GroupAwareOrderKeepsGroupsTogether) {
  const at::Tensor h = at::diag(at::tensor({1.0f, 5.0f, 2.0f, 2.5f, 9.0f, 3.0f, 100.0f}));
  StageHessian stage(h, 100);
  Rounding rounding = error_feedback();
  rounding.group_aware = true;
  const at::Tensor perm = stage.factor(rounding, 2).perm;  // groups 01 23 45, tail 6
  EXPECT_TRUE(at::equal(perm, at::tensor({4, 5, 1, 0, 3, 2, 6}, at::kLong))) << perm;
  EXPECT_TRUE(at::equal(stage.factor(rounding, 50).perm, at::arange(7)));
}

TEST(Hessian, DeadColumnsGetOneBeforeTheDampingMean) {
  at::Tensor h = at::diag(at::tensor({4.0f, 0.0f, 2.0f, 0.0f}));
  StageHessian stage(h, 100);
  const HessianFactor& factor = stage.factor(error_feedback(), 128);
  EXPECT_TRUE(at::equal(factor.dead, at::tensor({0, 1, 0, 1}).to(at::kBool)));
  EXPECT_NEAR(factor.damp, 0.01 * (4 + 1 + 2 + 1) / 4, 1e-8);
  EXPECT_THAT(codes_of(factor), testing::Contains("dead_columns"));
}

TEST(Hessian, TooFewTokensAreNoted) {
  StageHessian stage(hessian(64, 20, 4), 20);
  EXPECT_THAT(codes_of(stage.factor(error_feedback(), 128)), testing::Contains("starved_hessian"));
}

TEST(Hessian, DampingIsRaisedUntilPositiveDefinite) {
  at::Tensor h = at::eye(8) * 1.0;
  h[0][1] = h[1][0] = 1.035;  // smallest eigenvalue -0.035 of a mean diagonal 1
  StageHessian stage(h, 100);
  const HessianFactor& factor = stage.factor(error_feedback(), 128);
  EXPECT_NEAR(factor.percdamp_used, 0.04, 1e-9);
  EXPECT_THAT(codes_of(factor), testing::Contains("damping_raised"));
  Rounding strict = error_feedback();
  strict.damp_auto_increment = 0;
  EXPECT_THROW(stage.factor(strict, 128), Error);
}

TEST(Hessian, AFloorFollowsTheLadder) {
  at::Tensor h = at::eye(8) * 1.0;
  h[0][1] = h[1][0] = 2.5;  // beyond damping below 1
  StageHessian stage(h, 100);
  Rounding rounding = error_feedback();
  rounding.damp_auto_increment = 0.05;
  try {  // 1e-6 .. 0.1 of the largest diagonal do not save it either
    stage.factor(rounding, 128);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::numeric);
    EXPECT_THAT(error.what(), testing::HasSubstr("not positive definite"));
  }
  h[0][1] = h[1][0] = 2.05;  // -1.05: percdamp just below 1 and the last floor of 0.1
  StageHessian savable(h, 100);
  const HessianFactor& factor = savable.factor(rounding, 128);
  EXPECT_GT(factor.percdamp_used, 1.05);
  EXPECT_LT(factor.percdamp_used, 1.11);
}

TEST(Hessian, NotFiniteIsRefused) {
  at::Tensor h = hessian(8, 20, 5);
  h[3][2] = std::nan("");
  EXPECT_THROW(StageHessian(h, 20), Error);
}

TEST(Hessian, AllZeroIsAllDead) {
  StageHessian stage(at::zeros({16, 16}), 100);
  const HessianFactor& factor = stage.factor(error_feedback(), 128);
  EXPECT_TRUE(factor.dead.all().item<bool>());
  EXPECT_TRUE(factor.upper_II.isfinite().all().item<bool>());
}

}  // namespace
}  // namespace miq::quantizer
