// A user's own variant in YAML: the example of docs/add-a-model.md, and what mistakes in such a file say.
#include <gmock/gmock.h>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/executor/inspect.h"
#include "miq/executor/job.h"
#include "support/golden.h"
#include "support/tiny_models.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const std::string kExample = std::string(MIQ_SOURCE_DIR) + "/configs/architectures/custom.yaml";

at::Tensor logits_of(const fs::path& path, const std::string& architecture) {
  const c10::InferenceMode inference;
  model::LanguageModel model = model::LanguageModel::open(path, architecture, at::kFloat, at::kCPU);
  at::manual_seed(3);
  return model.forward(at::randint(96, {2, 24}, at::kLong));
}

// The tiny llama in `from` with the names of the example.
void respell(const fs::path& from, const fs::path& to) {
  const std::map<std::string, std::string> keys = {
      {"hidden_size", "n_embd"},       {"num_hidden_layers", "n_layer"}, {"num_attention_heads", "n_head"},          {"num_key_value_heads", "n_head_kv"},
      {"intermediate_size", "n_inner"}, {"max_position_embeddings", "n_positions"}, {"rms_norm_eps", "layer_norm_epsilon"}};
  nlohmann::json config = nlohmann::json::parse(read_file(from / "config.json"));
  for (const auto& [ours, theirs] : keys) {
    config[theirs] = config.at(ours);
    config.erase(ours);
  }
  config["model_type"] = "custom_gpt";
  config["hidden_act"] = "swiglu";  // the example's values say what that is
  std::ofstream(to / "config.json") << config.dump(1);

  const SafetensorsFile file = SafetensorsFile::open(from / "model.safetensors");
  const auto take = [&](const std::string& name) { return file.tensor(name + ".weight"); };
  std::map<std::string, at::Tensor> tensors = {{"transformer.wte.weight", take("model.embed_tokens")},
                                               {"transformer.ln_f.weight", take("model.norm")},
                                               {"lm_head.weight", take("lm_head")}};
  for (int l = 0; l < 2; ++l) {
    const std::string ours = "model.layers." + std::to_string(l) + ".", theirs = "transformer.h." + std::to_string(l) + ".";
    const std::map<std::string, std::string> names = {{"input_layernorm", "ln_1"},   {"post_attention_layernorm", "ln_2"}, {"self_attn.o_proj", "attn.c_proj"},
                                                      {"mlp.gate_proj", "mlp.w_gate"}, {"mlp.up_proj", "mlp.w_up"},          {"mlp.down_proj", "mlp.c_proj"}};
    for (const auto& [name, other] : names) tensors[theirs + other + ".weight"] = take(ours + name);
    tensors[theirs + "attn.c_qkv.weight"] = at::cat({take(ours + "self_attn.q_proj"), take(ours + "self_attn.k_proj"), take(ours + "self_attn.v_proj")});
  }
  save_safetensors(to / "model.safetensors", tensors);
}

class Description : public testing::Test {
 protected:
  Description() {
    fs::create_directories(original());
    fs::create_directories(custom());
    test::write_tiny_model(original(), test::tiny_configs().at("llama"));
    respell(original(), custom());
  }
  fs::path original() const { return folder_.path() / "original"; }
  fs::path custom() const { return folder_.path() / "custom"; }

  // The whole text of the error that a YAML file gives.
  std::string error_of(const std::string& yaml, ErrorKind kind = ErrorKind::config) {
    const fs::path file = folder_.path() / "my.yaml";
    std::ofstream(file) << yaml;
    try {
      model::read_architecture(custom(), file.string());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      return error.what();
    }
    return "no error";
  }
  // The example with a line in place of another.
  std::string example(const std::string& line, const std::string& other) {
    std::string text = read_file(kExample);
    const size_t at = text.find(line);
    EXPECT_NE(at, std::string::npos) << line;
    return text.replace(at, line.size(), other);
  }
  test::TempFolder folder_;
};

TEST_F(Description, TheExampleIsTheSameModel) {
  EXPECT_TRUE(logits_of(custom(), kExample).equal(logits_of(original(), "auto")));
  EXPECT_EQ(error_of(read_file(kExample)), "no error");
  const auto inspection = inspect_model(custom().string(), kExample);
  EXPECT_EQ(inspection["loads"]["ok"], true) << inspection["loads"];
  EXPECT_EQ(inspection["parameters"], inspect_model(original().string())["parameters"]);
}

TEST_F(Description, TheExampleIsQuantizedAndReadBack) {
  JobConfig config = read_job_config(ConfigSource::from_text("{recipe: {preset: rtn, grid: {bits: 8, group_size: 32}}, export: {}}", "test.yaml"));
  config.model.path = custom().string();
  config.model.architecture = kExample;
  config.output = (folder_.path() / "run").string();
  run_job(config, JobMode::quantize, {.overwrite = true});
  const at::Tensor wanted = logits_of(original(), "auto"), got = logits_of(folder_.path() / "run/model", kExample);
  const double error = (got - wanted).norm().item<double>() / wanted.norm().item<double>();
  EXPECT_LT(error, 0.04);
  EXPECT_GT(error, 1e-5);
}

TEST_F(Description, MistakesAreToldWithTheirPlace) {
  EXPECT_THAT(error_of("based_on: llama\ntensor: {}"), AllOf(HasSubstr("my.yaml:2:1"), HasSubstr("did you mean tensors")));
  EXPECT_THAT(error_of("tensors:\n  embeding: wte"), AllOf(HasSubstr("my.yaml:2:3"), HasSubstr("did you mean embedding")));
  EXPECT_THAT(error_of("based_on: lama"), AllOf(HasSubstr("my.yaml:1:11"), HasSubstr("did you mean llama")));
  EXPECT_THAT(error_of("features:\n  qkv_bias: perhaps"), AllOf(HasSubstr("my.yaml:2:13"), HasSubstr("true or false")));
  EXPECT_THAT(error_of("features: {positions: learned}"), AllOf(HasSubstr("my.yaml:1:23"), HasSubstr("rope, alibi")));
  EXPECT_THAT(error_of("tensors:\n  q: [a, b]"), AllOf(HasSubstr("my.yaml:2:6"), HasSubstr("must be text")));
  EXPECT_THAT(error_of("keys: [hidden_size]"), AllOf(HasSubstr("my.yaml:1:7"), HasSubstr("keys")));
  EXPECT_THAT(error_of("keys:\n  hidden_size:"), AllOf(HasSubstr("my.yaml:2:"), HasSubstr("hidden_size")));
  EXPECT_THAT(error_of("keys: {hidden_size: a, hidden_size: b}"), AllOf(HasSubstr("my.yaml:1:"), HasSubstr("twice")));
  EXPECT_THAT(error_of(example("  hidden_size: n_embd", "  hiden_size: n_embd")), AllOf(HasSubstr("my.yaml:4:15"), HasSubstr("did you mean hidden_size")));
  EXPECT_THAT(error_of(example("  rms_norm_eps: layer", "  rms_norm_epsilon: layer")), AllOf(HasSubstr("my.yaml:10:"), HasSubstr("did you mean rms_norm_eps")));
  EXPECT_THAT(error_of(example("  rope_theta: 10000", "  rope_tetha: 10000")), AllOf(HasSubstr("my.yaml:13:15"), HasSubstr("did you mean rope_theta")));
  EXPECT_THAT(error_of(example("  rope_theta: 10000", "  rope_theta: high")), AllOf(HasSubstr("my.yaml:13:15"), HasSubstr("positive number")));
  EXPECT_THAT(error_of(example("  rope_theta: 10000", "  vocab_size: 0")), AllOf(HasSubstr("my.yaml:13:15"), HasSubstr("1 .. 2147483647")));
  EXPECT_THAT(error_of(example("  hidden_act: silu", "  hidden_act: gelu"), ErrorKind::unsupported), AllOf(HasSubstr("my.yaml:12:15"), HasSubstr("gelu")));
  EXPECT_THAT(error_of(example("  o: attn.c_proj", "  q: attn.c_attn")), AllOf(HasSubstr("my.yaml:21:"), HasSubstr("qkv")));
  EXPECT_THAT(error_of("a: [1"), HasSubstr("my.yaml:1:"));
  EXPECT_THAT(error_of("based_on: llama", ErrorKind::io), HasSubstr("'hidden_size' is missing"));  // of config.json, not of the YAML
  EXPECT_THROW(model::read_architecture(custom(), "none.yaml"), Error);
}

TEST_F(Description, ATensorThatIsNotThereIsNamed) {
  const fs::path file = folder_.path() / "my.yaml";
  std::ofstream(file) << example("  qkv: attn.c_qkv", "  qkv: attn.c_attn");
  const auto inspection = inspect_model(custom().string(), file.string());
  EXPECT_EQ(inspection["loads"]["ok"], false);
  EXPECT_THAT(inspection["loads"]["reason"].get<std::string>(), HasSubstr("transformer.h.0.attn.c_attn.weight"));
  EXPECT_THAT(format_inspection(inspection), HasSubstr("cannot be loaded"));
}

TEST(DescriptionPage, ShowsTheExample) {
  EXPECT_THAT(read_file(std::string(MIQ_SOURCE_DIR) + "/docs/add-a-model.md"), HasSubstr(read_file(kExample)));
}

}  // namespace
}  // namespace miq::executor
