// Log-likelihoods of lm-evaluation-harness 0.4.13 on SmolLM2-135M ($MIQ_SMOLLM2), golden/smollm2.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "miq/evaluator/scorer.h"
#include "support/golden.h"
#include "support/test_device.h"

namespace miq::evaluator {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::map<std::string, json> rows_by_id(const fs::path& path) {
  std::map<std::string, json> rows;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    json row = json::parse(line);
    rows.emplace(row.at("id").get<std::string>(), std::move(row));
  }
  return rows;
}

size_t best(const std::vector<double>& values) { return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin()); }

class GoldenScorer : public testing::Test {
 protected:
  void SetUp() override {
    MIQ_REQUIRE_GOLDEN("smollm2/prompts_0shot.jsonl");
    MIQ_REQUIRE_SMOLLM2();
  }
  // id -> log-likelihoods of the choices.
  std::map<std::string, std::vector<double>> scored(at::ScalarType dtype) {
    auto model = model::LanguageModel::open(test::smollm2_dir(), "auto", dtype, test::device());
    const auto tokenizer = dataset::load_tokenizer(test::smollm2_dir());
    std::vector<std::pair<std::string, std::string>> pairs;
    const auto prompts = rows_by_id(test::golden_dir() / "smollm2" / "prompts_0shot.jsonl");
    for (const auto& [id, row] : prompts)
      for (const auto& choice : row.at("cont")) pairs.emplace_back(row.at("ctx"), choice);
    const std::vector<Score> scores = loglikelihoods(model, encode_pairs(*tokenizer, pairs, 8192));
    std::map<std::string, std::vector<double>> result;
    size_t next = 0;
    for (const auto& [id, row] : prompts)
      for (size_t c = 0; c < row.at("cont").size(); ++c) result[id].push_back(scores[next++].loglikelihood);
    return result;
  }
};

TEST_F(GoldenScorer, Float32IsThatOfTheHarness) {
  const auto own = scored(at::kFloat);
  const auto golden = rows_by_id(test::golden_dir() / "smollm2" / "lmeval_cmmlu_s200_0shot_fp32_bs1.jsonl");
  ASSERT_EQ(own.size(), golden.size());
  for (const auto& [id, row] : golden) {
    const auto expected = row.at("ll").get<std::vector<double>>();
    for (size_t c = 0; c < expected.size(); ++c) EXPECT_NEAR(own.at(id)[c], expected[c], 1e-3) << id << " choice " << c;
    EXPECT_EQ(best(own.at(id)), best(expected)) << id;
  }
}

TEST_F(GoldenScorer, BFloat16IsNearerToFloat32ThanTheHarness) {
  const auto own = scored(at::kBFloat16);
  const auto exact = rows_by_id(test::golden_dir() / "smollm2" / "lmeval_cmmlu_s200_0shot_fp32_bs1.jsonl");
  const auto harness = rows_by_id(test::golden_dir() / "smollm2" / "lmeval_cmmlu_s200_0shot_bf16_bs8.jsonl");
  double own_error = 0, harness_error = 0;
  for (const auto& [id, row] : exact)
    for (size_t c = 0; c < row.at("ll").size(); ++c) {
      own_error += std::pow(own.at(id)[c] - row["ll"][c].get<double>(), 2);
      harness_error += std::pow(harness.at(id).at("ll")[c].get<double>() - row["ll"][c].get<double>(), 2);
    }
  EXPECT_LT(own_error, harness_error);
}

}  // namespace
}  // namespace miq::evaluator
