// Both protocols against their definitions, on the embedded model.
#include <gtest/gtest.h>

#include <cmath>

#include "miq/core/error.h"
#include "miq/dataset/corpus.h"
#include "miq/evaluator/perplexity.h"

namespace miq::evaluator {
namespace {

const char* const kTiny = "tests/fixtures/tiny-llama";

class PerplexityOfTiny : public testing::Test {
 protected:
  void SetUp() override {
    ids_ = dataset::tokenize(dataset::load_corpus(std::string(kTiny) + "/heldout.txt", "", ""), *dataset::load_tokenizer(kTiny)).narrow(0, 0, 700);
  }

  // Mean loss of one window, straight from the logits.
  double window_loss(std::int64_t begin, std::int64_t length) {
    const at::Tensor window = ids_.narrow(0, begin, length);
    const at::Tensor logits = model_.forward(window.unsqueeze(0)).squeeze(0).to(at::kDouble).log_softmax(1);
    return -logits.narrow(0, 0, length - 1).gather(1, window.narrow(0, 1, length - 1).unsqueeze(1)).mean().item<double>();
  }

  model::LanguageModel model_ = model::LanguageModel::open(kTiny, "auto", at::kFloat, at::kCPU);
  at::Tensor ids_;
};

TEST_F(PerplexityOfTiny, GptqProtocolTakesFullWindows) {
  PerplexityConfig config;
  config.seqlen = 200;
  const Perplexity result = perplexity(model_, ids_, config);  // blocks one by one from the file
  model_.hold_blocks();
  EXPECT_EQ(result.windows, 3);
  EXPECT_EQ(result.tokens, 3 * 199);
  EXPECT_NEAR(result.value, std::exp((window_loss(0, 200) + window_loss(200, 200) + window_loss(400, 200)) / 3), 1e-4);
  EXPECT_NEAR(perplexity(model_, ids_, config).value, result.value, 1e-6);
  config.windows = 1;
  EXPECT_NEAR(perplexity(model_, ids_, config).value, std::exp(window_loss(0, 200)), 1e-4);
}

TEST_F(PerplexityOfTiny, MiProtocolWeighsTheLastWindowByItsTokens) {
  model_.hold_blocks();
  PerplexityConfig config;
  config.seqlen = 300;
  config.protocol = Protocol::mi;
  const Perplexity result = perplexity(model_, ids_, config);
  EXPECT_EQ(result.windows, 3);
  const double expected = (300 * window_loss(0, 300) + 300 * window_loss(300, 300) + 100 * window_loss(600, 100)) / 700;
  EXPECT_NEAR(result.value, std::exp(expected), 1e-4);
}

TEST_F(PerplexityOfTiny, TooShortATextIsRefused) {
  PerplexityConfig config;
  config.seqlen = 701;
  EXPECT_THROW(perplexity(model_, ids_, config), Error);
  config.protocol = Protocol::mi;
  EXPECT_EQ(perplexity(model_, ids_, config).windows, 1);
  EXPECT_THROW(perplexity(model_, ids_.narrow(0, 0, 1), config), Error);
}

TEST(ReferenceDistributions, AreComparedRowByRowAsFarAsTheyWereKept) {
  const at::Tensor first = at::randn({7, 11}), second = at::randn({5, 11}), own_first = at::randn({3, 11}), own_rest = at::randn({9, 11});
  ReferenceDistributions reference(10 * 11 * 4);  // ten rows
  reference.keep(first, 0);
  reference.keep(second, 7);
  reference.keep(second, 12);
  reference.compare(own_first, 0);
  reference.compare(own_rest, 3);
  const at::Tensor p = at::cat({first, second.narrow(0, 0, 3)}).to(at::kDouble).log_softmax(1), q = at::cat({own_first, own_rest}).narrow(0, 0, 10).to(at::kDouble).log_softmax(1);
  const Divergence divergence = reference.divergence();
  EXPECT_EQ(divergence.tokens, 10);
  EXPECT_NEAR(divergence.kl, (p.exp() * (p - q)).sum(1).mean().item<double>(), 1e-6);
  EXPECT_NEAR(divergence.top1, p.argmax(1).eq(q.argmax(1)).to(at::kDouble).mean().item<double>(), 1e-12);
}

// Two ranks' parts of one text: what both kept and compared is what one keeps and compares.
TEST(ReferenceDistributions, AreChosenByTheirPlaceInTheText) {
  const at::Tensor base = at::randn({12, 11}), own = at::randn({12, 11});
  ReferenceDistributions whole(8 * 11 * 4), front(8 * 11 * 4), back(8 * 11 * 4);
  whole.keep(base, 0);
  whole.compare(own, 0);
  front.keep(base.narrow(0, 0, 6), 0);
  front.compare(own.narrow(0, 0, 6), 0);
  back.keep(base.narrow(0, 6, 4), 6);
  back.keep(base.narrow(0, 10, 2), 10);
  back.compare(own.narrow(0, 6, 1), 6);
  back.compare(own.narrow(0, 7, 5), 7);
  const Divergence all = whole.divergence(), a = front.divergence(), b = back.divergence();
  EXPECT_EQ(all.tokens, 8);
  EXPECT_EQ(a.tokens, 6);
  EXPECT_EQ(b.tokens, 2);
  EXPECT_NEAR(all.kl, (6 * a.kl + 2 * b.kl) / 8, 1e-6);
  EXPECT_NEAR(all.top1, (6 * a.top1 + 2 * b.top1) / 8, 1e-12);
}

TEST_F(PerplexityOfTiny, AModelIsAsFarFromItselfAsRounding) {
  PerplexityConfig config;
  config.seqlen = 200;
  ReferenceDistributions reference(std::int64_t{1} << 30);
  perplexity(model_, ids_, config, [&](const at::Tensor& logits, std::int64_t row) { reference.keep(logits, row); });
  perplexity(model_, ids_, config, [&](const at::Tensor& logits, std::int64_t row) { reference.compare(logits, row); });
  EXPECT_EQ(reference.divergence().tokens, 3 * 199);
  EXPECT_NEAR(reference.divergence().kl, 0, 1e-9);
  EXPECT_EQ(reference.divergence().top1, 1);
}

}  // namespace
}  // namespace miq::evaluator
