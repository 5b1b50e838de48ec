// Every case of golden/metrics that is about scores: lm-evaluation-harness 0.4.13 and MI-optimize computed them.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/random.h"
#include "miq/core/text.h"
#include "miq/dataset/python_text.h"
#include "miq/evaluator/metrics.h"
#include "support/golden.h"

namespace miq::evaluator {
namespace {

using nlohmann::json;

std::vector<json> lines_of(const std::string& name) {
  std::vector<json> cases;
  for (const std::string& line : dataset::split_at(read_file(test::golden_dir() / "metrics" / name), "\n"))
    if (!line.empty()) cases.push_back(parse_json(line, name));
  return cases;
}

double value_of(const Record& record, const std::string& name) {
  const std::optional<double> value = find_value(record.metrics, name);
  EXPECT_TRUE(value) << name;
  return value.value_or(kUndefined);
}

double total_of(const dataset::Task& task, const std::vector<Record>& records, const std::string& name) {
  SummaryOptions options;
  options.bootstrap.resamples = 20;
  for (const MetricValue& value : summarise(task, records, options))
    if (value.name == name) return value.value;
  ADD_FAILURE() << name;
  return kUndefined;
}

Record score_choices(const dataset::Task& task, const json& loglikelihoods, std::vector<std::int64_t> gold, const std::string& group = "") {
  dataset::TaskDocument document;
  document.choices.resize(loglikelihoods.size(), "x");
  document.gold = std::move(gold);
  document.group = group;
  return score_document(task, {}, document, {loglikelihoods.get<std::vector<double>>(), {}, 0});
}

TEST(GoldenMetrics, Boss) {
  MIQ_REQUIRE_GOLDEN("metrics/boss.jsonl");
  for (const json& golden : lines_of("boss.jsonl")) {
    SCOPED_TRACE(golden.dump());
    dataset::Task task;
    task.shape = dataset::Shape::generate;
    task.normalize = {"strip_newlines", "strip", "lower", "no_punctuation", "no_articles", "squeeze"};
    const bool extractive = golden["task"] == "QuestionAnswering";
    if (golden["task"] == "NaturalLanguageInference") task.aliases = {{"ent", "entailment"}};
    if (golden["task"] == "ToxicDetection") task.aliases = {{"ben", "benign"}, {"to", "toxic"}};
    task.target = extractive ? "{{answers.text}}" : "{{Label|label('x','y')}}";
    task.metrics = extractive ? std::vector<std::string>{"exact_match", "token_f1"} : std::vector<std::string>{"exact_match"};
    dataset::TaskDocument document;
    document.references = golden["references"].get<std::vector<std::string>>();
    const Answer answer{{}, {golden["prediction"].get<std::string>()}, 0};
    const Record record = score_document(task, {}, document, answer);
    EXPECT_EQ(value_of(record, "exact_match"), golden[extractive ? "exact_match" : "correct"].get<double>());
    if (extractive) {
      EXPECT_DOUBLE_EQ(value_of(record, "token_f1"), golden["f1"].get<double>());
    }
    // the normalised text itself: the only one that an unnormalised label equals
    document.references = {golden["normalized"].get<std::string>()};
    task.target = "{{Label|label('x','y')}}";
    EXPECT_EQ(value_of(score_document(task, {}, document, answer), "exact_match"), 1);
  }
}

void check_questions(const json& golden) {
  dataset::Task task;
  task.metrics = {"acc", "f1", "mcc", "f1_grouped", "em_grouped"};
  std::vector<Record> records;
  for (size_t i = 0; i < golden["gold"].size(); ++i) {
    const bool said = golden["pred"][i] == 1;
    records.push_back(score_choices(task, json::array({said ? -2.0 : -1.0, said ? -1.0 : -2.0}), {golden["gold"][i].get<std::int64_t>()},
                                    golden["question"][i].dump()));
    records.back().document = static_cast<std::int64_t>(i);
  }
  EXPECT_NEAR(total_of(task, records, "f1"), golden["f1"].get<double>(), 1e-15);
  EXPECT_NEAR(total_of(task, records, "mcc"), golden["mcc"].get<double>(), 1e-15);
  EXPECT_NEAR(total_of(task, records, "f1_grouped"), golden["mc_taco_f1_legacy"].get<double>(), 1e-15);
  EXPECT_NEAR(total_of(task, records, "em_grouped"), golden["mc_taco_em_legacy"].get<double>(), 1e-15);
}

void check_ranks(const json& golden) {
  dataset::Task task;
  task.metrics = {"r@1", "r@2", "mrr"};
  const Record record = score_choices(task, golden["lls"], {golden["gold"].get<std::int64_t>()});
  EXPECT_EQ(value_of(record, "r@1"), golden["r1"].get<double>());
  EXPECT_EQ(value_of(record, "r@2"), golden["r2"].get<double>());
  EXPECT_EQ(value_of(record, "mrr"), golden["mrr"].get<double>());
}

void check_truths(const json& golden) {
  dataset::Task task;
  task.metrics = {"mc2"};
  dataset::TaskDocument document;
  document.choices.resize(golden["lls"].size());
  document.gold_mask = golden["labels"].get<std::vector<double>>();
  const Record record = score_document(task, {}, document, {golden["lls"].get<std::vector<double>>(), {}, 0});
  EXPECT_NEAR(value_of(record, "mc2"), golden["acc"].get<double>(), 1e-14);
}

void check_normalised(const json& golden) {
  dataset::Task task;
  task.metrics = {"acc", "acc_norm", "acc_bytes"};
  const char* const keys[] = {"pred", "pred_norm", "pred_bytes"};
  dataset::TaskDocument document;
  document.choices = golden["choices"].get<std::vector<std::string>>();
  for (std::int64_t gold = 0; gold < static_cast<std::int64_t>(document.choices.size()); ++gold) {
    document.gold = {gold};  // right exactly where the prediction is
    const Record record = score_document(task, {}, document, {golden["lls"].get<std::vector<double>>(), {}, 0});
    for (size_t m = 0; m < 3; ++m) EXPECT_EQ(value_of(record, task.metrics[m]), golden[keys[m]] == gold) << task.metrics[m] << " of " << gold;
  }
}

void check_mean(const json& golden) {
  dataset::Task task;
  task.metrics = {"acc"};
  std::vector<Record> records;
  for (const json& item : golden["items"]) records.push_back(score_choices(task, json::array({-1.0, -2.0}), {item == 1 ? 0 : 1}));
  const MetricValue value = summarise(task, records)[0];
  EXPECT_DOUBLE_EQ(value.value, golden["mean"].get<double>());
  EXPECT_DOUBLE_EQ(value.standard_error, golden["stderr"].get<double>());
}

TEST(GoldenMetrics, Aggregates) {
  MIQ_REQUIRE_GOLDEN("metrics/aggregates.jsonl");
  std::set<std::string> unknown;
  for (const json& golden : lines_of("aggregates.jsonl")) {
    const std::string function = golden["fn"];
    SCOPED_TRACE(golden.dump());
    if (function == "binary_f1") check_questions(golden);
    else if (function == "mutual_ranks") check_ranks(golden);
    else if (function == "truthfulqa_mc2") check_truths(golden);
    else if (function == "acc_norms") check_normalised(golden);
    else if (function == "mean_stderr") check_mean(golden);
    else if (function.rfind("python_", 0) != 0) unknown.insert(function);  // the generator's are the data sets' tests
  }
  for (const std::string& function : unknown) ADD_FAILURE() << "unknown kind of case: " << function;
}

TEST(GoldenMetrics, Gsm8k) {
  MIQ_REQUIRE_GOLDEN("metrics/gsm8k.jsonl");
  dataset::Task task;
  task.shape = dataset::Shape::generate;
  task.metrics = {"exact_match"};
  task.extract = {{"strict-match", "#### (\\-?[0-9\\.\\,]+)", 0}, {"flexible-extract", "(-?[$0-9.,]{2,})|(-?[0-9]+)", -1}};
  task.exact_match_ignore_case = true;
  task.exact_match_remove = {",", "\\$", "(?s).*#### ", "\\.$"};
  for (const json& golden : lines_of("gsm8k.jsonl")) {
    SCOPED_TRACE(golden.dump());
    dataset::TaskDocument document;
    document.references = {golden["reference"].get<std::string>()};
    const Record record = score_document(task, {}, document, {{}, {golden["generation"].get<std::string>()}, 0});
    ASSERT_EQ(record.extracted.size(), 2u);
    EXPECT_EQ(record.extracted[0].second, golden["strict"].get<std::string>());
    EXPECT_EQ(record.extracted[1].second, golden["flexible"].get<std::string>());
    EXPECT_EQ(value_of(record, "exact_match,strict-match"), golden["exact_match_strict"].get<double>());
    EXPECT_EQ(value_of(record, "exact_match,flexible-extract"), golden["exact_match_flexible"].get<double>());
  }
}

TEST(GoldenMetrics, Bbq) {
  MIQ_REQUIRE_GOLDEN("metrics/bbq.json");
  dataset::Task task;
  task.metrics = {"acc", "accuracy_amb", "accuracy_disamb", "amb_bias_score", "disamb_bias_score"};
  for (const json& golden : parse_json(read_file(test::golden_dir() / "metrics/bbq.json"), "bbq.json")) {
    SCOPED_TRACE(golden["set"].dump());
    dataset::TaskSubject subject;
    subject.name = golden["set"];
    std::vector<Record> records;
    for (const json& one : golden["per_doc"]) {
      dataset::TaskDocument document;
      document.index = one["example_id"];
      document.choices.resize(one["lls"].size(), "x");
      document.gold = one["targets"].get<std::vector<std::int64_t>>();
      // "unknown" is right exactly in the ambiguous contexts
      document.fields = {{"biased", one["biased"]}, {"context_condition", document.gold.size() > 1 ? "ambig" : "disambig"}};
      records.push_back(score_document(task, subject, document, {one["lls"].get<std::vector<double>>(), {}, 0}));
      EXPECT_EQ(*records.back().prediction, one["pred"].get<std::int64_t>());
      EXPECT_EQ(value_of(records.back(), "acc"), one["acc"].get<double>());
    }
    for (const auto& [name, value] : golden["aggregate"].items()) EXPECT_NEAR(total_of(task, records, name), value.get<double>(), 1e-14) << name;
  }
}

// Every built-in task on the first rows of its own data: its metrics find the fields that they need, and the figures have values.
TEST(GoldenMetrics, EveryTaskOnItsData) {
  const std::filesystem::path data = test::golden_dir() / ".." / "data";
  MIQ_REQUIRE_GOLDEN("../data");
  std::int64_t scored = 0;
  for (const std::string& name : dataset::task_names()) {
    SCOPED_TRACE(name);
    dataset::TaskOptions options;
    options.limit = 4;
    options.shots = 0;
    const dataset::Task task = dataset::load_task(name, &options);
    options.split = task.split == "test" && !dataset::find_data(task, data).evaluable ? "validation" : "";
    std::vector<dataset::TaskSubject> subjects;
    try {
      subjects = dataset::load_documents(task, options, data);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::io);  // not there
      continue;
    }
    PythonRandom random(7);
    std::vector<Record> records;
    for (const dataset::TaskSubject& subject : subjects)
      for (const dataset::TaskDocument& document : subject.documents) {
        Answer answer;
        if (task.shape == dataset::Shape::generate) answer.texts = {document.references.empty() ? "x" : document.references[0]};
        if (task.shape == dataset::Shape::perplexity) answer.loglikelihoods = {-1000 * random.random()};
        answer.tokens = 100;
        for (size_t i = 0; i < document.choices.size(); ++i) answer.loglikelihoods.push_back(-10 * random.random());
        records.push_back(score_document(task, subject, document, answer));
        EXPECT_EQ(to_json(record_from_json(json::parse(to_json(records.back()).dump()), "")).dump().size(), to_json(records.back()).dump().size());
      }
    SummaryOptions few;
    few.bootstrap.resamples = 20;
    for (const MetricValue& value : summarise(task, records, few)) {
      EXPECT_TRUE(std::isfinite(value.value)) << value.name;
      EXPECT_GT(value.documents, 0) << value.name;
      // what repeats the first reference is right
      for (const char* full : {"exact_match", "token_f1", "rouge1", "rouge2", "rougeL", "exact_match,strict-match", "exact_match,flexible-extract"})
        if (value.name == full) {
          EXPECT_EQ(value.value, 1) << value.name;
        }
    }
    ++scored;
  }
  RecordProperty("tasks", static_cast<int>(scored));
  EXPECT_GT(scored, 0);
}

}  // namespace
}  // namespace miq::evaluator
