// Checkpoints written as GGUF: against llama.cpp's own files, to the byte, and read back through our reader.
#include "miq/format/gguf.h"

#include <gmock/gmock.h>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/gguf.h"
#include "miq/dataset/gguf_tokenizer.h"
#include "miq/model/gguf_export.h"
#include "miq/model/language_model.h"
#include "support/golden.h"
#include "support/tiny_models.h"

namespace miq::executor {
namespace {
namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::HasSubstr;

// The folder's checkpoint as a file of `version`; a tokenizer where there is one.
std::vector<format::GgufPlanned> write_gguf(const fs::path& folder, const fs::path& file, const std::string& version, const std::string& name = "tiny") {
  const auto source = open_checkpoint(folder);
  const model::Architecture architecture = model::read_architecture(folder);
  std::int64_t parameters = 0;
  for (const TensorSpec& spec : source->specs()) parameters += spec.numel();
  const model::GgufModel gguf(architecture, name, parameters);
  format::GgufNames names{gguf.metadata(), [&gguf](const std::string& tensor) { return gguf.place(tensor); }, gguf.extra()};
  if (fs::exists(folder / "tokenizer.json") || fs::exists(folder / "tokenizer.model"))
    for (const auto& key : dataset::gguf_tokenizer_keys(folder, architecture.vocab_size).metadata) names.metadata.push_back(key);
  format::FormatOptions options;
  options.variant = version;
  format::GgufExport out(file, *source, {}, options, names);
  out.finish();
  return out.tensors();
}

struct GoldenFile {
  const char *base, *golden, *version;
  bool same_bytes;
};

class GoldenGgufExport : public testing::TestWithParam<GoldenFile> {};

TEST_P(GoldenGgufExport, IsLlamaCppsFile) {
  const auto& [base, golden, version, same_bytes] = GetParam();
  const fs::path formats = test::golden_dir() / "formats";
  MIQ_REQUIRE_GOLDEN(fs::path("formats") / golden);
  const test::TempFolder out;
  write_gguf(formats / base, out.path() / "model.gguf", version);
  const GgufFile ours = GgufFile::open(out.path() / "model.gguf"), theirs = GgufFile::open(formats / golden / "model.gguf");
  for (const auto& [key, value] : theirs.metadata().items()) {
    ASSERT_TRUE(ours.metadata().contains(key)) << key;
    EXPECT_EQ(ours.metadata()[key], value) << key;
  }
  EXPECT_EQ(ours.tensors().size(), theirs.tensors().size());
  const std::string our_bytes = read_file(ours.path()), their_bytes = read_file(theirs.path());
  for (const auto& [name, tensor] : theirs.tensors()) {
    ASSERT_EQ(ours.tensors().count(name), 1u) << name;
    const GgufTensor& own = ours.tensors().at(name);
    EXPECT_EQ(ggml_type_name(own.type), ggml_type_name(tensor.type)) << name;
    EXPECT_EQ(own.shape, tensor.shape) << name;
    const bool same = our_bytes.compare(static_cast<size_t>(own.offset), static_cast<size_t>(own.bytes), their_bytes, static_cast<size_t>(tensor.offset),
                                        static_cast<size_t>(tensor.bytes)) == 0;
    if (same_bytes || ggml_is_plain(tensor.type)) {
      EXPECT_TRUE(same) << name;
    } else {  // another search: near it, values and all
      EXPECT_LT((ours.tensor(name) - theirs.tensor(name)).norm().item<double>(), 0.15 * theirs.tensor(name).norm().item<double>()) << name;
    }
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenGgufExport);
INSTANTIATE_TEST_SUITE_P(All, GoldenGgufExport,
                         testing::Values(GoldenFile{"base", "gguf_f16", "f16", true}, GoldenFile{"base", "gguf_bf16", "bf16", true},
                                         GoldenFile{"base", "gguf_q8_0", "q8_0", true}, GoldenFile{"base", "gguf_q4_0", "q4_0-pure", true},
                                         GoldenFile{"base", "gguf_q4_1", "q4_1-pure", true}, GoldenFile{"base", "gguf_q5_1", "q5_1-pure", true},
                                         GoldenFile{"base_k", "gguf_q4_k_m", "q4_k_m", false}, GoldenFile{"base_k", "gguf_q5_k_m", "q5_k_m", false},
                                         GoldenFile{"base_k", "gguf_q6_k", "q6_k", false}),
                         [](const auto& info) { return std::string(info.param.golden); });

at::Tensor logits_of(const fs::path& path) {
  const c10::InferenceMode inference;
  model::LanguageModel model = model::LanguageModel::open(path, "auto", at::kFloat, at::kCPU);
  at::manual_seed(3);
  return model.forward(at::randint(96, {2, 18}, at::kLong));
}

struct Variant {
  const char *name, *base, *changes;
};

class WrittenGguf : public testing::TestWithParam<Variant> {};

TEST_P(WrittenGguf, IsTheSameModel) {
  const test::TempFolder folder, out;
  Json config = test::tiny_configs().at(GetParam().base);
  config.update(Json::parse(GetParam().changes));
  test::write_tiny_model(folder.path(), config);
  write_gguf(folder.path(), out.path() / "model.gguf", "f32");
  const at::Tensor wanted = logits_of(folder.path()), logits = logits_of(out.path() / "model.gguf");
  EXPECT_LT((logits - wanted).norm().item<double>(), 1e-5 * wanted.norm().item<double>());
}

INSTANTIATE_TEST_SUITE_P(All, WrittenGguf,
                         testing::Values(Variant{"llama", "llama", "{}"}, Variant{"tied_llama", "llama", R"({"tie_word_embeddings": true})"},
                                         Variant{"biased_llama", "llama", R"({"attention_bias": true})"},
                                         Variant{"llama3_rope", "llama", R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "original_max_position_embeddings": 16}})"},
                                         Variant{"linear_rope", "llama", R"({"rope_scaling": {"type": "linear", "factor": 4}, "rope_theta": 500})"},
                                         Variant{"yarn_rope", "llama", R"({"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32}})"},
                                         Variant{"yarn_betas", "llama", R"({"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32,
                                                                                            "beta_fast": 8, "beta_slow": 2, "attention_factor": 1.25}})"},
                                         Variant{"mistral", "mistral", "{}"}, Variant{"mixtral", "mixtral", "{}"}, Variant{"qwen2", "qwen2", "{}"},
                                         Variant{"qwen3", "qwen3", "{}"}, Variant{"qwen3_moe", "qwen3_moe", R"({"mlp_only_layers": []})"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(GgufModel, SaysWhatHasNoPlace) {
  const auto error_of = [](const Json& config) -> std::string {
    try {
      const model::GgufModel gguf(model::read_architecture(config, "config.json"), "x", 1);
      gguf.place("model.layers.0.mlp.strange.weight");
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::unsupported);
      return error.message() + error.fix();
    }
  };
  const auto configs = test::tiny_configs();
  for (const char* family : {"baichuan", "baichuan_alibi", "chatglm", "glm", "glm4"}) EXPECT_THAT(error_of(configs.at(family)), HasSubstr("llama, mistral, mixtral, qwen2")) << family;
  EXPECT_THAT(error_of(configs.at("qwen3_moe")), HasSubstr("without experts"));
  EXPECT_THAT(error_of(configs.at("llama")), HasSubstr("mlp.strange.weight' has no place"));
  const model::GgufModel mistral(model::read_architecture(configs.at("mistral"), "config.json"), "x", 1);
  EXPECT_THAT(mistral.warnings(), testing::ElementsAre(HasSubstr("sliding window of 20")));
  EXPECT_EQ(mistral.place("model.layers.0.self_attn.rotary_emb.inv_freq"), std::nullopt);
  const model::GgufModel tied(model::read_architecture(configs.at("qwen2"), "config.json"), "x", 1);
  EXPECT_EQ(tied.place("lm_head.weight"), std::nullopt);
}

// Blocks of a file as the quantized linears that they are: q and k in Hugging Face's order of rows.
TEST(GgufModel, PackedRowsAreTheMatrix) {
  const test::TempFolder folder, out;
  test::write_tiny_model(folder.path(), test::tiny_configs().at("llama"));
  write_gguf(folder.path(), out.path() / "model.gguf", "q4_0-pure");
  const model::LanguageModel model = model::LanguageModel::open(out.path() / "model.gguf", "auto", at::kFloat, at::kCPU);
  for (const TensorSpec& spec : model.source().specs()) {
    const auto packed = model.source().packed(spec.name);
    EXPECT_EQ(packed.has_value(), spec.shape.size() == 2) << spec.name;
    if (!packed) continue;
    const auto linear = format::quantized_from_gguf(*packed);
    ASSERT_TRUE(linear) << spec.name;
    EXPECT_TRUE(quantizer::dequantize(*linear, at::kFloat).equal(model.source().tensor(spec.name))) << spec.name;
  }
  EXPECT_EQ(open_checkpoint(folder.path())->packed("lm_head.weight"), std::nullopt);
}

}  // namespace
}  // namespace miq::executor
