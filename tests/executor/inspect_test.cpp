// miq inspect: every family, every container, checkpoints that are quantized already.
#include "miq/executor/inspect.h"

#include <gmock/gmock.h>

#include "miq/core/error.h"
#include "support/golden.h"
#include "support/tiny_gguf.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using testing::HasSubstr;

// What must hold of any report.
void check(const Json& inspection) {
  const Json &p = inspection["parameters"], &by_bits = inspection["memory"]["by_bits"], &kv = inspection["kv_cache"];
  EXPECT_EQ(p["total"], p["embedding"].get<std::int64_t>() + p["head"].get<std::int64_t>() + p["linears"].get<std::int64_t>() + p["other"].get<std::int64_t>());
  EXPECT_GT(p["other"], 0);
  EXPECT_LE(p["active"], p["total"]);
  EXPECT_EQ(by_bits.size(), 5u);
  for (size_t i = 0; i < by_bits.size(); ++i) {
    EXPECT_LE(by_bits[i]["bytes_symmetric"], by_bits[i]["bytes"]);
    if (i == 0) continue;
    EXPECT_LT(by_bits[i]["bytes"], by_bits[i - 1]["bytes"]);
  }
  EXPECT_LE(kv["bytes_at_context"], kv["bytes_per_token"].get<std::int64_t>() * kv["context"].get<std::int64_t>());
  std::int64_t stored = 0, in_files = 0;
  for (const Json& type : inspection["stored"]) stored += type["bytes"].get<std::int64_t>();
  for (const Json& file : inspection["files"]) in_files += file["bytes"].get<std::int64_t>();
  EXPECT_EQ(stored, inspection["stored_bytes"]);
  EXPECT_GE(in_files, stored);
  const std::string text = format_inspection(inspection);
  for (const char* part : {"family", "parameters", "bits/weight", "KV cache"}) EXPECT_THAT(text, HasSubstr(part));
}

class Inspect : public testing::TestWithParam<std::string> {};

TEST_P(Inspect, CountsWhatTheModelHas) {
  const test::TempFolder folder;
  test::write_tiny_model(folder.path(), test::tiny_configs().at(GetParam()));
  const Json inspection = inspect_model(folder.path().string());
  check(inspection);
  const model::LanguageModel model = model::LanguageModel::open(folder.path(), "auto", at::kFloat, at::kCPU);
  EXPECT_EQ(inspection["parameters"]["total"], model.num_parameters());
  EXPECT_EQ(inspection["stored_bytes"], 4 * model.num_parameters());
  EXPECT_EQ(inspection["container"], "safetensors");
  EXPECT_EQ(inspection["family"], model.architecture().family);
  EXPECT_TRUE(inspection["quantization"].is_null());
  EXPECT_EQ(inspection["loads"]["ok"], true) << inspection["loads"];
  const std::int64_t linears = inspection["parameters"]["linears"], rest = model.num_parameters() - linears;
  EXPECT_EQ(inspection["memory"]["by_bits"][0]["bytes"], 2 * linears + 4 * rest);
  EXPECT_EQ(inspection["architecture"]["experts"].is_null(), inspection["parameters"]["experts"] == 0);
  // Without weights: the same from config.json, in the type that it names.
  fs::remove(folder.path() / "model.safetensors");
  const Json planned = inspect_model(folder.path().string());
  check(planned);
  EXPECT_EQ(planned["container"], "none");
  EXPECT_EQ(planned["memory"], inspection["memory"]);
  EXPECT_EQ(planned["loads"]["ok"], false);
}

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const auto& [name, config] : test::tiny_configs()) names.push_back(name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(All, Inspect, testing::ValuesIn(model_names()), [](const auto& info) { return info.param; });

Json inspect_tiny(const std::string& name) {
  const test::TempFolder folder;
  test::write_tiny_model(folder.path(), test::tiny_configs().at(name));
  return inspect_model(folder.path().string());
}

TEST(InspectNumbers, OfALlama) {
  const Json inspection = inspect_tiny("llama");
  // q, o 64x64; k, v 32x64; gate, up 96x64; down 64x96; two layers.
  const std::int64_t linears = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64), rest = 4 * (2 * 96 * 64 + 5 * 64);
  EXPECT_EQ(inspection["parameters"]["linears"], linears);
  EXPECT_EQ(inspection["memory"]["rest_bytes"], rest);
  const std::int64_t rows = 2 * (2 * 64 + 2 * 32 + 2 * 96 + 64);  // a group each
  EXPECT_EQ(inspection["memory"]["by_bits"][2]["bits"], 4);
  EXPECT_EQ(inspection["memory"]["by_bits"][2]["bytes_symmetric"], rest + linears / 2 + 2 * rows);
  EXPECT_EQ(inspection["memory"]["by_bits"][2]["bytes"], rest + linears / 2 + 2 * rows + rows / 2);
  EXPECT_EQ(inspection["kv_cache"]["bytes_per_token"], 2 * 2 * 32 * 2);
  EXPECT_EQ(inspection["kv_cache"]["bytes_at_context"], 128 * 2 * 2 * 32 * 2);
}

TEST(InspectNumbers, WindowsBoundTheCache) {
  const Json kv = inspect_tiny("mistral")["kv_cache"];
  EXPECT_EQ(kv["bytes_at_context"], 20 * kv["bytes_per_token"].get<std::int64_t>());
}

TEST(InspectNumbers, ActiveExperts) {
  const Json p = inspect_tiny("mixtral")["parameters"];
  EXPECT_EQ(p["experts"], 2 * 4 * 3 * 64 * 64);
  EXPECT_EQ(p["active"], p["total"].get<std::int64_t>() - 2 * 2 * 3 * 64 * 64);
}

TEST(InspectNumbers, OfAGgufFile) {
  const test::TempFolder folder;
  test::write_tiny_gguf(folder.path() / "tiny.gguf", "");
  const Json inspection = inspect_model((folder.path() / "tiny.gguf").string());
  check(inspection);
  EXPECT_EQ(inspection["container"], "gguf");
  EXPECT_EQ(inspection["parameters"], inspect_tiny("llama")["parameters"]);
  EXPECT_EQ(inspection["quantization"]["bits"], Json({8}));
  EXPECT_DOUBLE_EQ(inspection["quantization"]["stored_bits_per_weight"].get<double>(), 8.5);
  EXPECT_EQ(inspection["stored"][0]["type"], "Q8_0");
  EXPECT_EQ(inspection["memory"]["rest_bytes"], 2 * 96 * 64 * 34 / 32 + 4 * 5 * 64);
  EXPECT_EQ(inspection["loads"]["ok"], true) << inspection["loads"];
  EXPECT_EQ(inspect_model(folder.path().string())["files"], inspection["files"]);
}

TEST(InspectErrors, AreClear) {
  const test::TempFolder folder;
  const auto error_of = [](const std::string& path, const std::string& architecture = "auto") -> std::string {
    try {
      inspect_model(path, architecture);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const std::string path = folder.path().string();
  EXPECT_THAT(error_of(path + "/none"), HasSubstr("no such model folder"));
  EXPECT_THAT(error_of(path), HasSubstr("config.json"));
  std::ofstream(folder.path() / "config.json") << R"({"model_type": "bloom"})";
  EXPECT_THAT(error_of(path), HasSubstr("unknown model family 'bloom'"));
  test::write_tiny_model(folder.path(), test::tiny_configs().at("llama"));
  EXPECT_THAT(error_of(path + "/model.safetensors"), HasSubstr("folder"));
  EXPECT_THAT(error_of(path, "lama"), HasSubstr("unknown model family"));
  EXPECT_EQ(inspect_model(path, "qwen2")["loads"]["ok"], false);  // no biases there
  fs::resize_file(folder.path() / "model.safetensors", 1000);
  EXPECT_THAT(error_of(path), HasSubstr("model.safetensors"));
  std::ofstream(folder.path() / "broken.gguf") << "GGUF";
  EXPECT_THAT(error_of(path + "/broken.gguf"), HasSubstr("broken.gguf"));
}

TEST(InspectQuantization, IsFoundWhereItIsDeclared) {
  const test::TempFolder folder;
  nlohmann::json config = test::tiny_configs().at("llama");
  const auto found = [&](const nlohmann::json& quantization) {
    config["quantization_config"] = quantization;
    std::ofstream(folder.path() / "config.json") << config;
    return inspect_model(folder.path().string())["quantization"];
  };
  const Json gptq = found({{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}, {"sym", true}});
  EXPECT_EQ(gptq["method"], "gptq");
  EXPECT_EQ(gptq["bits"], Json({4}));
  EXPECT_EQ(gptq["group_size"], 128);
  EXPECT_EQ(gptq["symmetric"], true);
  EXPECT_EQ(found({{"quant_method", "awq"}, {"w_bit", 4}, {"q_group_size", 64}, {"zero_point", true}})["symmetric"], false);
  EXPECT_EQ(found({{"quant_method", "bitsandbytes"}, {"load_in_4bit", true}, {"load_in_8bit", false}})["bits"], Json({4}));
  EXPECT_EQ(found({{"quant_method", "fp8"}})["bits"], Json({8}));
  EXPECT_TRUE(found(nullptr).is_null());
  std::ofstream(folder.path() / "quantize_config.json") << R"({"bits": 3, "group_size": -1})";
  const Json older = found(nullptr);
  EXPECT_EQ(older["method"], "gptq");
  EXPECT_EQ(older["bits"], Json({3}));
}

TEST(GoldenInspect, Models) {
  MIQ_REQUIRE_GOLDEN("models");
  int seen = 0;
  for (const auto& entry : fs::directory_iterator(test::golden_dir() / "models")) {
    if (!fs::exists(entry.path() / "config.json")) continue;
    SCOPED_TRACE(entry.path());
    const Json inspection = inspect_model(entry.path().string());
    check(inspection);
    EXPECT_EQ(inspection["loads"]["ok"], true) << inspection["loads"];
    ++seen;
  }
  EXPECT_GT(seen, 20);
}

TEST(GoldenInspect, Formats) {
  MIQ_REQUIRE_GOLDEN("formats");
  struct Case {
    const char *folder, *container;
    size_t files;
    const char* method;  // "": not quantized
    Json bits;
  };
  const std::vector<Case> cases = {{"base", "safetensors", 1, "", {}},
                                   {"base_sharded", "safetensors", 5, "", {}},
                                   {"base_bin", "torch", 1, "", {}},
                                   {"base_bin_sharded", "torch", 2, "", {}},
                                   {"gguf_f16", "gguf", 1, "", {}},
                                   {"gguf_bf16", "gguf", 1, "", {}},
                                   {"gguf_q8_0", "gguf", 1, "gguf", Json::array({8})},
                                   {"gguf_q4_0", "gguf", 1, "gguf", Json::array({4})},
                                   {"gguf_q4_1", "gguf", 1, "gguf", Json::array({4})},
                                   {"gguf_q5_1", "gguf", 1, "gguf", Json::array({5})},
                                   {"gguf_q4_k_m", "gguf", 1, "gguf", Json::array({4, 6})},
                                   {"gguf_q5_k_m", "gguf", 1, "gguf", Json::array({5, 6})},
                                   {"gguf_q6_k", "gguf", 1, "gguf", Json::array({6})},
                                   {"gptq_v1_w4g128_sym", "safetensors", 1, "gptq", Json::array({4})},
                                   {"awq_gemm_w4g128_zp", "safetensors", 1, "awq", Json::array({4})},
                                   {"ct_w4a16_g128_sym", "safetensors", 1, "compressed-tensors", Json::array({4})},
                                   {"ct_mixed_attnfp8_mlpw4", "safetensors", 1, "compressed-tensors", Json::array({4, 8})},
                                   {"fp8_hf_block128", "safetensors", 1, "fp8", Json::array({8})},
                                   {"modelopt_fp8", "safetensors", 1, "modelopt", Json::array({8})}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.folder);
    const Json inspection = inspect_model((test::golden_dir() / "formats" / c.folder).string());
    check(inspection);
    EXPECT_EQ(inspection["family"], "llama");
    EXPECT_EQ(inspection["container"], c.container);
    EXPECT_EQ(inspection["files"].size(), c.files);
    const Json& quantization = inspection["quantization"];
    ASSERT_EQ(quantization.is_null(), *c.method == '\0');
    if (quantization.is_null()) {
      EXPECT_EQ(inspection["loads"]["ok"], true) << inspection["loads"];
      continue;
    }
    EXPECT_EQ(quantization["method"], c.method);
    EXPECT_EQ(quantization["bits"], c.bits);
    const double stored = quantization["stored_bits_per_weight"], most = c.bits.back();
    EXPECT_GT(stored, c.bits.front().get<double>());
    EXPECT_LE(stored, most + 1);
  }
}

}  // namespace
}  // namespace miq::executor
