// The decoder against reference results of every family (golden/models/README.md), in float32.
#include <fstream>
#include <iostream>

#include "miq/model/generate.h"
#include "support.h"

namespace miq::model::test {
namespace {
namespace fs = std::filesystem;

const std::string kSmol = "smollm2-135m";  // its weights lie elsewhere; tested below
constexpr double kTolerance = 1e-4;        // of the largest magnitude

fs::path models_dir() { return miq::test::golden_dir() / "models"; }

std::vector<std::string> cases() {
  std::vector<std::string> found;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(models_dir(), none))
    if (entry.is_directory() && entry.path().filename() != kSmol) found.push_back(entry.path().filename());
  std::sort(found.begin(), found.end());
  return found;
}

TEST(GoldenModels, AreThere) {
  MIQ_REQUIRE_GOLDEN("models");
  EXPECT_FALSE(cases().empty());
}

class Model : public testing::TestWithParam<std::string> {
 protected:
  fs::path folder() const { return models_dir() / GetParam(); }
  SafetensorsFile reference() const { return SafetensorsFile::open(folder() / "reference.safetensors"); }
};

TEST_P(Model, LogitsHiddenStatesAndLoss) {
  const SafetensorsFile golden = reference();
  const at::Tensor ids = golden.tensor("ids");
  LanguageModel model = open_model(folder());
  const auto states = hidden_states(model, ids);
  for (size_t l = 0; l < states.size(); ++l)
    EXPECT_LT(miq::test::relative_difference(states[l], golden.tensor("hidden." + std::to_string(l))), kTolerance) << l;
  const at::Tensor logits = model.logits(states.back());
  EXPECT_LT(miq::test::relative_difference(logits, golden.tensor("logits")), kTolerance);
  EXPECT_LT((next_token_nll(logits, ids) - golden.tensor("nll")).abs().max().item<double>(), kTolerance);
  model.hold_blocks();
  EXPECT_TRUE(model.forward(ids).equal(logits)) << "held blocks differ from loaded ones";
}

TEST_P(Model, StagesGiveTheModulesOutputsAndTheWholeForward) {
  const SafetensorsFile golden = reference();
  const at::Tensor ids = golden.tensor("ids");
  LanguageModel model = open_model(folder());
  const RopeTable& rope = model.rope(ids.size(1));
  at::Tensor hidden = model.embed(ids);
  model.for_each_block([&](Block& block) {
    const std::string layer = std::to_string(block.layer());
    BlockState state{hidden.clone(), {}, {}};
    for (std::int64_t s = 0; s < block.num_stages(); ++s) {
      block.begin_stage(s, state, at::kFloat);
      const auto groups = block.groups(s);
      ASSERT_EQ(state.x.size(), groups.size());
      for (size_t g = 0; g < groups.size(); ++g)
        for (const Linear* linear : groups[g]) EXPECT_EQ(state.x[g].size(-1), linear->in_features);
      // What attention and MLP add, before any norm of it.
      if (s == kOut) {
        EXPECT_LT(miq::test::relative_difference(block.o.forward(state.x[0]), golden.tensor("attn_out." + layer)), kTolerance);
      }
      if (s == kDown && groups.size() == 1) {
        EXPECT_LT(miq::test::relative_difference(block.mlps[0].down.forward(state.x[0]), golden.tensor("mlp_out." + layer)), kTolerance);
      }
      const at::Tensor before = state.hidden_BTH.clone();
      block.end_stage(s, state, rope);
      if (s == kDown && groups.size() > 1) {
        EXPECT_LT(miq::test::relative_difference(state.hidden_BTH - before, golden.tensor("mlp_out." + layer)), kTolerance);
      }
    }
    hidden = block.forward(hidden, at::kFloat, rope);
    EXPECT_TRUE(hidden.equal(state.hidden_BTH)) << "layer " << layer;
  });
}

TEST_P(Model, GreedyTextIsTheReferences) {
  const SafetensorsFile golden = reference();
  LanguageModel model = open_model(folder());
  GenerateOptions options;
  options.max_new_tokens = golden.tensor("greedy").size(1);
  options.stop_at_eos = false;
  for (std::int64_t row = 0; row < golden.tensor("ids").size(0); ++row)
    EXPECT_EQ(generate(model, to_vector(golden.tensor("ids")[row]), options), to_vector(golden.tensor("greedy")[row]));
}

TEST_P(Model, LongText) {
  if (!fs::exists(folder() / "long.safetensors")) GTEST_SKIP() << "no long.safetensors";
  const SafetensorsFile golden = SafetensorsFile::open(folder() / "long.safetensors");
  LanguageModel model = open_model(folder());
  model.hold_blocks();
  const at::Tensor logits = model.forward(golden.tensor("ids"));
  EXPECT_LT((next_token_nll(logits, golden.tensor("ids")) - golden.tensor("nll")).abs().max().item<double>(),
            kTolerance);
  EXPECT_LT(miq::test::relative_difference(logits.select(1, -1), golden.tensor("logits_last")), kTolerance);
}

TEST_P(Model, CacheChangesNothing) {
  const SafetensorsFile golden = reference();
  const at::Tensor ids = golden.tensor("ids");
  LanguageModel model = open_model(folder());
  model.hold_blocks();
  const at::Tensor whole = model.forward(ids);
  // A prompt, one token, several tokens at once (masked behind a past), then one by one.
  KvCache cache(model.architecture().num_layers);
  std::vector<at::Tensor> parts;
  std::int64_t at = 0;
  for (const std::int64_t count : {20, 1, 7, 12, 1, 1, 1, 1, 1, 1, 1, 1}) {
    parts.push_back(model.forward(ids.narrow(1, at, count), &cache));
    at += count;
  }
  ASSERT_EQ(at, ids.size(1));
  EXPECT_EQ(cache.length(), at);
  EXPECT_LT(miq::test::relative_difference(at::cat(parts, 1), whole), 1e-5);
}

TEST_P(Model, BatchRowsAreIndependent) {
  const at::Tensor ids = reference().tensor("ids");
  LanguageModel model = open_model(folder());
  model.hold_blocks();
  const at::Tensor both = model.forward(ids);
  for (std::int64_t row = 0; row < 2; ++row)
    EXPECT_LT(miq::test::relative_difference(model.forward(ids.narrow(0, row, 1)), both.narrow(0, row, 1)), 1e-5);
}

TEST_P(Model, NewerConfigKeysMeanTheSame) {
  if (!fs::exists(folder() / "config_v5.json")) GTEST_SKIP() << "no config_v5.json";
  const miq::test::TempFolder copy;
  for (const auto& entry : fs::directory_iterator(folder()))
    if (entry.path().filename() != "config.json")
      fs::create_symlink(fs::absolute(entry.path()), copy.path() / entry.path().filename());
  fs::copy_file(folder() / "config_v5.json", copy.path() / "config.json");
  LanguageModel model = open_model(copy.path());
  const at::Tensor ids = reference().tensor("ids");
  EXPECT_LT(
      miq::test::relative_difference(model.logits(hidden_states(model, ids).back()), reference().tensor("logits")),
      kTolerance);
  const Architecture old = read_architecture(folder());
  EXPECT_EQ(model.architecture().torch_dtype, old.torch_dtype);
  EXPECT_EQ(model.architecture().eos_token_ids, old.eos_token_ids);
}

TEST_P(Model, LowPrecisionStaysNear) {
  const SafetensorsFile golden = reference();
  const at::Tensor ids = golden.tensor("ids");
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    LanguageModel model = open_model(folder(), dtype);
    model.hold_blocks();
    const at::Tensor logits = model.forward(ids);
    EXPECT_EQ(logits.scalar_type(), at::kFloat);
    // Rounding to 8 (11) bits in a few layers; a wrong feature moves logits by far more than this mean.
    const double error = (logits.cpu() - golden.tensor("logits")).abs().mean().item<double>() /
                         golden.tensor("logits").abs().mean().item<double>();
    EXPECT_LT(error, dtype == at::kBFloat16 ? 0.03 : 0.004) << dtype;
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Model);
INSTANTIATE_TEST_SUITE_P(Golden, Model, testing::ValuesIn(cases()), [](const auto& info) { return info.param; });

TEST(GoldenStories, PublishedTextFromBos) {
  MIQ_REQUIRE_GOLDEN("models/stories260k");
  const SafetensorsFile golden = SafetensorsFile::open(models_dir() / "stories260k/reference.safetensors");
  LanguageModel model = open_model(models_dir() / "stories260k");
  const auto expected = to_vector(golden.tensor("greedy_from_bos"));
  GenerateOptions options;
  options.stop_at_eos = false;
  options.max_new_tokens = static_cast<std::int64_t>(expected.size());
  std::vector<std::int64_t> text = generate(model, {1}, options);
  if (expected.front() == 1) {  // the reference counts BOS
    text.insert(text.begin(), 1);
    text.pop_back();
  }
  EXPECT_EQ(text, expected);
}

TEST(GoldenSmol, ReferenceOfARealModel) {
  MIQ_REQUIRE_GOLDEN("models/smollm2-135m");
  MIQ_REQUIRE_SMOLLM2();
  const SafetensorsFile golden = SafetensorsFile::open(models_dir() / kSmol / "reference.safetensors");
  const at::Tensor ids = golden.tensor("ids");
  LanguageModel model = open_model(miq::test::smollm2_dir());
  const auto states = hidden_states(model, ids);
  for (const size_t l : {0, 10, 20, 29})
    EXPECT_LT(miq::test::relative_difference(states.at(l), golden.tensor("hidden." + std::to_string(l))), kTolerance)
        << l;
  const at::Tensor logits = model.logits(states.back());
  EXPECT_LT(miq::test::relative_difference(logits.select(1, -1), golden.tensor("logits_last")), kTolerance);
  EXPECT_LT((next_token_nll(logits, ids) - golden.tensor("nll")).abs().max().item<double>(), 5e-4);
  GenerateOptions options;
  options.max_new_tokens = golden.tensor("greedy").size(1);
  options.stop_at_eos = false;
  for (std::int64_t row = 0; row < 2; ++row)
    EXPECT_EQ(generate(model, to_vector(ids[row]), options), to_vector(golden.tensor("greedy")[row]));
}

TEST(GoldenSmol, LogitsOfAWindow) {
  MIQ_REQUIRE_GOLDEN("smollm2/logits_512.safetensors");
  MIQ_REQUIRE_SMOLLM2();
  const SafetensorsFile golden = SafetensorsFile::open(miq::test::golden_dir() / "smollm2/logits_512.safetensors");
  const at::Tensor ids = golden.tensor("ids").unsqueeze(0);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    LanguageModel model = open_model(miq::test::smollm2_dir(), dtype);
    const at::Tensor logits = model.logits(hidden_states(model, ids).back());
    const at::Tensor log_p = -next_token_nll(logits, ids)[0];
    if (dtype == at::kFloat) {
      EXPECT_TRUE(logits[0].argmax(1).cpu().equal(golden.tensor("argmax")));
      EXPECT_LT((log_p - golden.tensor("target_logprob")).abs().max().item<double>(), 1e-3);
    } else {
      // Perplexity in bfloat16 within 0.3 % of float32's.
      EXPECT_LT(std::abs((log_p - golden.tensor("target_logprob")).mean().item<double>()), 0.003);
    }
  }
}

}  // namespace
}  // namespace miq::model::test
