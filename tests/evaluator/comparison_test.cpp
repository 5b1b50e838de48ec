// Two runs over the same documents.
#include "miq/evaluator/comparison.h"

#include <gtest/gtest.h>

#include <cmath>

#include "miq/core/error.h"

namespace miq::evaluator {
namespace {

// Answers as they are right (1) or not (0), with a second choice that is likelier the more wrong.
std::vector<Record> run(const std::vector<int>& right, double certainty = 1, const std::string& subject = "") {
  dataset::Task task;
  task.metrics = {"acc"};
  dataset::TaskSubject of;
  of.name = subject;
  std::vector<Record> records;
  for (size_t i = 0; i < right.size(); ++i) {
    dataset::TaskDocument document;
    document.index = static_cast<std::int64_t>(i);
    document.choices = {"a", "b"};
    document.gold = {0};
    document.fields = {{"question", i}};
    records.push_back(score_document(task, of, document, {{right[i] != 0 ? certainty : 0.0, right[i] != 0 ? 0.0 : certainty}, {}, 0}));
  }
  return records;
}

std::vector<int> repeated(std::initializer_list<std::pair<int, int>> runs) {
  std::vector<int> values;
  for (const auto& [value, count] : runs) values.insert(values.end(), static_cast<size_t>(count), value);
  return values;
}

std::string refusal(const std::vector<Record>& a, const std::vector<Record>& b, const std::string& metric = "acc") {
  try {
    compare(a, b, metric);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    return error.message();
  }
  return "";
}

TEST(Compare, RightAndWrongByMcNemar) {
  // 25 lost, 10 gained of 100
  const std::vector<Record> a = run(repeated({{1, 25}, {0, 10}, {1, 45}, {0, 20}})), b = run(repeated({{0, 25}, {1, 10}, {1, 45}, {0, 20}}), 2);
  const Comparison result = compare(a, b, "acc");
  EXPECT_DOUBLE_EQ(result.value_a, 0.70);
  EXPECT_DOUBLE_EQ(result.value_b, 0.55);
  EXPECT_NEAR(result.difference, -0.15, 1e-12);
  EXPECT_EQ(result.lost, 25);
  EXPECT_EQ(result.gained, 10);
  EXPECT_EQ(result.changed, 35);
  EXPECT_DOUBLE_EQ(result.agreement, 0.65);
  EXPECT_EQ(result.test, "McNemar");
  EXPECT_NEAR(result.p_value, 0.016673847800120715, 1e-13);  // statsmodels, exact
  EXPECT_NEAR(result.standard_error, std::sqrt((0.35 - 0.0225) / 99), 1e-12);
  EXPECT_NEAR(result.low, -0.15 - 1.96 * result.standard_error, 0.02);
  EXPECT_NEAR(result.high, -0.15 + 1.96 * result.standard_error, 0.02);
  const auto kl = [](double before, double after) {  // of two choices with these differences of logits
    const double p = 1 / (1 + std::exp(-before)), q = 1 / (1 + std::exp(-after));
    return p * std::log(p / q) + (1 - p) * std::log((1 - p) / (1 - q));
  };
  EXPECT_NEAR(result.divergence, 0.35 * kl(1, -2) + 0.65 * kl(1, 2), 1e-12);
  const nlohmann::ordered_json json = to_json(result);
  EXPECT_EQ(json["lost"], 25);
  EXPECT_EQ(json["test"], "McNemar");
}

TEST(Compare, ARunWithItselfDiffersInNothing) {
  const std::vector<Record> a = run(repeated({{1, 12}, {0, 5}}));
  std::vector<Record> shuffled(a.rbegin(), a.rend());  // paired by document, not by line
  const Comparison result = compare(a, shuffled, "acc");
  EXPECT_EQ(result.difference, 0);
  EXPECT_EQ(result.p_value, 1);
  EXPECT_EQ(result.changed, 0);
  EXPECT_EQ(result.agreement, 1);
  EXPECT_EQ(result.divergence, 0);
  EXPECT_EQ(result.low, 0);
  EXPECT_EQ(result.high, 0);
}

TEST(Compare, RefusesOtherDocumentsAndNamesTheFirst) {
  const std::vector<Record> a = run({1, 0, 1});
  std::vector<Record> b = a;
  b.pop_back();
  EXPECT_NE(refusal(a, b).find("document 2 is only in the first"), std::string::npos);
  EXPECT_NE(refusal(b, a).find("document 2 is only in the second"), std::string::npos);
  b = a;
  b[1].digest = "another";
  EXPECT_NE(refusal(a, b).find("document 1 has other content"), std::string::npos);
  b = a;
  b[0] = b[1];
  EXPECT_NE(refusal(a, b).find("document 1 comes twice in the second"), std::string::npos);
  EXPECT_NE(refusal(a, run({1, 0, 1}, 1, "law")).find("document 0 is only in the first"), std::string::npos);
  EXPECT_NE(refusal(a, a, "acc_norm").find("acc_norm"), std::string::npos);
  EXPECT_NE(refusal(a, a, "nothing").find("no metric"), std::string::npos);
  b = a;
  b[2].metrics.clear();
  EXPECT_NE(refusal(a, b).find("document 2 has acc in one only"), std::string::npos);
}

// Values of a metric that is a mean but not of zeros and ones.
std::vector<Record> with_values(const std::vector<double>& values) {
  std::vector<Record> records(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    records[i].document = static_cast<std::int64_t>(i);
    records[i].text = "t" + std::to_string(values[i] > 1 ? i : 0);
    records[i].metrics = {{"token_f1", values[i]}};
  }
  return records;
}

TEST(Compare, FewDocumentsByRandomisationManyByTheBootstrap) {
  const std::vector<double> differences = {1.2, -0.3, 0.8, 0.0, 2.5, -1.1, 0.4, 0.9};
  const Comparison few = compare(with_values(std::vector<double>(8, 0.5)), with_values([&] {
                                   std::vector<double> values;
                                   for (const double difference : differences) values.push_back(0.5 + difference);
                                   return values;
                                 }()), "token_f1");
  EXPECT_EQ(few.test, "randomisation");
  EXPECT_DOUBLE_EQ(few.p_value, 0.203125);  // SciPy's permutation_test
  EXPECT_EQ(few.lost, -1);
  EXPECT_EQ(few.changed, 3);  // 0.5 + 1.2, 0.5 + 0.8, 0.5 + 2.5, 0.5 + 0.9 exceed 1; the first's text is "t0" in both
  EXPECT_TRUE(std::isnan(few.divergence));

  std::vector<double> a, b;
  for (int i = 0; i < 80; ++i) {
    a.push_back(i * 7 % 5 / 5.0);
    b.push_back(a.back() + (i % 4 == 0 ? 0.3 : -0.05));
  }
  const Comparison many = compare(with_values(a), with_values(b), "token_f1");
  EXPECT_EQ(many.test, "paired bootstrap");
  EXPECT_NEAR(many.p_value, 0.0214, 0.006);
}

TEST(Compare, FiguresThatAreNoMeans) {
  dataset::Task task;
  task.shape = dataset::Shape::perplexity;
  task.metrics = {"word_perplexity"};
  std::vector<Record> a, b;
  for (int i = 0; i < 60; ++i) {
    dataset::TaskDocument document;
    document.index = i;
    document.words = 10 + i % 7;
    a.push_back(score_document(task, {}, document, {{-30.0 - i % 5}, {}, 0}));
    b.push_back(score_document(task, {}, document, {{-31.0 - i % 5 + 0.1 * (i % 3)}, {}, 0}));
  }
  const Comparison worse = compare(a, b, "word_perplexity");
  EXPECT_EQ(worse.test, "paired bootstrap");
  EXPECT_GT(worse.difference, 0);
  EXPECT_GT(worse.low, 0);
  EXPECT_NEAR(worse.p_value, 2.0 / 10001, 1e-12);  // no resample on the other side: the least that 10 000 can say
  EXPECT_EQ(worse.changed, -1);
  EXPECT_EQ(worse.better, Better::lower);
}

TEST(Compare, SubjectsThatCountAlike) {
  std::vector<Record> a = run(repeated({{1, 40}}), 1, "large"), b = run(repeated({{1, 36}, {0, 4}}), 1, "large");
  for (const Record& record : run(repeated({{1, 10}}), 1, "small")) a.push_back(record);
  for (const Record& record : run(repeated({{0, 5}, {1, 5}}), 1, "small")) b.push_back(record);
  CompareOptions options;
  EXPECT_NEAR(compare(a, b, "acc", options).difference, -9.0 / 50, 1e-12);
  EXPECT_EQ(compare(a, b, "acc", options).test, "McNemar");
  options.equal_weights = true;
  const Comparison equal = compare(a, b, "acc", options);
  EXPECT_NEAR(equal.difference, -(0.1 + 0.5) / 2, 1e-12);
  EXPECT_EQ(equal.test, "paired bootstrap");
  EXPECT_EQ(equal.lost, 9);
  EXPECT_NEAR(equal.standard_error, std::sqrt(0.1 * 0.9 / 39 + 0.25 / 9) / 2, 1e-12);
}

}  // namespace
}  // namespace miq::evaluator
