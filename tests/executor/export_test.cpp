// Exports whose original is no folder of safetensors: GGUF files, torch files.
#include <gmock/gmock.h>

#include "miq/core/error.h"
#include "miq/core/gguf.h"
#include "miq/dataset/chat.h"
#include "miq/dataset/tokenizer.h"
#include "miq/executor/job.h"
#include "support/golden.h"
#include "support/tiny_gguf.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using testing::UnorderedElementsAre;

at::Tensor logits_of(const fs::path& path, std::int64_t vocabulary = 96) {
  const c10::InferenceMode inference;
  model::LanguageModel model = model::LanguageModel::open(path, "auto", at::kFloat, at::kCPU);
  at::manual_seed(3);
  return model.forward(at::randint(vocabulary, {2, 24}, at::kLong));
}

double distance(const at::Tensor& x, const at::Tensor& wanted) { return (x - wanted).norm().item<double>() / wanted.norm().item<double>(); }

fs::path quantize(const fs::path& model, const fs::path& output, const std::string& recipe = "{preset: rtn, grid: {bits: 8, group_size: 32}}") {
  JobConfig config = read_job_config(ConfigSource::from_text("{recipe: " + recipe + ", export: {}}", "test.yaml"));
  config.model.path = model.string();
  config.output = output.string();
  run_job(config, JobMode::quantize, {.overwrite = true});
  return output / "model";
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  return names;
}

void expect_same_tokens(const fs::path& path, const fs::path& original, const std::vector<std::string>& texts) {
  const auto tokenizer = dataset::load_tokenizer(path), wanted = dataset::load_tokenizer(original);
  EXPECT_EQ(tokenizer->bos_id(), wanted->bos_id());
  EXPECT_EQ(tokenizer->eos_id(), wanted->eos_id());
  EXPECT_EQ(tokenizer->vocab_size(), wanted->vocab_size());
  for (const std::string& text : texts)
    for (const bool special : {false, true}) {
      const auto ids = wanted->encode(text, special);
      EXPECT_EQ(tokenizer->encode(text, special), ids) << text;
      EXPECT_EQ(tokenizer->decode(ids, false), wanted->decode(ids, false)) << text;
    }
}

class GgufExport : public testing::TestWithParam<std::string> {
 protected:
  test::TempFolder folder_;
};

TEST_P(GgufExport, IsAWholeCheckpoint) {
  const fs::path file = folder_.path() / "tiny.gguf";
  test::write_tiny_gguf(file, GetParam());
  const at::Tensor wanted = logits_of(file);
  const fs::path exported = quantize(file, folder_.path() / "run");
  const double error = distance(logits_of(exported), wanted);
  EXPECT_LT(error, 0.04);
  EXPECT_GT(error, 1e-5);
  const SafetensorsFile weights = SafetensorsFile::open(exported / "model.safetensors");
  for (const auto& [name, spec] : weights.specs())  // what was not quantized is not touched
    EXPECT_EQ(spec.dtype, name.find("_proj") != std::string::npos ? at::kHalf : at::kFloat) << name;
  const auto config = nlohmann::json::parse(read_file(exported / "config.json"));
  EXPECT_EQ(config["architectures"], nlohmann::json({"LlamaForCausalLM"}));
  EXPECT_EQ(config["torch_dtype"], "float16");
  EXPECT_EQ(config["rope_theta"], 10000);
  if (GetParam().empty()) {
    EXPECT_THAT(names_in(exported), UnorderedElementsAre("config.json", "model.safetensors", "miq_manifest.json"));
    return;
  }
  EXPECT_THAT(names_in(exported), UnorderedElementsAre("config.json", "model.safetensors", "miq_manifest.json", "tokenizer_config.json",
                                                       GetParam() == "llama" ? "tokenizer.model" : "tokenizer.json"));
  expect_same_tokens(exported, file, {"", "a", "ab", " ab a", "what  is a b?", "</s>ab<s>", "\xC3\xA9"});
  EXPECT_EQ(dataset::detect_chat_kind(exported).name, "chatml");
}
INSTANTIATE_TEST_SUITE_P(Tokenizers, GgufExport, testing::Values("llama", "gpt2", ""), [](const auto& info) { return info.param.empty() ? "none" : info.param; });

TEST(GgufExportOf, ARotatedModel) {
  const test::TempFolder folder;
  const fs::path file = folder.path() / "tiny.gguf";
  test::write_tiny_gguf(file, "llama");
  const fs::path exported = quantize(file, folder.path() / "run", "{preset: [quarot, rtn], grid: {bits: 8, group_size: 32}}");
  EXPECT_LT(distance(logits_of(exported), logits_of(file)), 0.04);
}

TEST(GgufExportOf, AFileBesideATokenizerKeepsThat) {
  const test::TempFolder folder;
  test::write_tiny_gguf(folder.path() / "tiny.gguf", "llama");
  EXPECT_EQ(dataset::gguf_tokenizer_files(folder.path()).size(), 2u);
  std::ofstream(folder.path() / "tokenizer.json") << "{}";
  EXPECT_TRUE(dataset::gguf_tokenizer_files(folder.path()).empty());
}

TEST(GoldenGgufExport, OfARealFile) {
  for (const char* name : {"gguf_q4_0", "gguf_f16", "gguf_bf16"}) {
    const fs::path file = test::golden_dir() / "formats" / name / "model.gguf";
    MIQ_REQUIRE_GOLDEN(file);
    SCOPED_TRACE(name);
    const test::TempFolder folder;
    const fs::path exported = quantize(file, folder.path());
    EXPECT_LT(distance(logits_of(exported, 320), logits_of(file, 320)), 0.03);
    expect_same_tokens(exported, file, {"Hello, world!", "  two  spaces", "for (int i = 0; i < n; ++i) {", "na\xC3\xAFve \xF0\x9F\x98\x80", "<s>a</s>"});
    const SafetensorsFile weights = SafetensorsFile::open(exported / "model.safetensors");
    EXPECT_EQ(weights.specs().at("model.layers.0.self_attn.q_proj.weight").dtype, std::string(name) == "gguf_bf16" ? at::kBFloat16 : at::kHalf);
  }
}

// llama.cpp keeps llama3's scaling as divisors; config.json says it in transformers' way again.
TEST(GgufConfig, RecognisesTheScalingOfLlama3) {
  const test::TempFolder folder;
  nlohmann::json config = test::tiny_configs().at("llama");
  config["rope_theta"] = 500000;
  config["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 32.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 8192}};
  const model::Architecture wanted = model::read_architecture(config, "config.json");
  model::Rope plain;
  plain.theta = 500000;
  const at::Tensor factors = model::inverse_frequencies(plain, 16) / model::inverse_frequencies(wanted.rope, 16);
  for (const double change : {1.0, 1.001}) {
    test::GgufWriter gguf;
    gguf.text("general.architecture", "llama");
    for (const auto& [key, value] : {std::pair("block_count", 2), std::pair("embedding_length", 64), std::pair("feed_forward_length", 96), std::pair("attention.head_count", 4)})
      gguf.number(std::string("llama.") + key, static_cast<std::uint32_t>(value));
    gguf.real("llama.rope.freq_base", 500000);
    gguf.tensor("token_embd.weight", at::zeros({96, 64}), true);
    at::Tensor stored = factors.to(at::kFloat);
    stored[3] *= change;
    gguf.tensor("rope_freqs.weight", stored, false);
    gguf.write(folder.path() / "model.gguf");
    const auto got = model::checkpoint_config(folder.path() / "model.gguf");
    EXPECT_EQ(got["rope_scaling"]["rope_type"], change == 1.0 ? "llama3" : "factors");
    const model::Architecture a = model::read_architecture(folder.path() / "model.gguf");
    EXPECT_TRUE(at::allclose(model::inverse_frequencies(a.rope, 16) * (change == 1.0 ? at::ones({8}, at::kDouble) : stored.to(at::kDouble) / factors), model::inverse_frequencies(wanted.rope, 16), 1e-5));
  }
}

TEST(GoldenTorchExport, HasNoWeightsOfTheOriginal) {
  for (const char* name : {"base_bin", "base_bin_sharded"}) {
    const fs::path original = test::golden_dir() / "formats" / name;
    MIQ_REQUIRE_GOLDEN(original);
    const test::TempFolder folder;
    const fs::path exported = quantize(original, folder.path());
    EXPECT_THAT(names_in(exported), UnorderedElementsAre("config.json", "model.safetensors", "miq_manifest.json"));
    EXPECT_LT(distance(logits_of(exported, 320), logits_of(original, 320)), 0.03);
  }
}

}  // namespace
}  // namespace miq::executor
