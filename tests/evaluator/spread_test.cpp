// How a task's documents are cut for several ranks, and that answers pass between them unchanged.
#include "../../src/evaluator/spread.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace miq::evaluator {
namespace {

// A token for each byte.
class Bytes : public dataset::Tokenizer {
 public:
  std::vector<std::int64_t> encode(std::string_view text, bool) const override { return std::vector<std::int64_t>(text.size(), 1); }
  std::string decode(const std::vector<std::int64_t>&, bool) const override { return ""; }
  std::int64_t vocab_size() const override { return 2; }
  std::optional<std::int64_t> bos_id() const override { return std::nullopt; }
  std::optional<std::int64_t> eos_id() const override { return std::nullopt; }
};

std::vector<size_t> cut(const std::vector<std::string>& contexts, int parts, std::int64_t new_tokens = 0) {
  std::vector<dataset::TaskDocument> documents(contexts.size());
  std::vector<const dataset::TaskDocument*> pointers;
  for (size_t d = 0; d < contexts.size(); ++d) {
    documents[d].requests.emplace_back();
    documents[d].requests[0].context = contexts[d];
    pointers.push_back(&documents[d]);
  }
  return spread(pointers, Bytes(), new_tokens, parts);
}

// Not inlined: GCC 12 would see an overread in the short strings of initialiser lists that is not there.
[[gnu::noinline]] std::string text(char letter, size_t length) { return std::string(length, letter); }

TEST(Spread, CutsByTokensNotByDocuments) {
  std::vector<std::string> contexts = {text('a', 900)};
  for (char letter = 'b'; letter < 'k'; ++letter) contexts.push_back(text(letter, 100));
  EXPECT_THAT(cut(contexts, 2), testing::ElementsAre(0, 1, 10));
  EXPECT_THAT(cut(contexts, 1), testing::ElementsAre(0, 10));
}

TEST(Spread, WhatIsSharedIsNoWorkAndStaysTogether) {
  // Two documents of one subject, eight of another; 400 tokens of shots each, 100 of their own.
  std::vector<std::string> contexts, plain;
  for (int document = 0; document < 10; ++document) {
    plain.push_back(text(static_cast<char>('0' + document), 100));
    contexts.push_back(text(document < 2 ? 'a' : 'b', 400) + plain.back());
  }
  // 602 and 1208 tokens: a cut behind the second subject's first document (1103 and 707) would be nearer to the half, 905, but for the
  // shots, which both ranks would have to run.
  EXPECT_THAT(cut(contexts, 2), testing::ElementsAre(0, 2, 10));
  EXPECT_THAT(cut(plain, 2), testing::ElementsAre(0, 5, 10));
}

TEST(Spread, OneSubjectIsCutWhereBalanceAsksForIt) {
  std::vector<std::string> contexts;
  for (char document = 'a'; document < 'k'; ++document) contexts.push_back(text('s', 10) + text(document, 500));
  EXPECT_THAT(cut(contexts, 2), testing::ElementsAre(0, 5, 10));
}

TEST(Spread, GeneratedTextsCountByWhatTheyMayWrite) {
  EXPECT_THAT(cut({text('a', 300), text('b', 10), text('c', 10), text('d', 10)}, 2, 10000), testing::ElementsAre(0, 2, 4));
}

TEST(Spread, MoreRanksThanDocumentsLeaveSomeWithout) {
  const std::vector<size_t> cuts = cut({text('a', 5), text('b', 5)}, 4);
  ASSERT_EQ(cuts.size(), 5U);
  EXPECT_EQ(cuts.front(), 0U);
  EXPECT_EQ(cuts.back(), 2U);
  EXPECT_TRUE(std::is_sorted(cuts.begin(), cuts.end()));
  EXPECT_THAT(cut({}, 3), testing::ElementsAre(0, 0, 0, 0));
}

TEST(GatherAnswers, KeepsEveryBit) {
  std::vector<Answer> answers(3);
  answers[0].loglikelihoods = {-0.1, -std::numeric_limits<double>::infinity(), std::nextafter(-2.0, 0.0), std::nan("")};
  answers[1].texts = {"", std::string("a\0\xFF", 3)};
  answers[2].tokens = 7;
  const std::vector<Answer> gathered = gather_answers(answers);
  ASSERT_EQ(gathered.size(), 3U);
  EXPECT_EQ(gathered[0].loglikelihoods[0], -0.1);
  EXPECT_EQ(gathered[0].loglikelihoods[1], -std::numeric_limits<double>::infinity());
  EXPECT_EQ(gathered[0].loglikelihoods[2], std::nextafter(-2.0, 0.0));
  EXPECT_TRUE(std::isnan(gathered[0].loglikelihoods[3]));
  EXPECT_EQ(gathered[1].texts, answers[1].texts);
  EXPECT_EQ(gathered[2].tokens, 7);
  EXPECT_TRUE(gather_answers({}).empty());
}

}  // namespace
}  // namespace miq::evaluator
