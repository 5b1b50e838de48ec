#include <gmock/gmock.h>

#include "miq/core/error.h"
#include "miq/executor/job_config.h"
#include "support/golden.h"

namespace miq::executor {
namespace {

using quantizer::Granularity;
using testing::HasSubstr;

JobConfig read(const std::string& yaml) { return read_job_config(ConfigSource::from_text(yaml, "test.yaml")); }

Error error_of(const std::string& yaml, const std::vector<std::string>& assignments = {}) {
  try {
    ConfigSource source = ConfigSource::from_text(yaml, "test.yaml");
    for (const std::string& assignment : assignments) source.set(assignment);
    read_job_config(source);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error: " << yaml;
  return Error(ErrorKind::internal, "none");
}

TEST(JobConfig, HasDefaults) {
  const JobConfig config = read("{}");
  EXPECT_EQ(config.calibration.samples, 128);
  EXPECT_EQ(config.recipe.otherwise.preset, "gptq");
  EXPECT_EQ(config.recipe.otherwise.grid.bits, 4);
  EXPECT_FALSE(config.export_.has_value());
}

TEST(JobConfig, RulesOverlayTheRecipe) {
  const JobConfig config = read(R"(
recipe:
  preset: gptq
  grid: {bits: 3, symmetric: true, group_size: 64}
  rounding: {percdamp: 0.05, act_order: true}
  rules:
    - {match: a, keep: float}
    - {match: b, preset: rtn, grid: {bits: 8, granularity: channel}}
    - {match: c, grid: {bits: 4}, rounding: {act_order: false}}
)");
  const auto& rules = config.recipe.rules;
  ASSERT_EQ(rules.size(), 3u);
  EXPECT_TRUE(rules[0].layer.keep_float);
  EXPECT_EQ(rules[1].layer.rounding.kind, "nearest");
  EXPECT_EQ(rules[1].layer.grid.bits, 8);
  EXPECT_TRUE(rules[1].layer.grid.symmetric);
  EXPECT_EQ(rules[1].layer.grid.granularity, Granularity::channel);
  EXPECT_EQ(rules[2].layer.grid.bits, 4);
  EXPECT_EQ(rules[2].layer.grid.group_size, 64);
  EXPECT_EQ(rules[2].layer.rounding.act_order, quantizer::ActOrder::none);
  EXPECT_DOUBLE_EQ(rules[2].layer.rounding.percdamp, 0.05);
  EXPECT_THAT(rules[1].where, HasSubstr("test.yaml:8:"));
}

TEST(JobConfig, ChoosingAnotherGranularityClearsTheGroup) {
  const JobConfig config = read("recipe: {grid: {granularity: channel}, rules: [{match: a, grid: {granularity: group}}, {match: b, grid: {group_size: 32}}]}");
  EXPECT_EQ(config.recipe.rules[0].layer.grid.group_size, 128);
  EXPECT_EQ(config.recipe.rules[1].layer.grid.granularity, Granularity::group);
  EXPECT_EQ(config.recipe.rules[1].layer.grid.group_size, 32);
}

TEST(JobConfig, SetFindsKeysThatAreWrittenWithDots) {
  const auto after = [](const std::string& text, const std::string& assignment) {
    ConfigSource source = ConfigSource::from_text(text, "test.yaml");
    source.set(assignment);
    YAML::Emitter emitter;
    emitter << YAML::Flow << source.root();
    return std::string(emitter.c_str());
  };
  EXPECT_EQ(after("{sweep: {recipe.grid.bits: [4, 3]}}", "sweep.recipe.grid.bits=[2]"), "{sweep: {recipe.grid.bits: [2]}}");
  EXPECT_EQ(after("{sweep: {recipe: {grid.bits: [4, 3]}}}", "sweep.recipe.grid.bits=[2]"), "{sweep: {recipe: {grid.bits: [2]}}}");
  EXPECT_EQ(after("{sweep: {recipe: {grid: {bits: [4, 3]}}}}", "sweep.recipe.grid.bits=[2]"), "{sweep: {recipe: {grid: {bits: [2]}}}}");
  EXPECT_EQ(after("{sweep: {recipe.grid.bits: [4, 3], recipe.preset: [rtn]}}", "sweep.recipe.grid={group_size: [64]}"), "{sweep: {recipe.preset: [rtn], recipe: {grid: {group_size: [64]}}}}");
  EXPECT_EQ(after("{sweep: {variants: [{recipe.grid.bits: 4}]}}", "sweep.variants.0.recipe.grid.bits=2"), "{sweep: {variants: [{recipe.grid.bits: 2}]}}");
  EXPECT_EQ(after("{expect: {perplexity.wikitext2: \"<= 4\"}}", "expect.perplexity.wikitext2=<= 5"), "{expect: {perplexity.wikitext2: <= 5}}");
}

TEST(JobConfig, SetOverridesAndIsCited) {
  ConfigSource source = ConfigSource::from_text("recipe: {rules: [{match: a, grid: {bits: 4}}]}", "test.yaml");
  source.set("recipe.rules.0.grid.bits=2");
  source.set("calibration.seqlen=77");
  source.set("export.shard_size=2GB");
  const JobConfig config = read_job_config(source);
  EXPECT_EQ(config.recipe.rules[0].layer.grid.bits, 2);
  EXPECT_EQ(config.calibration.seqlen, 77);
  EXPECT_EQ(config.export_->shard_size, 2000000000);
  EXPECT_THAT(error_of("{}", {"recipe.grid.bits=99"}).where(), HasSubstr("--set recipe.grid.bits=99"));
  EXPECT_EQ(error_of("recipe: {rules: []}", {"recipe.rules.3.match=x"}).kind(), ErrorKind::config);
  EXPECT_EQ(error_of("{}", {"no equals sign"}).kind(), ErrorKind::config);
}

TEST(JobConfig, ResolvedYamlReadsBackTheSame) {
  const JobConfig config = read(R"(
model: {path: 'a # path: with, everything', dtype: bfloat16}
recipe: {preset: rtn, range: {kind: mse, norm: 2.25}, rules: [{match: 'x\..*', keep: float}, {match: "it's", grid: {bits: 2}}]}
export: {shard_size: 123MiB}
evaluation: {perplexity: [{corpus: ptb, protocol: mi}, {corpus: c4, windows: 3}], baseline: false}
pipeline: {memory: 3GiB, propagate: float})");
  const std::string shown = to_yaml(config);
  EXPECT_EQ(to_yaml(read(shown)), shown);
  EXPECT_EQ(to_json(read(shown)), to_json(config));
}

// Every mistake: the kind of error, its place, and what it says or advises.
struct Mistake {
  const char* yaml;
  ErrorKind kind;
  const char* where;
  const char* says;
};

class JobConfigMistakes : public testing::TestWithParam<Mistake> {};

TEST_P(JobConfigMistakes, AreTold) {
  const Error error = error_of(GetParam().yaml);
  EXPECT_EQ(error.kind(), GetParam().kind);
  EXPECT_THAT(error.where(), HasSubstr(GetParam().where));
  EXPECT_THAT(std::string(error.what()), HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(
    All, JobConfigMistakes,
    testing::Values(
        Mistake{"modle: {}", ErrorKind::config, "test.yaml:1:1", "did you mean model"},
        Mistake{"recipe:\n  grid: {bitz: 4}", ErrorKind::config, "test.yaml:2:10 recipe.grid.bitz", "did you mean bits"},
        Mistake{"recipe:\n  grid: {bits: four}", ErrorKind::config, "test.yaml:2:16 recipe.grid.bits", "whole number"},
        Mistake{"recipe: {grid: {bits: 9}}", ErrorKind::config, "recipe.grid.bits", "2 .. 8"},
        Mistake{"recipe: {grid: {bits: 4.5}}", ErrorKind::config, "recipe.grid.bits", "whole number"},
        Mistake{"recipe: {grid: {symmetric: 7}}", ErrorKind::config, "recipe.grid.symmetric", "true or false"},
        Mistake{"recipe: {grid: {granularity: grup}}", ErrorKind::config, "recipe.grid.granularity", "did you mean group"},
        Mistake{"recipe: {grid: {granularity: channel, group_size: 64}}", ErrorKind::config, "recipe.grid.group_size", "without groups"},
        Mistake{"recipe: {grid: [4]}", ErrorKind::config, "recipe.grid", "a list"},
        Mistake{"recipe: {preset: gtpq}", ErrorKind::config, "recipe.preset", "did you mean gptq"},
        Mistake{"recipe: {preset: [awq, gtpq]}", ErrorKind::config, "recipe.preset", "did you mean gptq"},
        Mistake{"recipe: {preset: [awq, smoothquant]}", ErrorKind::config, "recipe.preset", "both choose the transform"},
        Mistake{"recipe: {preset: gptq+spqr}", ErrorKind::config, "recipe.preset", "both choose the rounding"},
        Mistake{"recipe: {transform: {alpa: 0.5}}", ErrorKind::config, "recipe.transform.alpa", "did you mean alpha"},
        Mistake{"recipe: {activation: {bits: eight}}", ErrorKind::config, "recipe.activation.bits", "whole number"},
        Mistake{"recipe: {range: percentil}", ErrorKind::config, "recipe.range", "did you mean percentile"},
        Mistake{"recipe: {rules: [{match: a, transform: rotation}]}", ErrorKind::config, "recipe.rules.0.transform", "whole model"},
        Mistake{"recipe: {rounding: {percdamp: -1}}", ErrorKind::config, "recipe.rounding.percdamp", "0 .."},
        Mistake{"recipe: {rounding: {percdamp: .nan}}", ErrorKind::config, "recipe.rounding.percdamp", "number"},
        Mistake{"recipe: {rules: {match: a}}", ErrorKind::config, "recipe.rules", "list"},
        Mistake{"recipe: {rules: [{keep: float}]}", ErrorKind::config, "recipe.rules.0", "match"},
        Mistake{"recipe: {rules: [{match: a, keep: int}]}", ErrorKind::config, "recipe.rules.0.keep", "float"},
        Mistake{"recipe: {rules: [{match: a, gird: {}}]}", ErrorKind::config, "recipe.rules.0.gird", "did you mean grid"},
        Mistake{"calibration: {samples: 0}", ErrorKind::config, "calibration.samples", "1 .."},
        Mistake{"calibration: {samples: 99999999999999999999}", ErrorKind::config, "calibration.samples", "whole number"},
        Mistake{"calibration: {dtype: int8}", ErrorKind::config, "calibration.dtype", "float32"},
        Mistake{"model: {dtype: half}", ErrorKind::config, "model.dtype", "float16"},
        Mistake{"model: {path: a}\nmodel: {path: b}", ErrorKind::config, "test.yaml:2:1", "twice"},
        Mistake{"pipeline: {memory: lots}", ErrorKind::config, "pipeline.memory", "4GiB"},
        Mistake{"pipeline: {offload: tape}", ErrorKind::config, "pipeline.offload", "known: auto, none, cpu, disk"},
        Mistake{"export: {format: ggfu}", ErrorKind::config, "export.format", "dequantized"},
        Mistake{"evaluation:\n  tasks:\n    - {task: hellaswg}", ErrorKind::config, "test.yaml:3:14 evaluation.tasks.0.task", "did you mean hellaswag"},
        Mistake{"evaluation: {tasks: [arc_easy, standrd]}", ErrorKind::config, "evaluation.tasks", "did you mean standard"},
        Mistake{"evaluation: {tasks: [{task: piqa}, {task: piqa, shot: 5}]}", ErrorKind::config, "evaluation.tasks.1.shot", "did you mean shots"},
        Mistake{"evaluation: {tasks: [{shots: 5}]}", ErrorKind::config, "evaluation.tasks.0", "names no task"},
        Mistake{"evaluation: {tasks: [{task: piqa, limit: -1}]}", ErrorKind::config, "evaluation.tasks.0.limit", "0 .."},
        Mistake{"evaluation: {tasks: [none.yaml]}", ErrorKind::config, "evaluation.tasks", "there is no file 'none.yaml'"},
        Mistake{"evaluation: {tasks: hellaswag}", ErrorKind::config, "evaluation.tasks", "must be a list"},
        Mistake{"evaluation: {tasks: [[piqa]]}", ErrorKind::config, "evaluation.tasks.0", "a list"},
        Mistake{"evaluation: {bootstrap: 0}", ErrorKind::config, "evaluation.bootstrap", "2 .."},
        Mistake{"evaluation: {perplexity: [wikitext2]}", ErrorKind::config, "evaluation.perplexity.0", "keys with values"},
        Mistake{"a: [1, 2", ErrorKind::config, "test.yaml:", "not valid YAML"},
        Mistake{"- just\n- a list", ErrorKind::config, "test.yaml", "mapping"},
        Mistake{"? [a]\n: 1", ErrorKind::config, "test.yaml", "plain text"}));

TEST(JobConfig, DeepYamlIsRefused) {
  EXPECT_EQ(error_of(std::string(100000, '[')).kind(), ErrorKind::config);
  EXPECT_EQ(error_of("a: " + std::string(5000, '[') + std::string(5000, ']')).kind(), ErrorKind::config);
}

TEST(MiOptimize, IsTranslated) {
  const JobConfig config = read(R"(
  quant_config:
    algo: gptq
    kwargs: {w_dtype: int3, a_dtype: float16, w_groupsize: 64, w_qtype: per_group, w_has_zero: True, blocksize: 64, percdamp: .05,
             actorder: False, block_sequential: True, layer_sequential: False, skip_layers: [lm_head, '.*down_proj'], device: cpu}
    calibrate_config: {name: ptb, split: train, nsamples: 5, seqlen: 99, seed: 3}
)");
  const quantizer::LayerRecipe& layer = config.recipe.otherwise;
  EXPECT_EQ(layer.rounding.kind, "error_feedback");
  EXPECT_EQ(layer.grid.bits, 3);
  EXPECT_FALSE(layer.grid.symmetric);
  EXPECT_EQ(layer.grid.group_size, 64);
  EXPECT_EQ(layer.rounding.block_size, 64);
  EXPECT_DOUBLE_EQ(layer.rounding.percdamp, 0.05);
  EXPECT_EQ(layer.rounding.act_order, quantizer::ActOrder::none);
  EXPECT_FALSE(layer.rounding.group_aware);
  EXPECT_EQ(layer.range.kind, quantizer::RangeKind::min_max);
  EXPECT_EQ(config.pipeline.order, Order::block);
  EXPECT_EQ(config.pipeline.propagate, Propagate::quantized);
  ASSERT_EQ(config.recipe.rules.size(), 2u);
  EXPECT_EQ(config.recipe.rules[1].match, ".*down_proj");
  EXPECT_TRUE(config.recipe.rules[1].layer.keep_float);
  EXPECT_EQ(config.calibration.dataset, "ptb");
  EXPECT_EQ(config.calibration.samples, 5);
  EXPECT_EQ(config.calibration.seqlen, 99);
}

TEST(MiOptimize, WholeRowsAndIgnoredKeys) {
  const JobConfig config = read("quant_config: {algo: rtn, kwargs: {w_dtype: int4, w_qtype: per_group, w_groupsize: -1}, calibrate_config: {name: c4, nsample: 1}}");
  EXPECT_EQ(config.recipe.otherwise.grid.granularity, Granularity::channel);
  EXPECT_TRUE(config.recipe.otherwise.grid.symmetric);
  EXPECT_EQ(config.calibration.samples, 128);
}

TEST(MiOptimize, ActivationsCombinationsAndExaminations) {
  const JobConfig smooth = read("quant_config: {algo: smoothquant, kwargs: {w_dtype: int8, a_dtype: int8, a_qtype: per_token, w_groupsize: 128, quantization_type: static}}");
  EXPECT_EQ(smooth.recipe.otherwise.transform.alpha, 0.5);
  EXPECT_EQ(smooth.recipe.otherwise.grid.granularity, Granularity::channel);
  EXPECT_TRUE(smooth.recipe.otherwise.activation.dynamic);
  const JobConfig fixed = read("quant_config: {algo: rtn, kwargs: {w_dtype: int8, a_dtype: int8, a_qtype: per_token, quantization_type: static, a_has_zero: True}}");
  EXPECT_FALSE(fixed.recipe.otherwise.activation.dynamic);
  EXPECT_EQ(fixed.recipe.otherwise.activation.granularity, quantizer::ActivationGranularity::tensor);
  EXPECT_FALSE(fixed.recipe.otherwise.activation.symmetric);
  const JobConfig both = read("quant_config: {algo: awq+gptq, kwargs: {w_dtype: int3}, calibrate_config: {name: cmmlu, split: val, calibrate_nums: {arts: 2, logical: 3}, calibrate_seqlen: 64}}");
  EXPECT_EQ(both.recipe.otherwise.preset, "awq+gptq");
  EXPECT_EQ(both.calibration.subjects, "arts=2, logical=3");
  EXPECT_EQ(both.calibration.seqlen, 64);
}

TEST(MiOptimize, CalibratesOnBoss) {
  const auto calibration = [](const std::string& text) { return read("quant_config: {algo: gptq, kwargs: {w_dtype: int4}, calibrate_config: {name: boss, split: train, " + text + "}}").calibration; };
  EXPECT_EQ(calibration("calibrate_subject: QuestionAnswering_advqa, nsamples: 64").dataset, "boss_QuestionAnswering_advqa");
  EXPECT_EQ(calibration("calibrate_subject: QuestionAnswering_advqa, nsamples: 64").samples, 64);
  EXPECT_EQ(calibration("calibrate_subject: QuestionAnswering_advqa, calibrate_nums: 32, calibrate_seqlen: 512").samples, 32);
  EXPECT_EQ(calibration("calibrate_nums: {QuestionAnswering_advqa: 4, ToxicDetection_toxigen: 8}").dataset, "boss_QuestionAnswering_advqa=4, boss_ToxicDetection_toxigen=8");
  EXPECT_EQ(calibration("dataset: [SentimentAnalysis_sst5, ToxicDetection_toxigen]").dataset, "boss_SentimentAnalysis_sst5, boss_ToxicDetection_toxigen");
  EXPECT_EQ(calibration("task_name: QuestionAnswering, dataset_name: advqa, calibrate_nums: 32").dataset, "boss_QuestionAnswering_advqa");
  EXPECT_EQ(calibration("nsamples: 16").dataset, "boss");
  EXPECT_EQ(calibration("nsamples: 16").per_subject, 16);
}

TEST(MiOptimize, MistakesAreTold) {
  EXPECT_THAT(std::string(error_of("quant_config: {algo: gptqq}").what()), HasSubstr("did you mean gptq"));
  EXPECT_EQ(error_of("quant_config: {algo: rtn, kwargs: {w_dtype: int9}}").kind(), ErrorKind::config);
  EXPECT_EQ(error_of("quant_config: {algo: rtn, kwargs: {w_dtype: int8, a_dtype: int8, a_qtype: per_dimension}}").kind(), ErrorKind::unsupported);
  EXPECT_EQ(error_of("quant_config: 3").kind(), ErrorKind::config);
}

// Every file that MI-optimize ships reads, and its resolved form reads back the same.
TEST(GoldenMiOptimize, ShippedFilesAreRead) {
  MIQ_REQUIRE_GOLDEN("../data/mi-optimize-configs");
  int read_count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(test::golden_dir() / ".." / "data" / "mi-optimize-configs")) {
    if (entry.path().extension() != ".yaml") continue;
    const JobConfig config = read_job_config(ConfigSource::from_file(entry.path()));
    EXPECT_EQ(to_yaml(read(to_yaml(config))), to_yaml(config)) << entry.path();
    ++read_count;
  }
  EXPECT_GE(read_count, 17);
}

}  // namespace
}  // namespace miq::executor
