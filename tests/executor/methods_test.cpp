// Every preset, and pairs of them, through the whole pipeline on a tiny LLaMA (GQA, tied head): what is
// transformed, folded and rounded to 8 bits must still compute the model's function, and an exported
// checkpoint must be the model that was in memory.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "../../src/executor/allocation.h"
#include "../../src/executor/distill.h"
#include "../../src/executor/scale_group.h"
#include "miq/core/error.h"
#include "miq/executor/job.h"
#include "miq/executor/pipeline.h"
#include "support/golden.h"

namespace miq::executor {
namespace {

using testing::HasSubstr;

const std::string kTiny = std::string(MIQ_SOURCE_DIR) + "/tests/fixtures/tiny-llama";

JobConfig read(const std::string& yaml) { return read_job_config(ConfigSource::from_text(yaml, "test.yaml")); }

at::Tensor ids() {
  at::manual_seed(5);
  return at::randint(512, {6, 48}, at::kLong);
}

model::LanguageModel open_tiny() { return model::LanguageModel::open(kTiny, "auto", at::kFloat, at::kCPU); }

struct Quantized {
  at::Tensor logits;
  PipelineResult result;
};

// The quantized model's logits on ids that it was not calibrated on.
Quantized quantize(const JobConfig& config, model::LanguageModel& model) {
  const std::vector<PlannedLinear> plan = make_plan(model, config.recipe);
  PipelineOptions options;
  options.calibration_ids = {ids()};
  options.config = config.pipeline;
  options.keep_blocks = true;
  options.strict = config.strict;
  options.distillation = config.recipe.distillation;
  if (config.recipe.otherwise.transform.kind == quantizer::TransformKind::rotation) options.rotation = config.recipe.otherwise.transform;
  Quantized done;
  done.result = run_pipeline(model, plan, options);
  model.replace_blocks(std::move(done.result.blocks));
  done.logits = model.forward(ids().flip({0, 1}));
  return done;
}

at::Tensor float_logits() {
  model::LanguageModel model = open_tiny();
  model.hold_blocks();
  return model.forward(ids().flip({0, 1}));
}

double error_of(const at::Tensor& logits) {
  const at::Tensor wanted = float_logits();
  return (logits - wanted).norm().item<double>() / wanted.norm().item<double>();
}

struct Method {
  const char* recipe;
  double limit;  // of the logits' relative error
};

class Methods : public testing::TestWithParam<Method> {};

TEST_P(Methods, KeepTheModelsFunction) {
  for (const char* pipeline : {"{}", "{order: block, propagate: float}"}) {
    const c10::InferenceMode inference;
    model::LanguageModel model = open_tiny();
    const JobConfig config = read(std::string("recipe: ") + GetParam().recipe + "\npipeline: " + pipeline);
    const Quantized done = quantize(config, model);
    EXPECT_EQ(done.result.layers.size(), 28u);
    EXPECT_LT(error_of(done.logits), GetParam().limit) << GetParam().recipe << " " << pipeline;
    EXPECT_GT(error_of(done.logits), 1e-5) << "nothing was rounded";
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, Methods,
    testing::Values(Method{"{preset: rtn, grid: {bits: 8, group_size: 32}}", 0.01}, Method{"{preset: gptq, grid: {bits: 8, group_size: 32}}", 0.01},
                    Method{"{preset: awq, grid: {bits: 8, group_size: 32}}", 0.02}, Method{"{preset: awq, transform: {duo_scaling: both}, grid: {bits: 8, group_size: 32}}", 0.02},
                    Method{"{preset: awq+gptq, grid: {bits: 8, group_size: 32}}", 0.01}, Method{"{preset: smoothquant}", 0.05},
                    Method{"{preset: smoothquant, transform: {alpha: 0.7}}", 0.05}, Method{"{preset: smoothquant+gptq}", 0.05}, Method{"{preset: zeroquant}", 0.05},
                    Method{"{preset: fp8}", 0.15}, Method{"{preset: fp8, grid: {granularity: block, group_size: 64}}", 0.15},
                    Method{"{preset: fp8, activation: {granularity: tensor, dynamic: false}}", 0.15},
                    Method{"{preset: rtn, grid: {bits: 8}, activation: {bits: 8, granularity: tensor, dynamic: false, symmetric: false}}", 0.08},
                    Method{"{preset: rtn, grid: {bits: 8, group_size: 32}, activation: {bits: 8, granularity: group, group_size: 32}}", 0.05},
                    Method{"{preset: spqr, grid: {bits: 8}}", 0.08}, Method{"{preset: quip, grid: {bits: 8}}", 0.05},
                    Method{"{preset: quip, transform: {orthogonal: hadamard}, grid: {bits: 8}}", 0.05}, Method{"{preset: quip, transform: {rescale: true}, grid: {bits: 8}}", 0.05},
                    Method{"{preset: quip+gptq, grid: {bits: 8, group_size: 32}}", 0.01}, Method{"{preset: quip+fp8}", 0.15},
                    Method{"{preset: hqq, grid: {bits: 8}}", 0.02}, Method{"{preset: rtn, rounding: {kind: stochastic}, grid: {bits: 8, group_size: 32}}", 0.02}, Method{"{preset: awq+hqq, grid: {bits: 8}}", 0.02}, Method{"{preset: awq+spqr, grid: {bits: 8}}", 0.08},
                    Method{"{preset: quarot+rtn, grid: {bits: 8, group_size: 32}}", 0.01}, Method{"{preset: quarot+gptq, grid: {bits: 8, group_size: 32}, transform: {online: true}}", 0.01},
                    Method{"{preset: rtn, range: percentile, grid: {bits: 8, group_size: 32}}", 0.02}, Method{"{preset: fp8+gptq}", 0.15}));

// Attention SpQR, MLP AWQ + GPTQ, first and last block int8 RTN: written, read back, the same logits.
TEST(Mixed, ThreeMethodsReloadAsTheyWere) {
  const test::TempFolder folder;
  JobConfig config = read(R"(
recipe:
  preset: awq+gptq
  grid: {bits: 4, group_size: 32}
  rules:
    - {match: 'model\.layers\.(0|3)\..*', preset: rtn, grid: {bits: 8, granularity: channel}}
    - {match: '.*self_attn.*', preset: spqr, grid: {bits: 3, group_size: 16}}
calibration: {seqlen: 64, samples: 8, dataset: )" + (folder.path() / "text.txt").string() + R"(}
export: {format: dequantized}
evaluation: {baseline: false, perplexity: [{corpus: )" + (folder.path() / "text.txt").string() + R"(, seqlen: 64}]}
)");
  std::string text;
  for (int i = 0; i < 900; ++i) text += "word " + std::to_string(i * 7919 % 1000) + (i % 9 == 0 ? ".\n" : " ");
  std::ofstream(folder.path() / "text.txt") << text;
  config.model.path = kTiny;
  config.output = (folder.path() / "run").string();
  const nlohmann::ordered_json done = run_job(config, JobMode::run, {.overwrite = true});
  std::set<std::string> presets;
  for (const auto& layer : done.at("quantization").at("layers")) presets.insert(layer.at("preset"));
  EXPECT_EQ(presets, (std::set<std::string>{"rtn", "spqr", "awq+gptq"}));
  JobConfig again = config;
  again.model.path = (folder.path() / "run" / "model").string();
  again.output.clear();
  const nlohmann::ordered_json reloaded = run_job(again, JobMode::evaluate, {.overwrite = true});
  const double in_memory = done.at("perplexity")[0].at("value"), from_disk = reloaded.at("perplexity")[0].at("value");
  EXPECT_NEAR(from_disk / in_memory, 1, 3e-3);  // the checkpoint is bfloat16
}

TEST(Rotation, ExportUntiesTheHead) {
  const test::TempFolder folder;
  JobConfig config = read("recipe: {preset: quarot+rtn, grid: {bits: 8, group_size: 32}}\nexport: {}\n");
  config.model.path = kTiny;
  config.output = folder.path().string();
  run_job(config, JobMode::quantize, {.overwrite = true});
  const c10::InferenceMode inference;
  model::LanguageModel model = model::LanguageModel::open(folder.path() / "model", "auto", at::kFloat, at::kCPU);
  EXPECT_FALSE(model.architecture().tie_word_embeddings);
  model.hold_blocks();
  EXPECT_LT(error_of(model.forward(ids().flip({0, 1}))), 0.02);
}

TEST(Folding, DivisorsAreRepresentableAndTied) {
  at::manual_seed(1);
  const at::Tensor norm = at::rand({64}).add(0.5).to(at::kBFloat16).to(at::kFloat), wanted = at::rand({64}).mul(8).add(0.01);
  const at::Tensor divisor = representable_divisor(wanted, norm, at::kBFloat16);
  EXPECT_TRUE(at::allclose((norm / divisor).to(at::kBFloat16).to(at::kFloat), norm / divisor, 1e-6, 0));
  EXPECT_LT(((divisor - wanted) / wanted).abs().max().item<double>(), 0.01);
  const at::Tensor huge = representable_divisor(at::full({1}, 1e-9), at::ones({1}), at::kHalf);  // norm / d overflows
  EXPECT_EQ(huge.item<float>(), 1);
  model::Architecture a;
  a.num_heads = 4;
  a.num_kv_heads = 2;
  a.head_dim = 8;
  const at::Tensor tied = tie_over_heads(at::rand({32}).add(0.1), a);
  EXPECT_TRUE(at::equal(tied.view({2, 2, 8}).select(1, 0), tied.view({2, 2, 8}).select(1, 1)));
  EXPECT_TRUE(at::equal(rows_of_v(tied, a), tied.view({2, 2, 8}).select(1, 0).flatten()));
}

TEST(Allocation, EqualsBruteForce) {
  at::manual_seed(3);
  const std::vector<int> bits = {2, 3, 4, 8};
  for (int round = 0; round < 20; ++round) {
    std::vector<AllocationItem> items;
    double weights = 0;
    for (int i = 0; i < 5; ++i) {
      AllocationItem item{64 * (1 + at::randint(4, {1}).item<std::int64_t>()), {}};
      const double scale = at::rand({1}).item<double>();
      for (const int b : bits) item.errors.push_back(scale * std::pow(0.3, b));
      items.push_back(item);
      weights += static_cast<double>(item.weights);
    }
    const double budget = 3.3 * weights;
    double best = 1e9;
    for (int code = 0; code < 1024; ++code) {
      double error = 0, cost = 0;
      for (int i = 0, c = code; i < 5; ++i, c /= 4) {
        error += items[static_cast<size_t>(i)].errors[static_cast<size_t>(c % 4)];
        cost += static_cast<double>(items[static_cast<size_t>(i)].weights) * bits[static_cast<size_t>(c % 4)];
      }
      if (cost <= budget) best = std::min(best, error);
    }
    const std::vector<int> chosen = allocate_bits(items, bits, budget);
    double error = 0, cost = 0;
    for (size_t i = 0; i < items.size(); ++i) {
      error += items[i].errors[static_cast<size_t>(chosen[i])];
      cost += static_cast<double>(items[i].weights) * bits[static_cast<size_t>(chosen[i])];
    }
    EXPECT_LE(cost, budget);
    EXPECT_NEAR(error, best, 1e-12);
  }
  EXPECT_THROW(allocate_bits({{100, {1, 1, 1, 1}}}, bits, 150), Error);
}

TEST(Allocation, KeepsItsBudgetInAJob) {
  const test::TempFolder folder;
  std::string text;
  for (int i = 0; i < 900; ++i) text += "letter " + std::to_string(i * 31 % 997) + " ";
  std::ofstream(folder.path() / "text.txt") << text;
  JobConfig config = read("recipe: {preset: gptq, grid: {group_size: 32}, allocate: {bits: 3.5}}\ncalibration: {seqlen: 64, samples: 4, dataset: " + (folder.path() / "text.txt").string() + "}");
  config.model.path = kTiny;
  const nlohmann::ordered_json done = run_job(config, JobMode::quantize, {.overwrite = true});
  double bits = 0, weights = 0;
  std::set<int> used;
  for (const auto& layer : done.at("quantization").at("layers")) used.insert(layer.at("bits").get<int>());
  EXPECT_GT(used.size(), 1u);
  model::LanguageModel model = open_tiny();
  for (const PlannedLinear& planned : make_plan(model, config.recipe))
    for (const auto& layer : done.at("quantization").at("layers"))
      if (layer.at("name") == planned.name) {
        const auto count = static_cast<double>(planned.out_features * planned.in_features);
        bits += count * layer.at("bits").get<double>();
        weights += count;
      }
  EXPECT_LE(bits / weights, 3.5 + 1e-9);
  EXPECT_GT(bits / weights, 3.3);
}

TEST(Distillation, LowersTheBlocksError) {
  const c10::InferenceMode inference;
  model::LanguageModel model = open_tiny();
  const JobConfig config = read("recipe: {preset: zeroquant, grid: {bits: 3, group_size: 32}}");
  model::Block block = model.load_block(1, true);
  std::vector<TrainedLinear> linears;
  for (const model::Linear* linear : block.linears()) linears.push_back({linear, linear->weight_OI, &config.recipe.otherwise});
  const at::Tensor hidden = model.embed(ids());
  quantizer::Distillation options;
  options.steps = 40;
  options.learning_rate = 1e-3;
  options.batch = 2;
  const DistillResult done = distill_block(block, model.architecture(), linears, {hidden}, model.rope(48), options);
  EXPECT_LT(done.loss_after, 0.9 * done.loss_before);
  // Untrained and unrounded, its forward pass is the model's.
  for (TrainedLinear& entry : linears) entry.recipe = nullptr;
  options.steps = 0;
  EXPECT_LT(distill_block(block, model.architecture(), linears, {hidden}, model.rope(48), options).loss_before, 1e-12);
}

TEST(Strict, AnEventIsAFailure) {
  const c10::InferenceMode inference;
  model::LanguageModel model = open_tiny();
  JobConfig config = read("recipe: {preset: gptq, grid: {group_size: 32}}");
  const std::vector<PlannedLinear> plan = make_plan(model, config.recipe);
  PipelineOptions options;
  options.calibration_ids = {ids().narrow(0, 0, 1).narrow(1, 0, 16)};  // fewer tokens than inputs
  PipelineResult done = run_pipeline(model, plan, options);
  ASSERT_FALSE(done.layers.front().events.empty());
  EXPECT_EQ(done.layers.front().events.front().code, "starved_hessian");
  options.strict = true;
  try {
    run_pipeline(model, plan, options);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::numeric);
    EXPECT_THAT(error.what(), HasSubstr("starved_hessian"));
    EXPECT_THAT(error.where(), HasSubstr("model.layers.0.self_attn"));
  }
}

TEST(Plan, NamesPlacesAndConflicts) {
  JobConfig config = read(R"(
recipe: {preset: awq, grid: {group_size: 48}, rules: [{match: '.*layers.1.self_attn.k_proj', grid: {bits: 8}}, {match: '.*layers.2.self_attn.v_proj', preset: quip},
                                                    {match: lm_head, keep: float}]})");
  config.model.path = kTiny;
  const nlohmann::ordered_json plan = describe_plan(config);
  std::map<std::string, std::string> places;
  for (const auto& layer : plan.at("layers")) places[layer.at("name")] = layer.at("transform");
  EXPECT_EQ(places["model.layers.0.self_attn.q_proj"], "folded into input_layernorm");
  EXPECT_EQ(places["model.layers.0.self_attn.o_proj"], "folded into self_attn.v_proj");
  EXPECT_EQ(places["model.layers.0.mlp.down_proj"], "folded into mlp.up_proj");
  EXPECT_EQ(places["model.layers.2.self_attn.q_proj"], "online");  // v has another transform
  EXPECT_EQ(places["model.layers.2.self_attn.o_proj"], "online");
  std::map<std::string, int> kinds;
  for (const auto& conflict : plan.at("conflicts")) ++kinds[conflict.at("kind")];
  EXPECT_TRUE(kinds.count("ragged_group"));  // 48 in 128
  EXPECT_TRUE(kinds.count("split_group"));
  EXPECT_TRUE(kinds.count("tied_head"));
  EXPECT_THAT(format_plan(plan), HasSubstr("conflicts"));
  config = read("recipe: {preset: gptq, grid: {group_size: 64}}");
  config.model.path = kTiny;
  bool tensor_parallel = false;
  const nlohmann::ordered_json grouped = describe_plan(config);
  for (const auto& conflict : grouped.at("conflicts")) tensor_parallel = tensor_parallel || conflict.at("kind") == "tensor_parallel";
  EXPECT_TRUE(tensor_parallel);  // 128 inputs over 4 ranks
}

}  // namespace
}  // namespace miq::executor
