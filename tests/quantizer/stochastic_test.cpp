// The example of docs/add-an-algorithm.md.
#include <gmock/gmock.h>

#include <fstream>
#include <sstream>

#include "miq/quantizer/recipe.h"
#include "problems.h"

namespace miq::quantizer {
namespace {

std::string content(const std::string& file) {
  std::ifstream in(std::string(MIQ_SOURCE_DIR) + "/" + file);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(Stochastic, IsUnbiasedAndReproducible) {
  const at::Tensor weight = test::normal(16, 64, 1);
  const Grid grid = test::group_grid(3, 32);
  Rounding rounding;
  rounding.kind = "stochastic";
  at::Tensor mean = at::zeros_like(weight);
  constexpr int kRuns = 400;
  for (int i = 0; i < kRuns; ++i) mean += dequantize(round_linear({"layer" + std::to_string(i), weight, nullptr}, grid, Range{}, rounding), at::kFloat) / kRuns;
  const QuantizedLinear one = round_linear({"layer0", weight, nullptr}, grid, Range{}, rounding);
  // Inside the interval the mean is the weight; a step is about 0.6.
  const at::Tensor inside = weight.abs() < 1.5;
  EXPECT_LT((mean - weight).masked_select(inside).abs().mean().item<double>(), 0.02);
  EXPECT_TRUE(at::equal(one.codes_OI, round_linear({"layer0", weight, nullptr}, grid, Range{}, rounding).codes_OI));
  EXPECT_FALSE(at::equal(one.codes_OI, round_linear({"layer1", weight, nullptr}, grid, Range{}, rounding).codes_OI));
}

TEST(Stochastic, ThePageShowsTheFile) {
  const std::string page = content("docs/add-an-algorithm.md");
  EXPECT_THAT(page, testing::HasSubstr(content("src/quantizer/roundings/stochastic.cpp")));
  EXPECT_THAT(page, testing::HasSubstr("MIQ_ROUNDING(stochastic, false)"));
}

}  // namespace
}  // namespace miq::quantizer
