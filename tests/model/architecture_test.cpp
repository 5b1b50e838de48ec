// config.json in, Architecture or a clear error out.
#include <gmock/gmock.h>

#include <fstream>

#include "miq/model/rope.h"
#include "support.h"

namespace miq::model::test {
namespace {
using testing::HasSubstr;

Architecture read(const nlohmann::json& config, const std::string& family = "auto") {
  const miq::test::TempFolder folder;
  std::ofstream(folder.path() / "config.json") << config.dump();
  return read_architecture(folder.path(), family);
}

nlohmann::json with(nlohmann::json config, const std::string& key, const nlohmann::json& value) {
  config[key] = value;
  return config;
}

TEST(Architecture, ReadsLlamaAndItsDefaults) {
  nlohmann::json config = tiny_config();
  config.erase("num_key_value_heads");
  const Architecture a = read(config);
  EXPECT_EQ(a.family, "llama");
  EXPECT_EQ(a.num_kv_heads, 4);
  EXPECT_EQ(a.head_dim, 8);
  EXPECT_EQ(a.rope.theta, 10000);
  EXPECT_EQ(a.rope.scaling, RopeScaling::none);
  EXPECT_FALSE(a.qkv_bias || a.o_bias || a.mlp_bias || a.qk_norm || a.tie_word_embeddings);
  EXPECT_EQ(a.eos_token_ids, std::vector<std::int64_t>{2});
  EXPECT_EQ(read(with(config, "head_dim", nullptr)).head_dim, 8);
  EXPECT_EQ(read(with(config, "head_dim", 16)).head_dim, 16);
  EXPECT_TRUE(read(with(config, "attention_bias", true)).o_bias);
  EXPECT_TRUE(read(with(config, "mlp_bias", true)).mlp_bias);
}

TEST(Architecture, SlidingWindowsPerFamily) {
  const nlohmann::json mistral = with(tiny_config(), "model_type", "mistral");
  EXPECT_EQ(read(with(mistral, "sliding_window", 16)).sliding_window, (std::vector<std::int64_t>{16, 16}));
  EXPECT_TRUE(read(with(mistral, "sliding_window", nullptr)).sliding_window.empty());
  EXPECT_EQ(read(mistral).sliding_window, (std::vector<std::int64_t>{4096, 4096}));  // the class's default
  nlohmann::json qwen = with(with(tiny_config(), "model_type", "qwen2"), "sliding_window", 16);
  EXPECT_TRUE(read(qwen).sliding_window.empty());
  EXPECT_TRUE(read(with(qwen, "use_sliding_window", false)).sliding_window.empty());
  qwen = with(with(qwen, "use_sliding_window", true), "max_window_layers", 1);
  EXPECT_EQ(read(qwen).sliding_window, (std::vector<std::int64_t>{0, 16}));
  qwen = with(qwen, "layer_types", {"sliding_attention", "full_attention"});
  EXPECT_EQ(read(qwen).sliding_window, (std::vector<std::int64_t>{16, 0}));
  EXPECT_EQ(error_of([&] { read(with(qwen, "layer_types", {"full_attention"})); }).first, ErrorKind::io);
  EXPECT_EQ(error_of([&] {
              read(with(qwen, "layer_types", {"linear_attention", "full_attention"}));
            }).first,
            ErrorKind::unsupported);
}

TEST(Architecture, QwenHasBiasOrHeadNorms) {
  EXPECT_TRUE(read(with(tiny_config(), "model_type", "qwen2")).qkv_bias);
  EXPECT_FALSE(read(with(tiny_config(), "model_type", "qwen2")).o_bias);
  const Architecture qwen3 = read(with(tiny_config(), "model_type", "qwen3"));
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_EQ(qwen3.head_dim, 128);
}

TEST(Architecture, GenerationConfigOverridesEos) {
  const miq::test::TempFolder folder;
  std::ofstream(folder.path() / "config.json") << tiny_config().dump();
  std::ofstream(folder.path() / "generation_config.json") << R"({"eos_token_id": [5, 7]})";
  EXPECT_EQ(read_architecture(folder.path()).eos_token_ids, (std::vector<std::int64_t>{5, 7}));
}

TEST(Architecture, UnknownFamilyListsTheKnown) {
  const auto [kind, text] = error_of([] { read(with(tiny_config(), "model_type", "gpt2")); });
  EXPECT_EQ(kind, ErrorKind::unsupported);
  EXPECT_THAT(text, HasSubstr("gpt2"));
  for (const std::string& name : family_names()) EXPECT_THAT(text, HasSubstr(name));
  EXPECT_EQ(read(with(tiny_config(), "model_type", "gpt2"), "llama").family, "llama");
  EXPECT_EQ(error_of([] { read(with(tiny_config(), "model_type", 3)); }).first, ErrorKind::io);
}

TEST(Architecture, BadValuesNameTheKey) {
  const std::vector<std::pair<std::string, nlohmann::json>> cases = {{"hidden_size", 0},
                                                                     {"hidden_size", -32},
                                                                     {"hidden_size", "32"},
                                                                     {"hidden_size", 32.5},
                                                                     {"hidden_size", 1ull << 63},
                                                                     {"hidden_size", 1ll << 40},
                                                                     {"num_hidden_layers", 2000000000},
                                                                     {"num_hidden_layers", true},
                                                                     {"num_attention_heads", 5},
                                                                     {"num_key_value_heads", 3},
                                                                     {"num_key_value_heads", 8},
                                                                     {"head_dim", 7},
                                                                     {"rms_norm_eps", -1},
                                                                     {"rms_norm_eps", "x"},
                                                                     {"rope_theta", 0},
                                                                     {"vocab_size", nullptr},
                                                                     {"tie_word_embeddings", 1},
                                                                     {"eos_token_id", -4},
                                                                     {"eos_token_id", {1, "a"}},
                                                                     {"eos_token_id", 1ull << 63},
                                                                     {"torch_dtype", 16},
                                                                     {"rope_scaling", 3}};
  for (const auto& [key, value] : cases) {
    const auto [kind, text] = error_of([&, k = key, v = value] { read(with(tiny_config(), k, v)); });
    EXPECT_EQ(kind, ErrorKind::io) << key << " " << value;
    EXPECT_THAT(text, HasSubstr(key)) << value;
    EXPECT_THAT(text, HasSubstr("config.json"));
  }
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    nlohmann::json config = tiny_config();
    config.erase(key);
    EXPECT_THAT(error_of([&] { read(config); }).second, HasSubstr(key));
  }
}

TEST(Architecture, FeaturesThatChangeTheFunctionAreRefused) {
  const std::vector<std::pair<std::string, nlohmann::json>> cases = {
      {"hidden_act", "gelu"},
      {"attn_logit_softcapping", 50.0},
      {"final_logit_softcapping", 30.0},
      {"partial_rotary_factor", 0.5},
      {"embedding_multiplier", 12},
      {"residual_multiplier", 0.2},
      {"rope_scaling", {{"type", "longrope"}, {"factor", 4}}}};
  for (const auto& [key, value] : cases) {
    const auto [kind, text] = error_of([&, k = key, v = value] { read(with(tiny_config(), k, v)); });
    EXPECT_EQ(kind, ErrorKind::unsupported) << key;
    EXPECT_THAT(text, HasSubstr(key == "rope_scaling" ? "longrope" : key));
  }
  EXPECT_NO_THROW(read(with(tiny_config(), "pretraining_tp", 2)));
  EXPECT_NO_THROW(read(with(tiny_config(), "residual_multiplier", 1.0)));
}

TEST(Architecture, BrokenFiles) {
  const miq::test::TempFolder folder;
  EXPECT_EQ(error_of([&] { read_architecture(folder.path()); }).first, ErrorKind::io);
  for (const char* text : {"", "{", "[1]", "3", "{\"model_type\": \"llama\"", "{\"a\": \xff}"}) {
    std::ofstream(folder.path() / "config.json") << text;
    EXPECT_EQ(error_of([&] { read_architecture(folder.path()); }).first, ErrorKind::io) << text;
  }
  std::ofstream(folder.path() / "config.json") << std::string(100000, '[');
  EXPECT_EQ(error_of([&] { read_architecture(folder.path()); }).first, ErrorKind::io);
}

TEST(Rope, ScalingsInBothSpellings) {
  for (const char* type_key : {"type", "rope_type"}) {
    const Architecture a = read(with(tiny_config(), "rope_scaling", {{type_key, "linear"}, {"factor", 4.0}}));
    const at::Tensor plain = inverse_frequencies(Rope{}, 8);
    EXPECT_TRUE(at::allclose(inverse_frequencies(a.rope, 8), plain / 4, 1e-12));
  }
  const Architecture v5 = read(with(tiny_config(), "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 5e5}}));
  EXPECT_EQ(v5.rope.theta, 5e5);
  EXPECT_THAT(error_of([] {
                read(with(tiny_config(), "rope_scaling", {{"type", "yarn"}}));
              }).second,
              HasSubstr("factor"));
}

TEST(Rope, YarnAsTransformersComputesIt) {
  // Qwen2.5's setting; values from the formulas of modeling_rope_utils, evaluated in float64.
  nlohmann::json config = with(with(tiny_config(), "rope_theta", 1e6), "max_position_embeddings", 32768);
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  const Architecture a = read(config);
  const at::Tensor f = inverse_frequencies(a.rope, 128);
  const std::map<std::int64_t, double> expected = {{0, 1},
                                                   {10, 0.115478198469},
                                                   {23, 0.0069783058486},
                                                   {30, 0.00106436098125},
                                                   {35, 0.000246258406909},
                                                   {39, 6.49039432084e-05},
                                                   {40, 4.4456985251e-05},
                                                   {63, 3.10234440188e-07}};
  for (const auto& [k, value] : expected) EXPECT_NEAR(f[k].item<double>() / value, 1, 1e-9) << k;
  EXPECT_NEAR(a.rope.attention_factor, 1.13862943611, 1e-9);
  const RopeTable table(a, 4, at::kCPU);
  const at::Tensor x = at::ones({1, 1, 1, a.head_dim});
  EXPECT_NEAR(table.rotate(x, 0)[0][0][0][0].item<double>(), 1.13862943611, 1e-6);
  config["rope_scaling"]["mscale"] = 1.0;
  EXPECT_EQ(error_of([&] { read(config); }).first, ErrorKind::unsupported);
}

TEST(Rope, DynamicScalingEndsAtTheTrainedLength) {
  const Architecture a = read(with(tiny_config(), "rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}));
  EXPECT_TRUE(inverse_frequencies(a.rope, 8).equal(inverse_frequencies(Rope{}, 8)));
  EXPECT_EQ(RopeTable(a, 128, at::kCPU).positions(), 128);
  EXPECT_EQ(error_of([&] { RopeTable(a, 129, at::kCPU); }).first, ErrorKind::unsupported);
}

TEST(Rope, RotatesPairsOfTheHalves) {
  Architecture a;
  a.head_dim = 4;
  const RopeTable table(a, 8, at::kCPU);
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const at::Tensor x = at::arange(1, 9, type).view({1, 1, 2, 4});  // positions 3 and 4
    const at::Tensor y = table.rotate(x, 3);
    for (std::int64_t t = 0; t < 2; ++t)
      for (std::int64_t k = 0; k < 2; ++k) {
        const double angle = static_cast<double>(3 + t) * std::pow(10000.0, -static_cast<double>(k) / 2);
        const double u = x[0][0][t][k].item<double>(), v = x[0][0][t][k + 2].item<double>();
        EXPECT_NEAR(y[0][0][t][k].item<double>(), u * std::cos(angle) - v * std::sin(angle), 1e-5);
        EXPECT_NEAR(y[0][0][t][k + 2].item<double>(), v * std::cos(angle) + u * std::sin(angle), 1e-5);
      }
  }
  EXPECT_EQ(error_of([&] { table.rotate(at::zeros({1, 1, 2, 4}), 7); }).first, ErrorKind::internal);
}

}  // namespace
}  // namespace miq::model::test
