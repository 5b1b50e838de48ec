// Awkward texts as lm-evaluation-harness 0.4.13 takes them: its own code was run on tests/fixtures/tiny-llama by tests/fixtures/make_harness_cases.py.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "miq/core/error.h"
#include "miq/evaluator/scorer.h"
#include "miq/evaluator/task_run.h"
#include "support/golden.h"

namespace miq::evaluator {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Ids = std::vector<std::int64_t>;

const fs::path kTiny = "tests/fixtures/tiny-llama";

json read(const fs::path& path) { return json::parse(std::ifstream(path)); }

void write(const fs::path& path, const json& value) { std::ofstream(path) << value.dump(); }

// With the tokenizer of the test's parameter: as it is, with a BOS, or with the full stop as a special token.
class Harness : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const json all = read("tests/fixtures/harness_cases.json");
    cases_ = all.at("tokenizers").at(GetParam());
    for (const auto& entry : fs::directory_iterator(kTiny)) fs::copy(entry.path(), folder_.path());
    json tokenizer = read(kTiny / "tokenizer.json");
    if (GetParam() == std::string("bos")) {
      tokenizer["post_processor"] = all.at("post_processor");
      json config = read(kTiny / "tokenizer_config.json");
      config["bos_token"] = config["eos_token"];
      write(folder_.path() / "tokenizer_config.json", config);
    }
    if (GetParam() == std::string("special")) {
      json stop = tokenizer["added_tokens"][0];
      stop["id"] = tokenizer["model"]["vocab"]["."];
      stop["content"] = ".";
      tokenizer["added_tokens"].push_back(stop);
    }
    write(folder_.path() / "tokenizer.json", tokenizer);
    tokenizer_ = dataset::load_tokenizer(folder_.path());
  }

  // The model with room for so many tokens.
  model::LanguageModel open(std::int64_t max_length) {
    json config = read(kTiny / "config.json");
    config["max_position_embeddings"] = max_length;
    write(folder_.path() / "config.json", config);
    return model::LanguageModel::open(folder_.path(), "auto", at::kFloat, at::kCPU);
  }

  test::TempFolder folder_;
  json cases_;
  std::unique_ptr<dataset::Tokenizer> tokenizer_;
};

TEST_P(Harness, ContextsAndContinuations) {
  std::vector<ScoreRequest> requests;
  std::vector<const json*> asked;
  for (const json& c : cases_["pairs"]) {
    SCOPED_TRACE(c.dump());
    const ScoreRequest request = encode_pair(*tokenizer_, c["context"], c["continuation"], c["max_length"]);
    if (c.contains("refused")) {
      // A context of whitespace alone has no token, which the harness does not take; here it is an empty one.
      if (c["context"] != " \n ") {
        EXPECT_TRUE(request.scored == 0 || !request.whole);
      }
      continue;
    }
    EXPECT_EQ(request.tokens, c["tokens"].get<Ids>());
    EXPECT_EQ(request.scored, c["scored"].get<std::int64_t>());
    EXPECT_TRUE(request.whole);
    requests.push_back(request);
    asked.push_back(&c);
  }
  model::LanguageModel model = open(1024);
  const std::vector<Score> scores = loglikelihoods(model, requests);
  for (size_t r = 0; r < scores.size(); ++r) {
    EXPECT_NEAR(scores[r].loglikelihood, (*asked[r])["loglikelihood"].get<double>(), 1e-4) << *asked[r];
    EXPECT_EQ(scores[r].greedy, (*asked[r])["greedy"].get<bool>()) << *asked[r];
  }
}

TEST_P(Harness, RollingWindows) {
  model::LanguageModel model = open(1024);
  for (const json& c : cases_["rolling"]) {
    SCOPED_TRACE(c.dump());
    const std::vector<ScoreRequest> windows = encode_rolling(*tokenizer_, c["text"], c["max_length"]);
    ASSERT_EQ(windows.size(), c["windows"].size());
    for (size_t w = 0; w < windows.size(); ++w) {
      EXPECT_EQ(windows[w].tokens, c["windows"][w]["tokens"].get<Ids>());
      EXPECT_EQ(windows[w].scored, c["windows"][w]["scored"].get<std::int64_t>());
    }
    double sum = 0;
    for (const Score& score : loglikelihoods(model, windows)) sum += score.loglikelihood;
    EXPECT_NEAR(sum, c["loglikelihood"].get<double>(), 1e-4);
  }
}

TEST_P(Harness, Texts) {
  ASSERT_FALSE(cases_["texts"].empty());
  for (const json& c : cases_["texts"]) {
    SCOPED_TRACE(c.dump());
    dataset::Task task;
    task.name = "texts";
    task.file = "texts.yaml";
    task.shape = dataset::Shape::generate;
    task.until = c["until"].get<std::vector<std::string>>();
    task.max_new_tokens = c["max_new_tokens"];
    task.metrics = {"exact_match"};
    dataset::TaskDocument document;
    document.where = "texts.jsonl:1";
    document.requests = {{c["prompt"], ""}};
    document.references = {"nothing"};
    model::LanguageModel model = open(c["max_length"]);
    if (c.contains("refused")) {
      EXPECT_THROW(run_task(model, *tokenizer_, task, {{"", "", {document}}}), Error);
      continue;
    }
    EXPECT_EQ(run_task(model, *tokenizer_, task, {{"", "", {document}}}).at(0).text, c["text"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, Harness, testing::Values("plain", "bos", "special"), [](const auto& info) { return std::string(info.param); });

TEST(TaskOfChoices, RefusesContinuationsWithoutAScoreOfTheirOwn) {
  auto model = model::LanguageModel::open(kTiny, "auto", at::kFloat, at::kCPU);
  const auto tokenizer = dataset::load_tokenizer(kTiny);
  dataset::Task task;
  task.name = "choices";
  task.file = "choices.yaml";
  task.metrics = {"acc"};
  dataset::TaskDocument document;
  document.where = "choices.jsonl:7";
  document.choices = {"yes", "no"};
  document.gold = {0};
  std::string endless;
  for (int i = 0; i < 2000; ++i) endless += " word";
  const std::pair<std::string, const char*> mistakes[] = {{"", "adds no token"}, {endless, "longer than the 1024 tokens"}};
  for (const auto& [continuation, what] : mistakes) {
    document.requests = {{"A question:", " yes"}, {"A question:", continuation}};
    try {
      run_task(model, *tokenizer, task, {{"", "", {document}}});
      ADD_FAILURE() << "a continuation of " << continuation.size() << " bytes was scored";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::config);
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("choices.yaml; data: choices.jsonl:7, document 0"), std::string::npos) << error.what();
    }
  }
  document.requests = {{" \n ", "yes"}, {"", "yes"}};  // a context of whitespace alone counts as none
  EXPECT_EQ(run_task(model, *tokenizer, task, {{"", "", {document}}}).at(0).loglikelihoods.size(), 2u);
}

}  // namespace
}  // namespace miq::evaluator
