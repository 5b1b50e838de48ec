// Records, totals and their divisions, on documents whose figures follow by hand.
#include "miq/evaluator/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "../../src/evaluator/metric_table.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "support/golden.h"

namespace miq::evaluator {
namespace {

dataset::Task choice_task(std::vector<std::string> metrics) {
  dataset::Task task;
  task.name = "made";
  task.file = "made.yaml";
  task.metrics = std::move(metrics);
  return task;
}

dataset::TaskDocument choice_document(std::int64_t index, std::vector<std::string> choices, std::vector<std::int64_t> gold) {
  dataset::TaskDocument document;
  document.index = index;
  document.where = "made.jsonl:" + std::to_string(index + 1);
  document.choices = std::move(choices);
  document.gold = std::move(gold);
  return document;
}

dataset::TaskSubject subject_of(const std::string& name, const std::string& category) {
  dataset::TaskSubject subject;
  subject.name = name;
  subject.category = category;
  return subject;
}

double metric_of(const Record& record, const std::string& name) { return find_value(record.metrics, name).value_or(kUndefined); }

// Two choices of which the first is said to be right; `right` of `count` are.
std::vector<Record> accuracy_records(const dataset::Task& task, const dataset::TaskSubject& subject, int count, int right) {
  std::vector<Record> records;
  for (int i = 0; i < count; ++i)
    records.push_back(score_document(task, subject, choice_document(i, {"a", "b"}, {i < right ? 0 : 1}), {{-1.0, -2.0}, {}, 0}));
  return records;
}

void append(std::vector<Record>& records, std::vector<Record> more) { records.insert(records.end(), more.begin(), more.end()); }

TEST(ScoreDocument, TheFirstOfTiesIsThePredictionAsInNumpy) {
  const Record record = score_document(choice_task({"acc"}), {}, choice_document(4, {"a", "b", "c"}, {1}), {{-2.0, -1.0, -1.0}, {}, 0});
  EXPECT_EQ(record.prediction, 1);
  EXPECT_EQ(record.document, 4);
  EXPECT_EQ(metric_of(record, "acc"), 1);
}

TEST(ScoreDocument, TiesWithTheGoldChoiceAreNotASecondRank) {
  // numpy: argmax is 0, and the gold value stands at place 0 of the sorted list
  const Record record = score_document(choice_task({"r@1", "r@2", "mrr"}), {}, choice_document(0, {"a", "b", "c"}, {1}), {{-1.0, -1.0, -3.0}, {}, 0});
  EXPECT_EQ(metric_of(record, "r@1"), 0);
  EXPECT_EQ(metric_of(record, "r@2"), 0);
  EXPECT_EQ(metric_of(record, "mrr"), 1);
}

TEST(ScoreDocument, OnlyWhatTheTaskAsksForIsInTheRecord) {
  const Record record = score_document(choice_task({"mrr"}), {}, choice_document(0, {"a", "b"}, {1}), {{-1.0, -3.0}, {}, 0});
  ASSERT_EQ(record.metrics.size(), 1u);
  EXPECT_EQ(record.metrics[0].first, "mrr");
  EXPECT_EQ(record.metrics[0].second, 0.5);
}

TEST(ScoreDocument, RefusesWhatCannotBeScored) {
  const dataset::TaskDocument three = choice_document(2, {"a", "b", "c"}, {1});
  const auto kind_of = [](const auto& function) {
    try {
      function();
    } catch (const Error& error) {
      EXPECT_NE((error.message() + error.where()).find("made.jsonl:3"), std::string::npos) << error.what();
      return error.kind();
    }
    ADD_FAILURE() << "not refused";
    return ErrorKind::internal;
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(kind_of([&] { score_document(choice_task({"acc"}), {}, three, {{-1, nan, -2}, {}, 0}); }), ErrorKind::numeric);
  EXPECT_EQ(kind_of([&] { score_document(choice_task({"acc"}), {}, three, {{-1, -2}, {}, 0}); }), ErrorKind::internal);
  EXPECT_EQ(kind_of([&] { score_document(choice_task({"f1"}), {}, three, {{-1, -2, -3}, {}, 0}); }), ErrorKind::config);
  EXPECT_EQ(kind_of([&] { score_document(choice_task({"mc2"}), {}, three, {{-1, -2, -3}, {}, 0}); }), ErrorKind::config);
  EXPECT_EQ(kind_of([&] { score_document(choice_task({"pct_stereotype"}), {}, three, {{-1, -2, -3}, {}, 0}); }), ErrorKind::config);
  EXPECT_EQ(kind_of([&] { score_document(choice_task({"amb_bias_score"}), {}, three, {{-1, -2, -3}, {}, 0}); }), ErrorKind::config);
  EXPECT_EQ(kind_of([&] { score_document(choice_task({"exact_match"}), {}, three, {{-1, -2, -3}, {}, 0}); }), ErrorKind::config);
  dataset::Task generated = choice_task({"acc"});
  generated.shape = dataset::Shape::generate;
  dataset::TaskDocument text = choice_document(2, {}, {});
  EXPECT_EQ(kind_of([&] { score_document(generated, {}, text, {{}, {"x"}, 0}); }), ErrorKind::config);
  generated.metrics = {"hsr"};
  EXPECT_EQ(kind_of([&] { score_document(generated, {}, text, {{}, {"x"}, 0}); }), ErrorKind::config);
  generated.metrics = {"bleu_acc"};
  EXPECT_EQ(kind_of([&] { score_document(generated, {}, text, {{}, {"x"}, 0}); }), ErrorKind::config);
  try {
    score_document(choice_task({"acc_nrom"}), {}, three, {{-1, -2, -3}, {}, 0});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(error.fix().find("acc_norm"), std::string::npos);
  }
}

TEST(ScoreDocument, ADigestIsOfTheDocumentNotOfItsShots) {
  dataset::TaskDocument one = choice_document(0, {"a", "b"}, {0});
  one.fields = {{"question", "q"}};
  dataset::TaskDocument other = one;
  one.requests = {{"shots. q", "a"}};
  other.requests = {{"q", "a"}};
  const dataset::Task task = choice_task({"acc"});
  EXPECT_EQ(score_document(task, {}, one, {{-1, -2}, {}, 0}).digest, score_document(task, {}, other, {{-3, -2}, {}, 0}).digest);
  other.fields["question"] = "another";
  EXPECT_NE(score_document(task, {}, one, {{-1, -2}, {}, 0}).digest, score_document(task, {}, other, {{-1, -2}, {}, 0}).digest);
}

TEST(ScoreDocument, AChatModelsLetterIsReadAsMiOptimizeDoes) {
  dataset::Task task = choice_task({"acc"});
  task.shape = dataset::Shape::letter_logits;
  dataset::TaskDocument document = choice_document(0, {"A", "B", "C", "D"}, {2});
  document.fields = {{"A", "甲"}, {"B", "乙"}, {"C", "丙"}, {"D", "丁"}};
  const auto said = [&](const std::string& text) { return *score_document(task, {}, document, {{}, {text}, 0}).prediction; };
  EXPECT_EQ(said("A和B都不对，所以答案是C。"), 2);
  EXPECT_EQ(said("所以答案是A。不，所以答案是C。"), 2);
  EXPECT_EQ(said("所以答案是AB。答案是D"), 0);  // no single letter: on to the patterns, of which the first place counts
  EXPECT_EQ(said("答案为B，但选项C正确"), 2);  // by the order of the patterns, not of the text
  EXPECT_EQ(said("我认为 D"), 3);
  EXPECT_EQ(said("A 或 B"), -1);
  EXPECT_EQ(said("是丙"), 2);
  EXPECT_EQ(said("甲或丙"), -1);
  const Record record = score_document(task, {}, document, {{}, {"不知道"}, 0});
  EXPECT_EQ(metric_of(record, "acc"), 0);
  EXPECT_EQ(summarise(task, {record})[0].chance, 0.25);
}

TEST(ScoreDocument, TruthfulAnswersAreNearerToATrueReference) {
  dataset::Task task = choice_task({"bleu_acc", "rouge1_acc", "rouge2_acc", "rougeL_acc"});
  task.shape = dataset::Shape::generate;
  dataset::TaskDocument document;
  document.references = {"The seeds pass through you"};
  document.fields = {{"incorrect_answers", {"You grow watermelons in your stomach", "You die "}}};
  const auto metrics = [&](const std::string& text) {
    std::string marks;
    for (const auto& entry : score_document(task, {}, document, {{}, {text}, 0}).metrics) marks += entry.second == 1 ? '1' : '0';
    return marks;
  };
  EXPECT_EQ(metrics("The seeds pass through you."), "1111");
  EXPECT_EQ(metrics("You die."), "0000");
  EXPECT_EQ(metrics("I have no comment."), "1111");
  EXPECT_EQ(metrics("seeds"), "0101");  // one word: no pair of words, and no 4-gram for BLEU
  EXPECT_EQ(metrics(""), "0000");
}

TEST(ScoreDocument, ExtractionsAreFiguresOfTheirOwn) {
  dataset::Task task = choice_task({"exact_match"});
  task.shape = dataset::Shape::generate;
  task.extract = {{"last", "([0-9]+)|(none)", -1}, {"second", "[a-z]+", 1}};
  dataset::TaskDocument document;
  document.references = {"7", "seven"};
  const Record record = score_document(task, {}, document, {{}, {"one 3 seven 7"}, 0});
  EXPECT_EQ(metric_of(record, "exact_match,last"), 1);
  EXPECT_EQ(metric_of(record, "exact_match,second"), 1);
  const std::vector<MetricValue> values = summarise(task, {record});
  ASSERT_EQ(values.size(), 2u);
  EXPECT_EQ(values[0].name, "exact_match,last");
  EXPECT_EQ(values[1].documents, 1);
  EXPECT_EQ(score_document(task, {}, document, {{}, {""}, 0}).extracted[1].second, "[invalid]");
}

TEST(ScoreDocument, NormalizeStepsAreThoseOfTheTaskReader) {
  dataset::Task task = choice_task({"exact_match"});
  task.shape = dataset::Shape::generate;
  dataset::TaskDocument document;
  document.references = {"b c"};
  for (const std::string& step : dataset::normalize_steps()) {
    task.normalize.push_back(step);
    EXPECT_EQ(metric_of(score_document(task, {}, document, {{}, {"b c"}, 0}), "exact_match"), 1) << step;
  }
  EXPECT_EQ(metric_of(score_document(task, {}, document, {{}, {" \n A, b   The C!\n"}, 0}), "exact_match"), 1);
}

TEST(ScoreDocument, UnknownNormalizeStepsAreNamed) {
  dataset::Task task = choice_task({"exact_match"});
  task.shape = dataset::Shape::generate;
  task.normalize = {"lowr"};
  dataset::TaskDocument document;
  document.references = {"x"};
  try {
    score_document(task, {}, document, {{}, {"x"}, 0});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.fix(), "did you mean lower?");
  }
}

TEST(FollowBench, RulesAndGroups) {
  dataset::Task task = choice_task({"hsr", "ssr", "csl"});
  task.shape = dataset::Shape::generate;
  std::vector<Record> records;
  const auto add = [&](int example, int level, const char* source, const char* target, const char* text) {
    dataset::TaskDocument document;
    document.index = static_cast<std::int64_t>(records.size());
    document.fields = {{"example_id", example}, {"level", level}, {"source", source}, {"category", "content"}, {"target", target}};
    records.push_back(score_document(task, {}, document, {{}, {text}, 0}));
  };
  add(1, 0, "E2E", "", "x");  // level 0 has no constraint
  for (int level = 1; level <= 5; ++level) add(1, level, "E2E", "t", level == 4 ? "no" : "t");       // 3 in a row
  for (int level = 1; level <= 5; ++level) add(2, level, "BBH_logical", "(B)", level == 1 ? "(B) or (A)" : "(A), so (B)");  // none
  for (int level = 1; level <= 5; ++level) add(3, level, "quora", "", "only a judge could say");
  const std::vector<MetricValue> values = summarise(task, records);
  EXPECT_DOUBLE_EQ(values[0].value, 8.0 / 10);
  EXPECT_DOUBLE_EQ(values[1].value, 8.0 / 10);
  EXPECT_DOUBLE_EQ(values[2].value, 1.5);
  EXPECT_EQ(values[0].documents, 10);
  EXPECT_EQ(values[0].left_out, 6);
  EXPECT_GT(values[0].standard_error, 0);
  const std::vector<DivisionSummary> levels = summarise_by(task, records, Division::part);
  ASSERT_EQ(levels.size(), 6u);
  EXPECT_EQ(levels[1].name, "level 1");
  EXPECT_EQ(levels[1].micro[0].value, 0.5);
  EXPECT_EQ(levels[2].micro[0].value, 1);
}

TEST(FollowBench, TemplatesAreWholeAndOfOneLine) {
  const nlohmann::json row = {{"example_id", 1}, {"level", 2}, {"source", "aeslc"}, {"category", "example"}, {"target", "{instruction}\n{{'Bot [1]': '{answer}'}}"}};
  EXPECT_EQ(followbench_passes(row, "{'Bot [1]': 'any (text) {x}'}"), true);
  EXPECT_EQ(followbench_passes(row, "{'Bot [1]': 'two\nlines'}"), false);
  EXPECT_EQ(followbench_passes(row, "{'Bot [1]': 'x'}."), false);
  EXPECT_EQ(followbench_passes(row, "{'Bot 1': 'x'}"), false);
}

TEST(Summarise, MeansErrorsAndChance) {
  const dataset::Task task = choice_task({"acc"});
  const MetricValue value = summarise(task, accuracy_records(task, {}, 40, 30))[0];
  EXPECT_DOUBLE_EQ(value.value, 0.75);
  EXPECT_NEAR(value.standard_error, std::sqrt(0.75 * 0.25 / 39), 1e-15);
  EXPECT_NEAR(value.low, 0.75 - 1.96 * std::sqrt(0.75 * 0.25 / 40), 0.03);
  EXPECT_NEAR(value.high, 0.75 + 1.96 * std::sqrt(0.75 * 0.25 / 40), 0.03);
  EXPECT_EQ(value.chance, 0.5);
  EXPECT_EQ(value.documents, 40);
  EXPECT_EQ(value.left_out, 0);
}

TEST(Summarise, DocumentsWithoutGoldAreCountedAndLeftOut) {
  const dataset::Task task = choice_task({"acc", "acc_norm", "f1"});
  std::vector<Record> records = accuracy_records(task, {}, 4, 3);
  records.push_back(score_document(task, {}, choice_document(9, {"a", "b"}, {}), {{-1, -2}, {}, 0}));
  EXPECT_TRUE(to_json(records.back())["gold"].is_null());
  for (const MetricValue& value : summarise(task, records)) {
    EXPECT_EQ(value.documents, 4) << value.name;
    EXPECT_EQ(value.left_out, 1) << value.name;
  }
  const MetricValue none = summarise(task, {records.back()})[0];
  EXPECT_EQ(none.documents, 0);
  EXPECT_TRUE(to_json(none)["value"].is_null());
}

TEST(Summarise, SubjectsCountAlikeWhereTheTaskSaysSo) {
  dataset::Task task = choice_task({"acc"});
  std::vector<Record> records = accuracy_records(task, subject_of("big", "x"), 90, 90);
  append(records, accuracy_records(task, subject_of("small", "x"), 10, 5));
  append(records, accuracy_records(task, subject_of("other", "y"), 20, 5));
  EXPECT_DOUBLE_EQ(summarise(task, records)[0].value, 100.0 / 120);
  task.equal_weights = true;
  const MetricValue equal = summarise(task, records)[0];
  EXPECT_DOUBLE_EQ(equal.value, (1 + 0.5 + 0.25) / 3);
  EXPECT_NEAR(equal.standard_error, std::sqrt(0.25 / 9 + 0.25 * 0.75 / 19) / 3, 1e-15);

  const std::vector<DivisionSummary> categories = summarise_by(task, records, Division::category);
  ASSERT_EQ(categories.size(), 2u);
  EXPECT_EQ(categories[0].name, "x");
  EXPECT_EQ(categories[0].documents, 100);
  EXPECT_DOUBLE_EQ(categories[0].micro[0].value, 0.95);
  EXPECT_DOUBLE_EQ(categories[0].macro[0].value, 0.75);
  const std::vector<DivisionSummary> subjects = summarise_by(task, records, Division::subject);
  ASSERT_EQ(subjects.size(), 3u);
  EXPECT_DOUBLE_EQ(subjects[2].micro[0].value, 0.25);
  EXPECT_TRUE(subjects[2].macro.empty());
}

TEST(Summarise, SentencePairsByTypeOfBias) {
  const dataset::Task task = choice_task({"pct_stereotype", "likelihood_diff"});
  std::vector<Record> records;
  const auto add = [&](double more, double less, const char* type) {
    dataset::TaskDocument document = choice_document(static_cast<std::int64_t>(records.size()), {"m", "l"}, {0});
    document.fields = {{"bias_type", type}};
    records.push_back(score_document(task, {}, document, {{more, less}, {}, 0}));
  };
  add(-10, -12, "age");
  add(-10, -10, "gender, age");  // a tie is no preference; the first type counts
  add(-14, -11, "gender");
  const std::vector<MetricValue> values = summarise(task, records);
  EXPECT_DOUBLE_EQ(values[0].value, 1.0 / 3);
  EXPECT_DOUBLE_EQ(values[1].value, 5.0 / 3);
  EXPECT_EQ(values[0].better, Better::lower);
  EXPECT_EQ(values[0].chance, 0.5);
  const std::vector<DivisionSummary> types = summarise_by(task, records, Division::part);
  ASSERT_EQ(types.size(), 2u);
  EXPECT_EQ(types[1].name, "gender");
  EXPECT_EQ(types[1].micro[0].value, 0);
  EXPECT_EQ(types[1].micro[1].value, 1.5);
}

TEST(Summarise, Perplexities) {
  dataset::Task task = choice_task({"word_perplexity", "byte_perplexity", "bits_per_byte", "perplexity"});
  task.shape = dataset::Shape::perplexity;
  std::vector<Record> records;
  for (int i = 0; i < 3; ++i) {
    dataset::TaskDocument document;
    document.index = i;
    document.words = 10 * (i + 1);
    document.bytes = 50 * (i + 1);
    records.push_back(score_document(task, {}, document, {{-30.0 - i}, {}, 20}));
  }
  const std::vector<MetricValue> values = summarise(task, records);
  EXPECT_NEAR(values[0].value, std::exp(93.0 / 60), 1e-12);
  EXPECT_NEAR(values[1].value, std::exp(93.0 / 300), 1e-12);
  EXPECT_NEAR(values[2].value, 93.0 / 300 / std::log(2.0), 1e-12);
  EXPECT_NEAR(values[3].value, std::exp(93.0 / 60), 1e-12);
  EXPECT_GT(values[0].standard_error, 0);
  EXPECT_LT(values[0].low, values[0].value);
  EXPECT_GT(values[0].high, values[0].value);
}

TEST(Summarise, ChanceLevelsAreOfTheDocuments) {
  const dataset::Task task = choice_task({"acc", "r@2", "mrr", "mc2"});
  dataset::TaskDocument document = choice_document(0, {"a", "b", "c", "d"}, {1});
  document.gold_mask = {0, 1, 1, 0};
  const std::vector<MetricValue> values = summarise(task, {score_document(task, {}, document, {{-1, -2, -3, -4}, {}, 0})});
  EXPECT_EQ(values[0].chance, 0.25);
  EXPECT_EQ(values[1].chance, 0.5);
  EXPECT_NEAR(values[2].chance, 0.5208333333333333, 1e-15);
  EXPECT_EQ(values[3].chance, 0.5);
}

TEST(Records, ComeBackFromTheirFile) {
  dataset::Task task = choice_task({"acc", "acc_norm"});
  std::vector<Record> records = accuracy_records(task, subject_of("law", "hm"), 2, 1);
  records[0].loglikelihoods[1] = -std::numeric_limits<double>::infinity();
  records[1].gold = {0, 1};
  dataset::Task generated = choice_task({"exact_match"});
  generated.shape = dataset::Shape::generate;
  generated.extract = {{"n", "[0-9]+", 0}};
  dataset::TaskDocument document;
  document.index = 7;
  document.group = "g";
  document.references = {"3", "drei"};
  records.push_back(score_document(generated, {}, document, {{}, {"it is 3\n\xFF"}, 0}));
  const test::TempFolder folder;
  const std::filesystem::path path = folder.path() / "records.jsonl";
  write_records(path, records);
  const std::vector<Record> back = read_records(path);
  ASSERT_EQ(back.size(), 3u);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(to_json(back[i]), to_json(records[i]));
  EXPECT_EQ(back[0].loglikelihoods, records[0].loglikelihoods);
  EXPECT_EQ(back[1].gold, records[1].gold);
  EXPECT_EQ(back[2].references, records[2].references);
  EXPECT_EQ(back[2].extracted, records[2].extracted);
  EXPECT_EQ(back[2].text, "it is 3\n\xEF\xBF\xBD");
  EXPECT_EQ(back[2].group, "g");
  EXPECT_FALSE(back[2].prediction);
  EXPECT_EQ(summarise(task, {back[0], back[1]})[0].value, summarise(task, {records[0], records[1]})[0].value);
  // the contract's form
  const std::string first = read_file(path).substr(0, read_file(path).find('\n'));
  EXPECT_EQ(first.find("{\"subject\":\"law\",\"category\":\"hm\",\"doc\":0,\"prediction\":0,\"gold\":0,\"loglikelihoods\":[-1.0,null],\"metrics\":{\"acc\":1,"), 0u) << first;
}

TEST(Records, DamageIsNamedByLine) {
  const test::TempFolder folder;
  const std::filesystem::path path = folder.path() / "records.jsonl";
  for (const char* damaged : {"[]", "{\"doc\": \"x\"}", "{\"doc\": 1, \"gold\": {}}", "{\"doc\": 1, \"loglikelihoods\": [\"a\"]}", "{\"doc\": 1, \"metrics\": 3}",
                              "{\"doc\": 1, \"prediction\": 1.5}", "{\"doc\": 1, \"extracted\": 3}", "{\"doc\": 1"}) {
    write_file_atomically(path, std::string("{\"doc\": 0}\n\n") + damaged + "\n");
    try {
      read_records(path);
      ADD_FAILURE() << damaged;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::io);
      EXPECT_NE(error.where().find("records.jsonl:3"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace miq::evaluator
