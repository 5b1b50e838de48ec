// The main job on a real model, SmolLM2-135M ($MIQ_SMOLLM2), against figures of the peers on the same
// calibration ids (golden/smollm2/README.md).
#include <gtest/gtest.h>


#include "miq/executor/job.h"
#include "support/golden.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;

class GoldenSmolLm2 : public testing::Test {
 protected:
  void SetUp() override {
    MIQ_REQUIRE_GOLDEN("smollm2/calib_32x512.safetensors");
    MIQ_REQUIRE_SMOLLM2();
  }

  // The perplexity of the first five windows of WikiText-2 test after `settings`; mode eval without.
  static double perplexity(const std::vector<std::string>& settings, JobMode mode, const std::string& dtype = "float32") {
    ConfigSource source = ConfigSource::from_text("evaluation: {perplexity: [{corpus: wikitext2, split: test, windows: 5}], baseline: false}", "test");
    source.set("model.path=" + test::smollm2_dir().string());
    source.set("model.dtype=" + dtype);
    source.set("data_dir=" + (test::golden_dir() / ".." / "data").string());
    source.set("calibration.ids=" + (test::golden_dir() / "smollm2" / "calib_32x512.safetensors").string());
    for (const std::string& setting : settings) source.set(setting);
    return run_job(read_job_config(source), mode, {.overwrite = true})["perplexity"][0]["value"].get<double>();
  }
};

TEST_F(GoldenSmolLm2, PerplexityIsThatOfTransformers) {
  EXPECT_NEAR(perplexity({}, JobMode::evaluate), 23.706, 23.706 * 2e-4);
  EXPECT_NEAR(perplexity({}, JobMode::evaluate, "bfloat16"), 23.706, 23.706 * 3e-3);
}

TEST_F(GoldenSmolLm2, RtnIsThatOfThePeers) {
  EXPECT_NEAR(perplexity({"recipe.preset=rtn", "recipe.grid={bits: 3, group_size: 64}"}, JobMode::run), 82.44, 82.44 * 5e-3);
  EXPECT_NEAR(perplexity({"recipe.preset=rtn", "recipe.grid={bits: 4, group_size: 64, symmetric: true}"}, JobMode::run), 33.945, 33.945 * 5e-3);
}

TEST_F(GoldenSmolLm2, GptqIsNoWorseThanThePeers) {
  EXPECT_LT(perplexity({"recipe.preset=gptq", "recipe.grid={bits: 3, group_size: 64}"}, JobMode::run), 64.371 * 1.005);
  EXPECT_LT(perplexity({"recipe.preset=gptq", "recipe.grid={bits: 4, group_size: 64, symmetric: true}"}, JobMode::run), 32.782 * 1.005);
}

}  // namespace
}  // namespace miq::executor
