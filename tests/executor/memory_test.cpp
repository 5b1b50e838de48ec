// A memory budget changes where things lie, never what is computed.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "../../src/executor/cost.h"
#include "miq/core/error.h"
#include "miq/executor/job.h"
#include "miq/executor/pipeline.h"
#include "miq/model/generate.h"
#include "support/golden.h"
#include "support/tiny_models.h"

namespace miq::executor {
namespace {

using testing::HasSubstr;

JobConfig read(const std::string& yaml) { return read_job_config(ConfigSource::from_text(yaml, "test.yaml")); }

class MemoryBudget : public testing::TestWithParam<std::string> {
 protected:
  MemoryBudget() { test::write_tiny_model(folder_.path(), test::tiny_configs().at(GetParam())); }
  model::LanguageModel open(std::int64_t budget, at::ScalarType dtype = at::kFloat) const {
    model::LanguageModel model = model::LanguageModel::open(folder_.path(), "auto", dtype, at::kCPU);
    model.set_memory_budget(budget);
    return model;
  }
  test::TempFolder folder_;
};

TEST_P(MemoryBudget, StreamedWeightsComputeTheSame) {
  const c10::InferenceMode inference;
  at::manual_seed(3);
  const at::Tensor ids = at::randint(96, {2, 17}, at::kLong);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {  // the checkpoint is float32: bfloat16 is converted
    model::LanguageModel held = open(0, dtype), streamed = open(1, dtype);
    held.hold_blocks_if_they_fit();
    streamed.hold_blocks_if_they_fit();
    EXPECT_FALSE(held.blocks().empty());
    if (dtype == at::kBFloat16) {
      EXPECT_TRUE(streamed.blocks().empty());
    }
    EXPECT_TRUE(at::allclose(streamed.forward(ids), held.forward(ids), 1e-5, 1e-5));
    const std::vector<std::int64_t> prompt = {1, 5, 9, 2, 7};
    model::GenerateOptions options;
    options.max_new_tokens = 6;
    options.stop_at_eos = false;
    EXPECT_EQ(model::generate(streamed, prompt, options), model::generate(held, prompt, options));
  }
}

TEST_P(MemoryBudget, HiddenStatesOnDiskGiveTheSameCodes) {
  const c10::InferenceMode inference;
  at::manual_seed(4);
  const at::Tensor ids = at::randint(96, {6, 24}, at::kLong);
  for (const char* order : {"stage", "block"}) {
    std::vector<std::map<std::string, at::Tensor>> codes;
    for (const char* offload : {"none", "disk", "cpu"}) {
      model::LanguageModel model = open(0);
      const JobConfig config = read(std::string("recipe: {preset: gptq, grid: {bits: 3, group_size: 32}}\npipeline: {order: ") + order + ", offload: " + offload + "}");
      const std::vector<PlannedLinear> plan = make_plan(model, config.recipe);
      PipelineOptions options;
      options.calibration_ids = {ids};
      options.config = config.pipeline;
      options.folder = folder_.path();
      codes.emplace_back();
      options.on_linears = [&](const std::vector<format::NamedLinear>& fused) {
        for (const auto& [name, linear] : fused) codes.back()[name] = linear->codes_OI;
      };
      run_pipeline(model, plan, options);
    }
    for (size_t i = 1; i < codes.size(); ++i) {
      ASSERT_EQ(codes[i].size(), codes[0].size());
      for (const auto& [name, tensor] : codes[0]) EXPECT_TRUE(tensor.equal(codes[i].at(name))) << name;
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path()))
    EXPECT_EQ(entry.path().filename().string().rfind(".miq-hidden", 0), std::string::npos) << "left behind: " << entry.path();
}

INSTANTIATE_TEST_SUITE_P(Families, MemoryBudget, testing::Values("llama", "mixtral", "baichuan_alibi", "chatglm"), [](const auto& info) { return info.param; });

TEST(MemoryOfAJob, WhatCannotBeKeptIsRefused) {
  const test::TempFolder folder;
  test::write_tiny_model(folder.path(), test::tiny_configs().at("llama"));
  save_safetensors(folder.path() / "ids.st", {{"ids", at::zeros({4, 32}, at::kLong)}});
  JobConfig config = read("recipe: {preset: gptq, grid: {group_size: 32}}\npipeline: {memory: 16MiB}\ncalibration: {ids: " + (folder.path() / "ids.st").string() + "}");
  config.model.path = folder.path().string();
  try {
    run_job(config, JobMode::quantize, {.overwrite = true});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    EXPECT_EQ(error.where(), "pipeline.memory");
    EXPECT_THAT(error.what(), HasSubstr("16.0 MiB"));
  }
  config.pipeline.memory = std::int64_t{1} << 30;
  const nlohmann::ordered_json done = run_job(config, JobMode::quantize, {.overwrite = true});
  EXPECT_GT(done.at("quantization").at("peak_anonymous_bytes").get<std::int64_t>(), 0);
}

TEST(MemoryOfAJob, GrowsWithWhatItDependsOn) {
  const test::TempFolder folder;
  test::write_tiny_model(folder.path(), test::tiny_configs().at("llama"));
  const model::LanguageModel model = model::LanguageModel::open(folder.path(), "auto", at::kFloat, at::kCPU);
  const JobConfig config = read("recipe: {preset: gptq, grid: {group_size: 32}}");
  const auto plan = make_plan(model, config.recipe);
  PipelineConfig pipeline;
  const Memory few = expected_memory(model, plan, pipeline, 2, 1000), many = expected_memory(model, plan, pipeline, 2, 10000);
  EXPECT_EQ(many.hidden, 10 * few.hidden);
  EXPECT_EQ(few.statistics, 96 * 96 * 4);  // the widest input is down's
  pipeline.offload = Offload::disk;
  EXPECT_EQ(expected_memory(model, plan, pipeline, 2, 10000).hidden, 0);
  const JobConfig plain = read("recipe: {preset: rtn}");
  EXPECT_EQ(expected_memory(model, make_plan(model, plain.recipe), pipeline, 2, 0).statistics, 0);
}

}  // namespace
}  // namespace miq::executor
