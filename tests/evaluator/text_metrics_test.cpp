// Stems, ROUGE and BLEU against NLTK 3.10, rouge-score 0.1.2 and sacrebleu 2.6: the numbers below were computed there. Python's text functions.
#include "../../src/evaluator/text_metrics.h"

#include <gtest/gtest.h>

#include "../../src/evaluator/porter_stemmer.h"
#include "miq/core/error.h"
#include "miq/dataset/python_text.h"

namespace miq::evaluator {
namespace {

TEST(PorterStemmer, IsNltks) {
  const std::vector<std::pair<const char*, const char*>> stems = {
      {"caresses", "caress"}, {"ponies", "poni"}, {"ties", "tie"}, {"dies", "die"}, {"cats", "cat"}, {"feed", "feed"}, {"agreed", "agre"},
      {"plastered", "plaster"}, {"bled", "bled"}, {"motoring", "motor"}, {"sing", "sing"}, {"conflated", "conflat"}, {"troubled", "troubl"},
      {"sized", "size"}, {"hopping", "hop"}, {"tanned", "tan"}, {"falling", "fall"}, {"hissing", "hiss"}, {"fizzed", "fizz"}, {"failing", "fail"},
      {"filing", "file"}, {"happy", "happi"}, {"sky", "sky"}, {"enjoy", "enjoy"}, {"spied", "spi"}, {"died", "die"}, {"relational", "relat"},
      {"conditional", "condit"}, {"rational", "ration"}, {"valenci", "valenc"}, {"hesitanci", "hesit"}, {"digitizer", "digit"},
      {"conformabli", "conform"}, {"radicalli", "radic"}, {"differentli", "differ"}, {"vileli", "vile"}, {"analogousli", "analog"},
      {"vietnamization", "vietnam"}, {"predication", "predic"}, {"operator", "oper"}, {"feudalism", "feudal"}, {"decisiveness", "decis"},
      {"hopefulness", "hope"}, {"callousness", "callous"}, {"formaliti", "formal"}, {"sensitiviti", "sensit"}, {"sensibiliti", "sensibl"},
      {"triplicate", "triplic"}, {"formative", "form"}, {"formalize", "formal"}, {"electriciti", "electr"}, {"electrical", "electr"},
      {"hopeful", "hope"}, {"goodness", "good"}, {"revival", "reviv"}, {"allowance", "allow"}, {"inference", "infer"}, {"airliner", "airlin"},
      {"gyroscopic", "gyroscop"}, {"adjustable", "adjust"}, {"defensible", "defens"}, {"irritant", "irrit"}, {"replacement", "replac"},
      {"adjustment", "adjust"}, {"dependent", "depend"}, {"adoption", "adopt"}, {"homologou", "homolog"}, {"communism", "commun"},
      {"activate", "activ"}, {"angulariti", "angular"}, {"homologous", "homolog"}, {"effective", "effect"}, {"bowdlerize", "bowdler"},
      {"probate", "probat"}, {"rate", "rate"}, {"cease", "ceas"}, {"controll", "control"}, {"roll", "roll"}, {"theology", "theolog"},
      {"geology", "geolog"}, {"archaeologi", "archaeolog"}, {"skies", "sky"}, {"dying", "die"}, {"innings", "inning"}, {"proceed", "proceed"},
      {"running", "run"}, {"flies", "fli"}, {"beautifulli", "beauti"}, {"3rds", "3rd"}, {"abc123s", "abc123"}, {"yyyy", "yyyi"}, {"syzygy", "syzygi"},
      {"controlling", "control"}, {"usually", "usual"}, {"totally", "total"}, {"hopefully", "hope"}, {"electricity", "electr"},
      {"generalizations", "gener"}, {"oscillators", "oscil"},
  };
  for (const auto& [word, stem] : stems) EXPECT_EQ(porter_stem(word), stem) << word;
}

struct TextPair {
  const char* reference;
  const char* prediction;
};
const TextPair kPairs[] = {
    {"The quick brown foxes jumped over lazy dogs", "A quick brown fox jumps over the lazy dog"},
    {"Police arrested two men on Tuesday, charging them with robbery.", "Two men were arrested Tuesday and charged with robberies, police said"},
    {"It's 3.5% higher — naïve investors' relations", "3.5 % higher investor relation"},
    {"the the the cat", "the cat the cat sat"},
    {"first line here\nsecond line there\nthird", "second line here\nfirst there third line"},
    {"", "x y"},
};

TEST(Rouge, IsRougeScores) {
  const double stemmed[][3] = {{0.9411764705882353, 0.6666666666666666, 0.823529411764706}, {0.761904761904762, 0.2105263157894737, 0.5714285714285713},
                               {0.7142857142857143, 0.5, 0.7142857142857143},              {0.6666666666666665, 0.28571428571428575, 0.6666666666666665},
                               {1.0, 0.5, 0.5714285714285714},                             {0, 0, 0}};
  const double plain[][4] = {{0.5882352941176471, 0.13333333333333333, 0.47058823529411764, 0.47058823529411764},
                             {0.5714285714285713, 0.10526315789473685, 0.380952380952381, 0.380952380952381},
                             {0.42857142857142855, 0.3333333333333333, 0.42857142857142855, 0.42857142857142855},
                             {0.6666666666666665, 0.28571428571428575, 0.6666666666666665, 0.6666666666666665},
                             {1.0, 0.5, 0.5714285714285714, 0.8571428571428571},
                             {0, 0, 0, 0}};
  for (size_t i = 0; i < std::size(kPairs); ++i) {
    SCOPED_TRACE(kPairs[i].reference);
    for (const bool stem : {true, false}) {
      const std::vector<std::string> said = rouge_tokens(kPairs[i].prediction, stem), expected = rouge_tokens(kPairs[i].reference, stem);
      const double* const values = stem ? stemmed[i] : plain[i];
      EXPECT_NEAR(rouge_n(said, expected, 1), values[0], 1e-14);
      EXPECT_NEAR(rouge_n(said, expected, 2), values[1], 1e-14);
      EXPECT_NEAR(rouge_l(said, expected), values[2], 1e-14);
    }
    EXPECT_NEAR(rouge_l_summary(kPairs[i].prediction, kPairs[i].reference), plain[i][3], 1e-14);
  }
}

TEST(Bleu, TokensAreSacrebleus) {
  const auto joined = [](const std::vector<std::string>& tokens) { return dataset::join(tokens, " "); };
  EXPECT_EQ(joined(bleu_tokens_13a("He paid $1,000.50 (about €900) in U.S. dollars!")), "He paid $ 1,000.50 ( about €900 ) in U . S . dollars !");
  EXPECT_EQ(joined(bleu_tokens_international("He paid $1,000.50 (about €900) in U.S. dollars!")), "He paid $ 1,000.50 ( about € 900 ) in U . S . dollars !");
  const char* const entities = "well-known 3-4 &quot;a&amp;b&quot; end-\nline, x.";
  EXPECT_EQ(joined(bleu_tokens_13a(entities)), "well-known 3 - 4 \" a & b \" endline , x .");
  EXPECT_EQ(joined(bleu_tokens_international(entities)), "well - known 3-4 & quot ; a & amp ; b & quot ; end - line , x .");
  EXPECT_EQ(joined(bleu_tokens_13a("naïve “quotes” – 5.6, x…")), "naïve “quotes” – 5.6 , x…");
  EXPECT_EQ(joined(bleu_tokens_international("naïve “quotes” – 5.6, x…")), "naïve “ quotes ” – 5.6 , x …");
}

TEST(Bleu, ScoresAreSacrebleus) {
  const TextPair more[] = {{"The cat is on the mat.", "The cat sat on the mat."},
                           {"He paid $1,000.50 (about €900) in U.S. dollars!", "He paid $1,000.50, about €900, in U.S. dollars."},
                           {"Nothing happens.", "You grow watermelons in your stomach"},
                           {"naïve “quotes” – dash…", "naïve “quotes” – dash… and more words here"}};
  std::vector<TextPair> pairs(std::begin(kPairs), std::end(kPairs));
  pairs.insert(pairs.end(), std::begin(more), std::end(more));
  const double international[] = {11.339582221952005, 5.063996506781411, 11.976547020391715, 23.643540225079384, 23.643540225079395, 0, 48.892302243490086,
                                  53.7284965911771,   0,                 57.067457770559976};
  const double standard[] = {11.339582221952005, 5.063996506781411, 21.82269148961668, 23.643540225079384, 23.643540225079395, 0, 48.892302243490086,
                             53.03624596095554,  0,                 34.57207846419409};
  for (size_t i = 0; i < pairs.size(); ++i) {
    SCOPED_TRACE(pairs[i].reference);
    EXPECT_NEAR(bleu_score(bleu_counts(bleu_tokens_international(pairs[i].prediction), {bleu_tokens_international(pairs[i].reference)}).data()), international[i], 1e-11);
    EXPECT_NEAR(bleu_score(bleu_counts(bleu_tokens_13a(pairs[i].prediction), {bleu_tokens_13a(pairs[i].reference)}).data()), standard[i], 1e-11);
  }
}

TEST(Bleu, CorporaSumCounts) {
  BleuCounts sum{};
  for (const TextPair& pair : kPairs) {
    const BleuCounts counts = bleu_counts(bleu_tokens_13a(pair.prediction), {bleu_tokens_13a(pair.reference)});
    for (size_t i = 0; i < counts.size(); ++i) sum[i] += counts[i];
  }
  EXPECT_NEAR(bleu_score(sum.data()), 9.683146162245704, 1e-11);
  BleuCounts two = bleu_counts(bleu_tokens_13a("the cat sat on the mat"), {bleu_tokens_13a("the cat is on the mat"), bleu_tokens_13a("there is a cat on the mat")});
  const BleuCounts dog = bleu_counts(bleu_tokens_13a("a dog"), {bleu_tokens_13a("the dog"), bleu_tokens_13a("a big dog")});
  for (size_t i = 0; i < two.size(); ++i) two[i] += dog[i];
  EXPECT_NEAR(bleu_score(two.data()), 36.74444600437329, 1e-11);
}

// What CPython 3.11 gives.
TEST(PythonText, FunctionsOfStr) {
  EXPECT_EQ(dataset::strip("\x1c \t\xC2\xA0" "a b\xE3\x80\x80\n"), "a b");
  EXPECT_EQ(dataset::strip("\n\n a\n", "\n"), " a");
  EXPECT_EQ(dataset::strip(" \n"), "");
  EXPECT_EQ(dataset::split_words(" a\x1f" "b\xC2\x85 c "), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(dataset::split_at("a,,b,", ","), (std::vector<std::string>{"a", "", "b", ""}));
  EXPECT_EQ(dataset::lower("ΣΑΣ ΑΣ' Σ İX Éß"), "σας ας' σ i̇x éß");
  EXPECT_TRUE(dataset::is_lower("a 1é!"));
  EXPECT_FALSE(dataset::is_lower("12 !"));
  EXPECT_FALSE(dataset::is_lower("aB"));
  EXPECT_EQ(dataset::code_points("naïve 答案"), 8);
  EXPECT_EQ(dataset::remove_punctuation("a!\"#$%&'()*+,-./b:;<=>?@[\\]^_`{|}~c…"), "abc…");
  EXPECT_EQ(dataset::replace("aaa", "aa", "b"), "ba");
}

TEST(PythonText, FunctionsOfRe) {
  EXPECT_EQ(dataset::find_all("(a)|(b)", "xab"), (std::vector<std::vector<std::string>>{{"a", "a", ""}, {"b", "", "b"}}));
  EXPECT_EQ(dataset::substitute(R"((\w)-(\w))", "\\2+\\1", "a-b c-d"), "b+a d+c");
  EXPECT_EQ(dataset::substitute(R"(\b(a|an|the)\b)", " ", "the naïve añ a"), "  naïve añ  ");
  EXPECT_EQ(dataset::split_pattern("[.!?]", "a.b!c"), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(dataset::find_all("x.", "x\xFF!")[0][0], "x\xEF\xBF\xBD");  // bytes that are not UTF-8
  try {
    dataset::find_all("(", "x");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
  }
}

}  // namespace
}  // namespace miq::evaluator
