// Log-likelihoods and greedy continuations against the model run on each text alone.
#include "miq/evaluator/scorer.h"

#include <gtest/gtest.h>

#include "miq/core/device.h"
#include "miq/core/error.h"
#include "miq/core/random.h"
#include "miq/model/generate.h"
#include "support/golden.h"
#include "support/tiny_models.h"

namespace miq::evaluator {
namespace {

const char* const kTiny = "tests/fixtures/tiny-llama";

using Ids = std::vector<std::int64_t>;

class ScorerOfTiny : public testing::Test {
 protected:
  Ids text(std::int64_t tokens) {
    Ids ids;
    for (std::int64_t t = 0; t < tokens; ++t) ids.push_back(random_.randint(0, model_.architecture().vocab_size - 1));
    return ids;
  }
  static Ids joined(Ids a, const Ids& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  at::Tensor log_probabilities(const Ids& ids) { return model_.forward(at::tensor(ids, at::kLong).unsqueeze(0))[0].to(at::kDouble).log_softmax(1); }

  // Documents with shots, contexts and choices: shared beginnings of many kinds, equal texts, texts within texts.
  std::vector<ScoreRequest> requests() {
    std::vector<ScoreRequest> all;
    const Ids shots = text(300);
    for (int d = 0; d < 12; ++d) {
      const Ids context = joined(d % 3 == 0 ? Ids() : shots, text(3 + 17 * (d % 5)));
      for (int c = 0; c < 4; ++c) {
        const Ids choice = text(1 + (d + c) % 4 * 5);
        all.push_back({joined(context, choice), static_cast<std::int64_t>(choice.size())});
      }
      all.push_back({context, 1});
      all.push_back(all[all.size() - 2]);
    }
    all.push_back({joined(shots, text(2)), 290});
    all.push_back({shots, 0});
    all.push_back({{5, 6}, 1});
    return all;
  }

  model::LanguageModel model_ = model::LanguageModel::open(kTiny, "auto", at::kFloat, at::kCPU);
  PythonRandom random_{3};
};

TEST_F(ScorerOfTiny, LogLikelihoodsAreThoseOfEachTextAlone) {
  const std::vector<ScoreRequest> all = requests();
  ScoreOptions options;
  options.token_logprobs = true;
  options.top = 3;
  const std::vector<Score> scores = loglikelihoods(model_, all, options);
  for (size_t r = 0; r < all.size(); ++r) {
    const auto length = static_cast<std::int64_t>(all[r].tokens.size());
    const at::Tensor expected = log_probabilities(all[r].tokens);
    double sum = 0;
    bool greedy = true;
    ASSERT_EQ(static_cast<std::int64_t>(scores[r].token_logprobs.size()), all[r].scored);
    for (std::int64_t s = 0; s < all[r].scored; ++s) {
      const std::int64_t position = length - all[r].scored + s;
      const at::Tensor row = expected[position - 1];
      const double logprob = row[all[r].tokens[static_cast<size_t>(position)]].item<double>();
      sum += logprob;
      greedy = greedy && row.argmax().item<std::int64_t>() == all[r].tokens[static_cast<size_t>(position)];
      EXPECT_NEAR(scores[r].token_logprobs[static_cast<size_t>(s)], logprob, 1e-4);
      const auto& top = scores[r].top[static_cast<size_t>(s)];
      ASSERT_EQ(top.size(), 3u);
      EXPECT_EQ(top[0].id, row.argmax().item<std::int64_t>());
      EXPECT_NEAR(top[0].logprob, row.max().item<double>(), 1e-4);
      EXPECT_GE(top[1].logprob, top[2].logprob);
    }
    EXPECT_NEAR(scores[r].loglikelihood, sum, 1e-3) << "request " << r;
    EXPECT_EQ(scores[r].greedy, greedy) << "request " << r;
  }
}

TEST_F(ScorerOfTiny, NoResultDependsOnTheBatch) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx512f")) GTEST_SKIP() << "this CPU's attention is LibTorch's, whose rows depend on each other in the last bit";
#endif
  const std::vector<ScoreRequest> all = requests();
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    if (dtype == at::kBFloat16 && !has_fast_bfloat16(at::kCPU)) continue;
    model_.set_compute_dtype(dtype);
    const std::vector<Score> whole = loglikelihoods(model_, all);
    for (const std::int64_t tokens : {1, 7, 100, 513}) {
      ScoreOptions options;
      options.batch_tokens = tokens;
      const std::vector<Score> parts = loglikelihoods(model_, all, options);
      for (size_t r = 0; r < all.size(); ++r) EXPECT_EQ(parts[r].loglikelihood, whole[r].loglikelihood) << "request " << r << ", batches of " << tokens;
    }
    for (size_t r = 0; r < all.size(); r += 5) EXPECT_EQ(loglikelihoods(model_, {all[r]})[0].loglikelihood, whole[r].loglikelihood) << "request " << r << " alone";
    model_.set_memory_budget(1 << 20);  // several passes, in which shared beginnings are run again
    const std::vector<Score> passes = loglikelihoods(model_, all);
    model_.set_memory_budget(0);
    for (size_t r = 0; r < all.size(); ++r) EXPECT_EQ(passes[r].loglikelihood, whole[r].loglikelihood) << "request " << r << ", in passes";
  }
}

// Experts see few of a batch's tokens, and other numbers of them in each.
TEST(ScorerOfExperts, NoResultDependsOnTheBatch) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx512f")) GTEST_SKIP() << "this CPU's attention is LibTorch's, whose rows depend on each other in the last bit";
#endif
  for (const char* const family : {"mixtral", "qwen3_moe"}) {
    const test::TempFolder folder;
    test::write_tiny_model(folder.path(), test::tiny_configs().at(family));
    auto model = model::LanguageModel::open(folder.path(), "auto", at::kFloat, at::kCPU);
    PythonRandom random(4);
    std::vector<ScoreRequest> all;
    for (int r = 0; r < 20; ++r) {
      Ids ids;
      for (int t = 0; t < 4 + 3 * r; ++t) ids.push_back(random.randint(3, 95));
      all.push_back({ids, 1 + r % 4});
      ids.back() = 3;
      all.push_back({ids, 1 + r % 4});
    }
    const std::vector<Score> whole = loglikelihoods(model, all);
    for (const std::int64_t tokens : {1, 5, 60}) {
      ScoreOptions options;
      options.batch_tokens = tokens;
      const std::vector<Score> parts = loglikelihoods(model, all, options);
      for (size_t r = 0; r < all.size(); ++r) EXPECT_EQ(parts[r].loglikelihood, whole[r].loglikelihood) << family << ", request " << r << ", batches of " << tokens;
    }
  }
}

TEST_F(ScorerOfTiny, NextLogits) {
  std::vector<Ids> texts = {text(20), text(5)};
  texts.push_back(joined(texts[0], text(30)));
  texts.push_back(texts[1]);
  const Ids wanted = {3, 77, 1};
  const at::Tensor logits = next_logits(model_, texts, wanted);
  for (size_t t = 0; t < texts.size(); ++t) {
    const at::Tensor expected = model_.forward(at::tensor(texts[t], at::kLong).unsqueeze(0), nullptr, /*last_only=*/true).view({-1}).index_select(0, at::tensor(wanted, at::kLong));
    EXPECT_LT((logits[static_cast<std::int64_t>(t)] - expected).abs().max().item<double>(), 1e-4);
  }
}

TEST_F(ScorerOfTiny, GreedyTextsAreThoseOfGenerate) {
  std::vector<Ids> prompts;
  const Ids shots = text(200);
  for (int p = 0; p < 9; ++p) prompts.push_back(joined(p % 4 == 3 ? Ids() : shots, text(1 + 9 * p)));
  prompts.push_back(shots);       // a beginning of others
  prompts.push_back(prompts[2]);  // twice
  model::GenerateOptions alone;
  alone.max_new_tokens = 20;
  GreedyOptions options;
  options.max_new_tokens = 20;
  for (const std::int64_t budget : {std::int64_t{0}, std::int64_t{3} << 20}) {  // all together, and in waves
    model_.set_memory_budget(budget);
    const std::vector<Ids> texts = generate_greedily(model_, prompts, options);
    for (size_t p = 0; p < prompts.size(); ++p) EXPECT_EQ(texts[p], model::generate(model_, prompts[p], alone)) << "prompt " << p;
  }
}

TEST_F(ScorerOfTiny, GenerationStopsWhereItIsTold) {
  const std::vector<Ids> prompts = {text(12), text(40)};
  GreedyOptions options;
  options.max_new_tokens = 15;
  options.stop_at_eos = false;
  const std::vector<Ids> whole = generate_greedily(model_, prompts, options);
  ASSERT_EQ(whole[0].size(), 15u);
  options.stop = [](size_t i, const Ids& generated) { return i == 1 && generated.size() == 4; };
  const std::vector<Ids> stopped = generate_greedily(model_, prompts, options);
  EXPECT_EQ(stopped[0], whole[0]);
  EXPECT_EQ(stopped[1], Ids(whole[1].begin(), whole[1].begin() + 4));
}

TEST_F(ScorerOfTiny, IdsOutsideTheVocabularyAreRefused) {
  EXPECT_THROW(loglikelihoods(model_, {{{1, 2, 1 << 30}, 1}}), Error);
  EXPECT_THROW(next_logits(model_, {{1, -2}}, {0}), Error);
  EXPECT_THROW(generate_greedily(model_, {{}}, {}), Error);
}

class Encoding : public testing::Test {
 protected:
  std::unique_ptr<dataset::Tokenizer> tokenizer_ = dataset::load_tokenizer(kTiny);
};

TEST_F(Encoding, WhitespaceAtTheContextsEndGoesToTheContinuation) {
  const ScoreRequest with = encode_pair(*tokenizer_, "Question: how? \n", " well", 2048), without = encode_pair(*tokenizer_, "Question: how?", " \n well", 2048);
  EXPECT_EQ(with.tokens, without.tokens);
  EXPECT_EQ(with.scored, without.scored);
  EXPECT_EQ(with.tokens, encode_context(*tokenizer_, "Question: how? \n well"));
}

TEST_F(Encoding, AnEmptyContextIsTheFirstToken) {
  const ScoreRequest request = encode_pair(*tokenizer_, "", " The cat", 2048);
  const Ids own = tokenizer_->encode(" The cat", false);
  EXPECT_EQ(request.scored, static_cast<std::int64_t>(own.size()));
  EXPECT_EQ(request.tokens.front(), *tokenizer_->bos_id());
  EXPECT_EQ(Ids(request.tokens.begin() + 1, request.tokens.end()), own);
}

TEST_F(Encoding, LongTextsAreCutOnTheLeft) {
  const std::string context = "one two three four five six seven eight nine ten", continuation = " eleven twelve";
  const ScoreRequest whole = encode_pair(*tokenizer_, context, continuation, 2048);
  const ScoreRequest cut = encode_pair(*tokenizer_, context, continuation, whole.scored + 3);
  EXPECT_EQ(cut.scored, whole.scored);
  EXPECT_EQ(cut.tokens, Ids(whole.tokens.end() - (whole.scored + 4), whole.tokens.end()));
  EXPECT_EQ(encode_pair(*tokenizer_, context, continuation, 1).scored, 1);
}

TEST_F(Encoding, PairsOnAllThreadsAreThoseOneByOne) {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (int i = 0; i < 200; ++i) pairs.emplace_back(i % 7 == 0 ? "" : "Text number " + std::to_string(i / 4) + (i % 3 ? " " : ""), " choice " + std::to_string(i));
  const std::vector<ScoreRequest> together = encode_pairs(*tokenizer_, pairs, 64);
  for (size_t i = 0; i < pairs.size(); ++i) {
    const ScoreRequest alone = encode_pair(*tokenizer_, pairs[i].first, pairs[i].second, 64);
    EXPECT_EQ(together[i].tokens, alone.tokens);
    EXPECT_EQ(together[i].scored, alone.scored);
  }
}

TEST_F(Encoding, RollingWindowsScoreEveryTokenOnce) {
  const std::string text = "Once upon a time there was a miller who had three sons, a mill, a donkey and a cat; the sons had to grind.";
  const Ids tokens = encode_context(*tokenizer_, text);
  for (const std::int64_t length : {std::int64_t{7}, std::int64_t{1}, static_cast<std::int64_t>(tokens.size()), std::int64_t{2048}}) {
    Ids scored;
    for (const ScoreRequest& window : encode_rolling(*tokenizer_, text, length)) {
      EXPECT_LE(static_cast<std::int64_t>(window.tokens.size()), length + 1);
      if (!scored.empty()) {
        EXPECT_EQ(static_cast<std::int64_t>(window.tokens.size()), length + 1) << "the last window is filled up with earlier tokens";
      }
      scored.insert(scored.end(), window.tokens.end() - window.scored, window.tokens.end());
    }
    EXPECT_EQ(scored, tokens);
  }
  EXPECT_TRUE(encode_rolling(*tokenizer_, "", 8).empty());
}

}  // namespace
}  // namespace miq::evaluator
