// The whole way of a job on a device: codes as on the CPU, whatever memory there is and however many devices. On the emulated device
// (MIQ_TEST_DEVICE=emulated) whatever mixes devices, touches device memory from the host or forgets to wait fails; on a GPU these run, too.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "../../src/executor/block_journal.h"
#include "../../src/executor/cost.h"
#include "miq/core/device.h"
#include "miq/core/device_memory.h"
#include "miq/core/error.h"
#include "miq/evaluator/perplexity.h"
#include "miq/evaluator/scorer.h"
#include "miq/executor/job.h"
#include "miq/executor/open_model.h"
#include "miq/executor/pipeline.h"
#include "support/emulated_device.h"
#include "support/golden.h"
#include "support/test_device.h"
#include "support/tiny_models.h"

namespace miq::executor {
namespace {

using testing::HasSubstr;
namespace emulated = test::emulated;
using Codes = std::map<std::string, at::Tensor>;

JobConfig read(const std::string& yaml) { return read_job_config(ConfigSource::from_text(yaml, "test.yaml")); }

bool is_emulated() { return test::device().type() == c10::DeviceType::PrivateUse1; }

class OnDevice : public testing::TestWithParam<std::string> {
 protected:
  explicit OnDevice(const std::string& family = {}) : family_(family.empty() ? GetParam() : family) {
    test::write_tiny_model(folder_.path(), test::tiny_configs().at(family_));
    at::manual_seed(5);
    ids_ = at::randint(96, {6, 24}, at::kLong);
  }
  void SetUp() override {
    if (test::device().is_cpu()) GTEST_SKIP() << "MIQ_TEST_DEVICE is cpu";
  }
  model::LanguageModel open(const at::Device& device, model::Weights weights = {}) const {
    return model::LanguageModel::open(folder_.path(), "auto", at::kFloat, device, std::move(weights));
  }
  // Runs a recipe; what the callbacks of `options` see, they see. Codes and, of the last block, its first norm.
  Codes quantize(model::LanguageModel& model, const std::string& yaml, PipelineOptions options = {}) const {
    const c10::InferenceMode inference;
    const JobConfig config = read(yaml);
    const std::vector<PlannedLinear> plan = make_plan(model, config.recipe);
    options.calibration_ids = {ids_};
    options.config = config.pipeline;
    options.folder = folder_.path();
    const quantizer::Transform& transform = config.recipe.otherwise.transform;
    if (transform.kind == quantizer::TransformKind::rotation) options.rotation = transform;
    options.distillation = config.recipe.distillation;
    Codes codes;
    const auto also = options.on_linears;
    options.on_linears = [&](const std::vector<format::NamedLinear>& fused) {
      for (const auto& [name, linear] : fused) {
        EXPECT_EQ(linear->codes_OI.device(), model.device()) << name;
        codes[name] = linear->codes_OI.cpu();
      }
      if (also) also(fused);
    };
    run_pipeline(model, plan, options);
    return codes;
  }
  Codes quantize(const at::Device& device, const std::string& yaml, PipelineOptions options = {}) const {
    model::LanguageModel model = open(device);
    return quantize(model, yaml, std::move(options));
  }
  static void expect_same(const Codes& a, const Codes& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, codes] : a) EXPECT_TRUE(codes.equal(b.at(name))) << name << ": " << codes.ne(b.at(name)).sum().item<std::int64_t>() << " differ";
  }
  // Sums in another order move a code where a weight lies between two, and what error feedback makes of that.
  static void expect_nearly_same(const Codes& a, const Codes& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, codes] : a) EXPECT_GT(codes.eq(b.at(name)).to(at::kDouble).mean().item<double>(), 0.97) << name;
  }

  std::string family_;
  test::TempFolder folder_;
  at::Tensor ids_;
};

class DevicePipeline : public OnDevice {};

TEST_P(DevicePipeline, FindsTheCodesOfTheCpu) {
  const std::string rtn = "recipe: {preset: rtn, grid: {bits: 4, group_size: 32}}";
  expect_same(quantize(test::device(), rtn), quantize(at::kCPU, rtn));
  for (const char* recipe : {"preset: gptq, grid: {bits: 3, group_size: 32}", "preset: smoothquant", "preset: quip, grid: {bits: 4}", "preset: hqq, grid: {bits: 4, group_size: 32}"}) {
    SCOPED_TRACE(recipe);
    const std::string yaml = std::string("recipe: {") + recipe + "}";
    expect_nearly_same(quantize(test::device(), yaml), quantize(at::kCPU, yaml));
  }
  // AWQ takes the best of candidates that are nearly alike here, SpQR the outliers above a threshold: the last bit of a sum may decide, and other
  // codes are as good.
  const auto error = [&](const at::Device& device, const char* recipe) {
    double sum = 0;
    PipelineOptions options;
    options.on_linears = [&](const std::vector<format::NamedLinear>& fused) {
      for (const auto& [name, linear] : fused) sum += linear->relative_error;
    };
    quantize(device, recipe, options);
    return sum;
  };
  for (const char* recipe : {"recipe: {preset: awq, grid: {bits: 4, group_size: 32}}", "recipe: {preset: spqr, grid: {bits: 3, group_size: 16}}"})
    EXPECT_NEAR(error(test::device(), recipe) / error(at::kCPU, recipe), 1, 0.02) << recipe;
}

class DeviceVariants : public DevicePipeline {};

TEST_P(DeviceVariants, HiddenStatesMayRestAnywhere) {
  for (const char* order : {"order: stage, propagate: quantized", "order: stage, propagate: float", "order: block, propagate: quantized", "order: block, propagate: float"}) {
    SCOPED_TRACE(order);
    const auto yaml = [&](const char* offload) { return std::string("recipe: {preset: gptq, grid: {bits: 3, group_size: 32}}\npipeline: {") + order + ", offload: " + offload + "}"; };
    const Codes there = quantize(test::device(), yaml("none"));
    for (const char* offload : {"cpu", "disk"}) expect_same(quantize(test::device(), yaml(offload)), there);
  }
}

TEST_P(DevicePipeline, AFinishedBlockIsRestoredThere) {
  const std::string yaml = "recipe: {preset: awq, grid: {bits: 4, group_size: 32}}";
  const BlockJournal journal(folder_.path() / "blocks");
  PipelineOptions options;
  options.journal = &journal;
  const Codes first = quantize(test::device(), yaml, options);
  std::filesystem::remove(folder_.path() / "blocks" / "block-1.safetensors");
  expect_same(quantize(test::device(), yaml, options), first);
}

TEST_P(DeviceVariants, SeveralDevicesFindTheSame) {
  if (gpu_count() < 2) GTEST_SKIP() << "there is one device";
  PipelineOptions both;
  both.solve_on = parse_devices("cuda");
  ASSERT_GE(both.solve_on.size(), 2u);
  for (const char* recipe : {"preset: gptq, grid: {bits: 3, group_size: 32}", "preset: awq, grid: {bits: 4, group_size: 32}", "preset: quip, grid: {bits: 4}"}) {
    SCOPED_TRACE(recipe);
    const std::string yaml = std::string("recipe: {") + recipe + "}";
    const Codes one = quantize(test::device(), yaml);
    reset_peak_device_bytes(both.solve_on[1]);
    expect_same(quantize(test::device(), yaml, both), one);
    if (GetParam() != "chatglm") {  // each of its stages is a single linear
      EXPECT_GT(peak_device_bytes(both.solve_on[1]), 0) << "the second device had nothing to do";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, DeviceVariants, testing::Values("llama", "mixtral"), [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Families, DevicePipeline, testing::Values("llama", "mixtral", "qwen2", "baichuan_alibi", "chatglm"), [](const auto& info) { return info.param; });

class DeviceMemoryEnds : public OnDevice {
 protected:
  DeviceMemoryEnds() : OnDevice("llama") {}
  void SetUp() override {
    if (!is_emulated()) GTEST_SKIP() << "the memory of a real device does not end when a test wants it";
  }
  // The number of tokens that each linear's Hessian has seen, and its trace; with a limit, when block 0 is done, of so many bytes more (or less)
  // than are in use then.
  std::map<std::string, std::pair<std::int64_t, double>> survey(std::optional<std::int64_t> room) const {
    const c10::InferenceMode inference;
    model::LanguageModel model = open(test::device());
    const JobConfig config = read("recipe: {preset: gptq, grid: {bits: 3, group_size: 32}}");
    const std::vector<PlannedLinear> plan = make_plan(model, config.recipe);
    PipelineOptions options;
    options.calibration_ids = {ids_};
    options.config = config.pipeline;
    std::map<std::string, std::pair<std::int64_t, double>> seen;
    std::unique_ptr<emulated::Limit> limit;
    options.survey = [&](const PlannedLinear& planned, const at::Tensor&, quantizer::StageHessian& hessian) {
      seen[planned.name] = {hessian.num_tokens(), hessian.matrix().trace().item<double>()};
      if (planned.name.find("down") != std::string::npos && !limit && room) limit = std::make_unique<emulated::Limit>(emulated::device_memory().now + *room);
    };
    run_pipeline(model, plan, options);
    return seen;
  }
};

// With less and less memory: at first all goes through at once, then in parts, in the end there is an error that says what to do.
TEST_F(DeviceMemoryEnds, MicrobatchesAreHalvedAndNothingIsCountedTwice) {
  const auto expected = survey(std::nullopt);
  int halved = 0, refused = 0;
  for (std::int64_t room = 600 << 10; room > -(160 << 10); room -= 16 << 10) {
    SCOPED_TRACE(room);
    const std::int64_t before = emulated::counts().out_of_memory;
    try {
      const auto seen = survey(room);
      halved += emulated::counts().out_of_memory > before;
      ASSERT_EQ(seen.size(), expected.size());
      for (const auto& [name, own] : expected) {
        EXPECT_EQ(seen.at(name).first, own.first) << name;
        EXPECT_NEAR(seen.at(name).second / own.second, 1, 1e-5) << name;
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::unsupported);
      EXPECT_THAT(error.what(), HasSubstr("has no room for"));
      EXPECT_THAT(error.what(), HasSubstr("lower calibration.seqlen"));
      ++refused;
    } catch (const c10::OutOfMemoryError&) {  // not in the pass: the block itself, or its solving
      ++refused;
    }
  }
  EXPECT_GT(halved, 0);
  EXPECT_GT(refused, 0);
}

TEST_F(DeviceMemoryEnds, EvaluationGoesOnInParts) {
  const c10::InferenceMode inference;
  model::LanguageModel model = open(test::device());
  model.hold_blocks();
  const at::Tensor ids = at::randint(96, {1200}, at::kLong);
  evaluator::PerplexityConfig config;
  config.seqlen = 64;
  const double expected = evaluator::perplexity(model, ids, config).value;
  std::vector<evaluator::ScoreRequest> requests;
  for (std::int64_t r = 0; r < 12; ++r) {
    const at::Tensor part = ids.narrow(0, 80 * r, 80);
    requests.push_back({{part.const_data_ptr<std::int64_t>(), part.const_data_ptr<std::int64_t>() + 80}, 20});
  }
  const std::vector<evaluator::Score> scores = evaluator::loglikelihoods(model, requests, {});
  int in_parts = 0, refused = 0;
  for (std::int64_t room = std::int64_t{4} << 20; room > 1 << 14; room = room * 3 / 4) {
    SCOPED_TRACE(room);
    const std::int64_t before = emulated::counts().out_of_memory;
    try {
      evaluator::ScoreOptions options;
      options.batch_tokens = 4096;  // does not ask how much memory there is
      const emulated::Limit limit(emulated::device_memory().now + room);
      EXPECT_NEAR(evaluator::perplexity(model, ids, config).value / expected, 1, 1e-5);
      const std::vector<evaluator::Score> again = evaluator::loglikelihoods(model, requests, options);
      for (size_t r = 0; r < requests.size(); ++r) EXPECT_NEAR(again[r].loglikelihood, scores[r].loglikelihood, 1e-3);
      in_parts += emulated::counts().out_of_memory > before;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("has no room for"));
      ++refused;
    } catch (const c10::OutOfMemoryError&) {  // of the ends: embedding or logits
      ++refused;
    }
  }
  EXPECT_GT(in_parts, 0);
  EXPECT_GT(refused, 0);
}

TEST_F(DeviceMemoryEnds, HiddenStatesGoWhereThereIsRoom) {
  const model::LanguageModel model = open(test::device());
  const JobConfig config = read("recipe: {preset: gptq, grid: {bits: 3, group_size: 32}}");
  const std::vector<PlannedLinear> plan = make_plan(model, config.recipe);
  const auto place = [&](std::int64_t tokens, std::int64_t budget) {
    PipelineConfig pipeline = config.pipeline;
    pipeline.memory = budget;
    return expected_memory(model, plan, pipeline, 4, tokens);
  };
  const emulated::Limit limit(std::int64_t{16} << 20);
  EXPECT_EQ(place(1000, 0).offload, Offload::none);
  EXPECT_EQ(place(100000, 0).offload, Offload::cpu);
  EXPECT_EQ(place(100000, std::int64_t{100} << 20).offload, Offload::disk);
  EXPECT_EQ(place(100000, std::int64_t{100} << 20).hidden, 0);
  EXPECT_LT(place(1000, 0).device_total(), std::int64_t{16} << 20);
}

class DeviceReadAhead : public OnDevice {
 protected:
  DeviceReadAhead() : OnDevice("mixtral") {}
};

// A checkpoint whose second block cannot be read.
struct Damaged : TensorSource {
  explicit Damaged(std::shared_ptr<TensorSource> whole) : whole_(std::move(whole)) {}
  std::vector<TensorSpec> specs() const override { return whole_->specs(); }
  bool has(const std::string& name) const override { return whole_->has(name); }
  at::Tensor tensor(const std::string& name) const override {
    if (name.find("layers.1.self_attn.o_proj") != std::string::npos) throw Error(ErrorKind::io, "the file ends early", name, "load it anew");
    return whole_->tensor(name);
  }
  std::int64_t bytes() const override { return whole_->bytes(); }
  std::shared_ptr<TensorSource> whole_;
};

TEST_F(DeviceReadAhead, TellsOfADamagedFileAsReadingItDoes) {
  model::LanguageModel model = open(test::device(), {std::make_shared<Damaged>(model::open_tensors(folder_.path())), nullptr});
  try {
    quantize(model, "recipe: {preset: rtn, grid: {group_size: 32}}");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_EQ(error.message(), "the file ends early");
    EXPECT_EQ(error.fix(), "load it anew");
  }
}

TEST_F(DeviceReadAhead, BringsOneBlockAheadAndNoMore) {
  const c10::InferenceMode inference;
  model::LanguageModel model = open(test::device());
  const at::Tensor expected = open(at::kCPU).forward(ids_);
  std::int64_t block_bytes = 0;
  for (const TensorSpec& spec : model.source().specs())
    if (spec.name.find("layers.1.") != std::string::npos) block_bytes += c10::multiply_integers(spec.shape) * 4 + 512;
  const std::int64_t copies = emulated::counts().queued_copies, recorded = emulated::counts().recorded_streams;
  emulated::reset_peaks();
  EXPECT_LT(test::relative_difference(model.forward(ids_), expected), 1e-5);
  if (!is_emulated()) return;
  EXPECT_GT(emulated::counts().queued_copies, copies);
  EXPECT_GT(emulated::counts().recorded_streams, recorded);
  EXPECT_GT(emulated::pinned_memory().peak, 0);
  EXPECT_LE(emulated::pinned_memory().peak, block_bytes);
  const std::int64_t before = emulated::device_memory().now;
  emulated::reset_peaks();
  model.for_each_block([](model::Block&) {});
  EXPECT_LE(emulated::device_memory().peak - before, 2 * block_bytes);
}

class DeviceJob : public OnDevice {
 protected:
  DeviceJob() : OnDevice("llama") {}
};

TEST_F(DeviceJob, IsToldAsOneOfTheCpuIs) {
  save_safetensors(folder_.path() / "ids.st", {{"ids", ids_}});
  const auto run = [&](const std::string& device, const std::string& format, const std::string& rest) {
    JobConfig config = read("device: " + device + "\nrecipe: {preset: gptq, grid: {bits: 4, group_size: 32}}\nexport: {format: " + format + "}\ncalibration: {dtype: float32, ids: " + (folder_.path() / "ids.st").string() + "}\n" + rest);
    config.model.path = folder_.path().string();
    config.output = (folder_.path() / ("run-" + device)).string();
    return run_job(config, JobMode::quantize, {.overwrite = true});
  };
  const nlohmann::ordered_json there = run("cuda", "gptq, variant: v2", "pipeline: {tf32: true}"), here = run("cpu", "gptq, variant: v2", "");
  EXPECT_GT(there.at("quantization").at("peak_device_bytes").get<std::int64_t>(), 0);
  EXPECT_FALSE(here.at("quantization").contains("peak_device_bytes"));
  EXPECT_NEAR(there.at("quantization").at("bits_per_weight").get<double>(), here.at("quantization").at("bits_per_weight").get<double>(), 1e-9);
  for (size_t i = 0; i < here.at("quantization").at("layers").size(); ++i)
    EXPECT_NEAR(there.at("quantization").at("layers")[i].at("relative_error").get<double>(), here.at("quantization").at("layers")[i].at("relative_error").get<double>(), 2e-3);
  // What was exported is the same model, but for a code here and there.
  const c10::InferenceMode inference;
  const auto logits = [&](const char* run) { return open_model((folder_.path() / run / "model").string(), "auto", at::kCPU).forward(ids_); };
  const at::Tensor expected = logits("run-cpu");
  for (const char* format : {"gptq, variant: v2", "awq", "compressed-tensors", "miq", "dequantized"}) {
    SCOPED_TRACE(format);
    run("cuda", format, "");
    EXPECT_LT((logits("run-cuda") - expected).norm().item<double>() / expected.norm().item<double>(), 0.1);
  }
}

}  // namespace
}  // namespace miq::executor
