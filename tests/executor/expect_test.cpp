// Quality gates: what can be written, which figure a name is of, and when a bound is met.
#include <gmock/gmock.h>

#include "../../src/executor/expect.h"
#include "../../src/executor/figures.h"
#include "miq/core/error.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;
using testing::AllOf;
using testing::HasSubstr;

JobConfig read(const std::string& yaml) { return read_job_config(ConfigSource::from_text(yaml, "test.yaml")); }

const std::string kTwo = R"(
evaluation:
  perplexity: [{corpus: wikitext2}, {corpus: wikitext2, split: validation}, {corpus: data/heldout.txt}]
  tasks: [{task: hellaswag, shots: 0}, {task: hellaswag, shots: 5}, gsm8k, anli, piqa]
)";

std::string error_of(const std::string& yaml, JobMode mode = JobMode::run) {
  try {
    check_expectations(read(yaml), mode);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config) << error.what();
    return error.what();
  }
  return "";
}
std::string error_of_gate(const std::string& gate, JobMode mode = JobMode::run) { return error_of(kTwo + "expect: {" + gate + "}\n", mode); }

TEST(Expect, BoundsAreRead) {
  for (const char* bound : {"<= 25", "<25", ">= 1e-3", "== 0", "> -1.5", "<= 1.03 x baseline", "<= 1.03x baseline", ">= 0.97 * baseline", ">= baseline - 0.02", "<= baseline + 0.5", "== baseline"})
    EXPECT_EQ(error_of_gate("'perplexity.wikitext2[split=test]': '" + std::string(bound) + "'"), "") << bound;
  for (const char* bound : {"25", "=> 25", "<= ", "<= x baseline", "<= 1.03 x base", ">= baseline 0.02", ">= baseline - ", ">= baseline - -1", "<= nan", "< inf", "<= 25 %", "<= 4GiB", "<= 25 baseline"})
    EXPECT_THAT(error_of_gate("'perplexity.wikitext2[split=test]': '" + std::string(bound) + "'"), HasSubstr("test.yaml:5:")) << bound;
  EXPECT_EQ(error_of_gate("quantization.peak_rss_bytes: '<= 4GiB', quantization.bytes: '< 1e9', quantization.seconds: '<= 10 min'"), "");
  EXPECT_THAT(error_of_gate("quantization.seconds: '<= 4GiB'"), HasSubstr("no unit"));
  EXPECT_THAT(error_of_gate("quantization.bits_per_weight: '<= 4 bit'"), HasSubstr("no unit"));
}

TEST(Expect, SeveralBoundsOfOneFigure) {
  const JobConfig config = read("expect: {quantization.bits_per_weight: ['> 3', '<= 4.5'], quantization.bytes: '> 1, < 1MiB'}\n");
  ASSERT_EQ(config.expect.size(), 4u);
  EXPECT_EQ(config.expect[1].bound, "<= 4.5");
  EXPECT_EQ(config.expect[3].bound, "< 1MiB");
  EXPECT_EQ(to_json(read(to_yaml(config))), to_json(config));  // what is shown is read back
}

TEST(Expect, FormsThatAreNone) {
  for (const char* yaml : {"expect: [1]", "expect: '<= 3'", "expect: {a: {b: '<= 3'}}", "expect: {a: []}", "expect: {a: [[1]]}", "expect: {a: }", "expect: {a: '<= 3,'}"})
    EXPECT_THAT(error_of(yaml), HasSubstr("test.yaml:1:")) << yaml;
  EXPECT_EQ(read("expect: {}").expect.size(), 0u);
  EXPECT_EQ(read("expect:").expect.size(), 0u);
}

TEST(Expect, OneLine) {
  const Expectation gate = read_expectation(" tasks.hellaswag[shots=5].acc>= baseline - 0.02 ", "--expect");
  EXPECT_EQ(gate.what, "tasks.hellaswag[shots=5].acc");
  EXPECT_EQ(gate.bound, ">= baseline - 0.02");
  for (const char* text : {"", "<= 3", "perplexity", "perplexity.x 3", "perplexity[a=b]"}) EXPECT_THROW(read_expectation(text, "--expect"), Error) << text;
}

TEST(Expect, NamesOfFigures) {
  for (const char* what : {"perplexity.heldout", "perplexity.data/heldout.txt.kl_divergence", "'perplexity.wikitext2[split=test].top1_agreement'", "'tasks.hellaswag[shots=5].acc_norm.p_value'",
                           "'tasks.hellaswag[shots=0,split=validation].acc.p_value_holm'", "tasks.piqa.flips", "'tasks.gsm8k.exact_match,strict-match'", "groups.anli.acc", "groups.anli.acc.p_value",
                           "categories.all", "quantization.seconds_by_phase.solve", "events"})
    EXPECT_EQ(error_of_gate(std::string(what) + ": '<= 25'"), "") << what;
  EXPECT_THAT(error_of_gate("perplexity.wikitext3: '<= 25'"), AllOf(HasSubstr("did you mean perplexity.wikitext2?"), HasSubstr("test.yaml:5:")));
  EXPECT_THAT(error_of_gate("tasks.piqa.ac: '> 0.5'"), HasSubstr("did you mean tasks.piqa.acc?"));
  EXPECT_THAT(error_of_gate("quantisation.seconds: '> 0.5'"), HasSubstr("did you mean quantization.seconds?"));
  EXPECT_THAT(error_of_gate("perplexity.wikitext2: '<= 25'"), AllOf(HasSubstr("one of 2 entries"), HasSubstr("perplexity.wikitext2[split=test] or perplexity.wikitext2[split=validation]")));
  EXPECT_THAT(error_of_gate("'tasks.hellaswag[split=validation].acc': '>= 0.5'"), HasSubstr("tasks.hellaswag[shots=0] or tasks.hellaswag[shots=5]"));
  EXPECT_THAT(error_of_gate("'tasks.hellaswag[shots=3].acc': '>= 0.5'"), AllOf(HasSubstr("fits no entry"), HasSubstr("shots=5")));
  EXPECT_THAT(error_of("expect: {perplexity.wikitext2: '<= 25'}"), HasSubstr("must be evaluated"));
}

TEST(Expect, WhatTheCommandDoesNotKnow) {
  EXPECT_THAT(error_of_gate("perplexity.heldout: '<= 25'", JobMode::quantize), HasSubstr("miq quantize evaluates nothing"));
  EXPECT_EQ(error_of_gate("quantization.bits_per_weight: '<= 25'", JobMode::quantize), "");
  EXPECT_THAT(error_of_gate("quantization.bits_per_weight: '<= 25'", JobMode::evaluate), HasSubstr("miq eval quantizes nothing"));
  EXPECT_EQ(error_of_gate("perplexity.heldout: '<= 25'", JobMode::evaluate), "");
  EXPECT_THAT(error_of_gate("perplexity.heldout: '<= 1.1 x baseline'", JobMode::evaluate), HasSubstr("there is no baseline"));
  EXPECT_THAT(error_of_gate("perplexity.heldout.kl_divergence: '<= 0.1'", JobMode::evaluate), HasSubstr("will not be known"));
  const std::string alone = "evaluation: {baseline: false, perplexity: [{corpus: ptb}], tasks: [piqa]}\n";
  EXPECT_THAT(error_of(alone + "expect: {perplexity.ptb: '<= 1.1 x baseline'}"), HasSubstr("evaluation.baseline: true"));
  EXPECT_THAT(error_of(alone + "expect: {tasks.piqa.acc.p_value: '>= 0.05'}"), HasSubstr("evaluation.baseline: true"));
  EXPECT_EQ(error_of("evaluation: {against: runs/a, tasks: [piqa]}\nexpect: {tasks.piqa.acc: '>= baseline'}", JobMode::evaluate), "");
  EXPECT_THAT(error_of("evaluation: {tasks: [piqa]}\nexpect: {tasks.piqa.acc.p_value_holm: '>= 0.05'}"), HasSubstr("p_value"));
  EXPECT_THAT(error_of_gate("quantization.bytes: '<= 0.3 x baseline'"), HasSubstr("has no baseline"));
}

// One judgement of each kind, on results made by hand.
TEST(Expect, BoundsAreJudged) {
  const JobConfig config = read(R"(
evaluation:
  perplexity: [{corpus: ptb}, {corpus: c4}]
  tasks: [{task: piqa}]
expect:
  perplexity.ptb: ['<= 10', '< 10', '<= 1.25 x baseline', '> 10']
  perplexity.c4: ['<= 1e9', '>= 0', '<= 2 x baseline']
  perplexity.ptb.kl_divergence: '<= 0.1'
  tasks.piqa.acc: ['>= baseline - 0.02', '>= baseline - 0.01', '== 0.5']
  events: '<= 1'
  quantization.peak_rss_bytes: '<= 1GiB'
)");
  check_expectations(config, JobMode::run);
  const Json results = {{"config", {{"output", nullptr}}},
                        {"quantization", {{"peak_rss_bytes", 1 << 30}}},
                        {"perplexity", {{{"value", 10.0}, {"baseline", 8.0}}, {{"value", nullptr}, {"baseline", 8.0}}}},
                        {"tasks", {{{"metrics", {{"acc", {{"value", 0.5}, {"baseline", 0.515}}}}}}}},
                        {"events", {1, 2}}};
  Json with = results;
  with["expect"] = judge_expectations(config, JobMode::run, results);
  std::vector<bool> met;
  for (const Json& gate : with["expect"]) met.push_back(gate["met"]);
  EXPECT_THAT(met, testing::ElementsAre(true, false, true, false, /*c4, not a number*/ false, false, false, /*no KL*/ false, true, false, true, /*events*/ false, true));
  EXPECT_EQ(with["expect"][2]["limit"], 10.0);
  EXPECT_TRUE(with["expect"][4]["value"].is_null());
  EXPECT_NEAR(with["expect"][8]["limit"].get<double>(), 0.495, 1e-12);
  EXPECT_THAT(expectation_table(with["expect"]), AllOf(HasSubstr("perplexity.ptb"), HasSubstr("NO"), HasSubstr("1.0 GiB")));
  try {
    require_met(with);
    FAIL() << "nothing missed";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_status(), 5);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("8 of 13 quality gates missed"), HasSubstr("perplexity.ptb is 10, not < 10;"), HasSubstr("perplexity.c4 is not a number"), HasSubstr("not >= baseline - 0.01 (0.505)")));
  }
  with["expect"] = {with["expect"][0], with["expect"][2]};
  require_met(with);
  require_met(results);
}

}  // namespace
}  // namespace miq::executor
