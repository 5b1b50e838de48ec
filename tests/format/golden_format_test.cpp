// Every golden checkpoint that a format of formats.def reads.
#include "golden_format.h"

namespace miq::format {
namespace {

using test::GoldenCase;

class GoldenFormat : public testing::TestWithParam<GoldenCase> {};

TEST_P(GoldenFormat, ReadsWritesAndDeclares) {
  MIQ_REQUIRE_GOLDEN("formats/" + GetParam().folder);
  test::check_golden(GetParam());
}

// Left out: meta (how it was made) and dynamic (patterns: compared by the schemes they give).
GoldenCase gptq(const std::string& folder, const std::string& version) {
  return {.folder = folder,
          .format = "gptq",
          .half_products = true,
          .version = version,
          .keys = {"bits", "group_size", "desc_act", "sym", "lm_head", "checkpoint_format", "format", "method", "quant_method", "pack_dtype"}};
}

// Left out: what gptqmodel adds to AWQ's own keys (checkpoint_format, desc_act, lm_head, meta, method, pack_dtype).
GoldenCase awq(const std::string& folder) {
  return {.folder = folder, .format = "awq", .half_products = true, .keys = {"bits", "group_size", "zero_point", "version", "quant_method"}};
}

// Left out: version, kv_cache_scheme (no part of the linears) and config_groups (compared by the schemes that it gives; its
// observers and actorder say how it was made). The order of "ignore" is that of the linears.
GoldenCase ct(const std::string& folder) {
  return {.folder = folder,
          .format = "compressed-tensors",
          .keys = {"quant_method", "format", "quantization_status", "ignore", "sparsity_config", "transform_config", "global_compression_ratio"},
          .lost = {".k_scale", ".v_scale"}};
}
GoldenCase ct_naive() {
  GoldenCase c = ct("ct_naive_w8a16");
  c.version = "naive";
  return c;
}
// transform_config names its targets otherwise; the rotations' own test compares what they do.
GoldenCase ct_rotated(const std::string& folder) {
  GoldenCase c = ct(folder);
  c.keys.erase("transform_config");
  return c;
}

GoldenCase fp8(const std::string& folder) { return {.folder = folder, .format = "fp8", .keys = {"quant_method", "activation_scheme", "weight_block_size", "modules_to_not_convert"}}; }

// Left out: producer's place and ignore, which also names the embedding (no linear).
GoldenCase modelopt(const std::string& folder) {
  return {.folder = folder, .format = "modelopt", .keys = {"quant_method", "quant_algo", "producer"}, .lost = {".k_scale", ".v_scale"}};
}

std::string name_of(const testing::TestParamInfo<GoldenCase>& info) { return info.param.folder; }

INSTANTIATE_TEST_SUITE_P(Gptq, GoldenFormat,
                         testing::Values(gptq("gptq_v1_mixed_dynamic", "v1"), gptq("gptq_v1_w2g64_sym", "v1"), gptq("gptq_v1_w3g128_sym", "v1"),
                                         gptq("gptq_v1_w4_channel_sym", "v1"), gptq("gptq_v1_w4g128_lmhead", "v1"), gptq("gptq_v1_w4g128_sym", "v1"),
                                         gptq("gptq_v1_w4g64_asym", "v1"), gptq("gptq_v1_w4g64_descact_sym", "v1"), gptq("gptq_v1_w8g128_sym", "v1"),
                                         gptq("gptq_v2_w2g64_asym", "v2"), gptq("gptq_v2_w3g64_asym", "v2"), gptq("gptq_v2_w4g128_asym", "v2")),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Awq, GoldenFormat, testing::Values(awq("awq_gemm_w4g128_sym"), awq("awq_gemm_w4g128_zp"), awq("awq_gemm_w4g64_zp")),
                         name_of);

INSTANTIATE_TEST_SUITE_P(CompressedTensors, GoldenFormat,
                         testing::Values(ct("ct_fp8_block"), ct("ct_fp8_dynamic"), ct("ct_fp8_static_kv"), ct("ct_fp8_w8a16"),
                                         ct("ct_mixed_attnfp8_mlpw4"), ct_naive(), ct_rotated("ct_quip_v_w4a16"), ct_rotated("ct_quip_vu_w4a16_h32"),
                                         ct("ct_w3a16_g128_sym"), ct("ct_w4a16_channel_asym"), ct("ct_w4a16_g128_sym"), ct("ct_w4a16_g64_asym"),
                                         ct("ct_w4a16_g64_gptq_actorder_weight"), ct("ct_w4a8_int"), ct("ct_w4afp8_packed"),
                                         ct("ct_w8a16_channel_sym"), ct("ct_w8a8_int8_dynamic"), ct("ct_w8a8_int8_static_asym"),
                                         ct("ct_w8a8_int8_static_tensor_sym")),
                         name_of);

INSTANTIATE_TEST_SUITE_P(Fp8, GoldenFormat, testing::Values(fp8("fp8_hf_block128"), fp8("fp8_hf_static_tensor")), name_of);
INSTANTIATE_TEST_SUITE_P(Modelopt, GoldenFormat,
                         testing::Values(modelopt("modelopt_fp8"), modelopt("modelopt_fp8_kv"), modelopt("modelopt_fp8_pc_pt"), modelopt("modelopt_int4_awq"),
                                         modelopt("modelopt_w4a8_awq")),
                         name_of);

// No folder of a format that is read stays untested.
TEST(GoldenFormats, AreAllListed) {
  MIQ_REQUIRE_GOLDEN("formats");
  std::set<std::string> listed;
  const auto* const unit = testing::UnitTest::GetInstance();
  for (int i = 0; i < unit->total_test_suite_count(); ++i)
    for (int j = 0; j < unit->GetTestSuite(i)->total_test_count(); ++j) {
      const std::string name = unit->GetTestSuite(i)->GetTestInfo(j)->name();
      if (const size_t slash = name.find('/'); slash != std::string::npos) listed.insert(name.substr(slash + 1));
    }
  for (const auto& entry : std::filesystem::directory_iterator(miq::test::golden_dir() / "formats")) {
    const std::string name = entry.path().filename().string();
    for (const char* start : {"gptq_", "awq_", "ct_", "fp8_", "modelopt_"})
      if (name.starts_with(start)) {
        EXPECT_TRUE(listed.count(name)) << name;
      }
  }
}

double relative_error(const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / b.norm()).item<double>(); }

// The stored matrices are written again, and with them the weights are the base model's.
void check_rotations(const std::string& folder, bool output) {
  const auto path = miq::test::golden_dir() / "formats" / folder;
  const auto config = test::golden_json(folder, "config.json");
  const Format& format = find_format("compressed-tensors");
  const std::shared_ptr<const TensorSource> source = open_checkpoint(path), base = open_checkpoint(miq::test::golden_dir() / "formats" / "base");
  const auto decoder = format.open(source, config.at("quantization_config"), config, path.string());
  std::vector<NamedLinear> linears;
  std::vector<Scheme> schemes;
  for (const Scheme& s : decoder->linears()) {
    linears.push_back({s.name, std::make_shared<quantizer::QuantizedLinear>(to_device(decoder->linear(s.name), miq::test::device()))});
    schemes.push_back(scheme_of(s.name, *linears.back().linear));
    EXPECT_TRUE(s.rotated_input);
    EXPECT_EQ(s.rotated_output, output);
    const at::Tensor weight = miq::test::on_device(base->tensor(s.name + ".weight").to(at::kFloat));
    EXPECT_LT(relative_error(quantizer::dequantize(*linears.back().linear, at::kFloat), weight), 0.2) << s.name;
    EXPECT_GT(relative_error(quantizer::stored_weight(*linears.back().linear), weight), 0.9) << s.name;
  }
  for (NamedLinear& l : linears) l.linear = std::make_shared<quantizer::QuantizedLinear>(to_device(*l.linear, at::kCPU));  // encoders are the CPU's
  const std::vector<NamedTensor> written = format.encode(linears, {});
  std::set<std::string> matrices;
  for (const NamedTensor& t : written)
    for (const std::string location : {"input", "output"})
      if (t.name.ends_with("_" + location + ".weight")) {
        matrices.insert(t.name.substr(t.name.rfind('.', t.name.size() - 8)));
        const std::string stored = "model.layers.0.self_attn.q_proj." + std::string(location == "input" ? "v" : "u") + "_" + location + ".weight";
        EXPECT_TRUE(test::same_bytes(t.tensor, source->tensor(stored))) << t.name;
      }
  EXPECT_FALSE(matrices.empty());
  Declaration declaration;
  format.declare(schemes, {"lm_head"}, {}, declaration);
  const auto declared = nlohmann::json::parse(declaration.config.at("quantization_config").dump());
  const auto again = format.open(std::make_shared<test::MemorySource>(written), declared, {}, "written");
  for (const NamedLinear& l : linears)
    EXPECT_TRUE(at::equal(quantizer::dequantize(again->linear(l.name), at::kFloat), quantizer::dequantize(*l.linear, at::kFloat))) << l.name;
}

TEST(GoldenFormats, RotationsOfTheInput) {
  MIQ_REQUIRE_GOLDEN("formats/ct_quip_v_w4a16");
  check_rotations("ct_quip_v_w4a16", false);
}

TEST(GoldenFormats, RotationsOfBothSides) {
  MIQ_REQUIRE_GOLDEN("formats/ct_quip_vu_w4a16_h32");
  check_rotations("ct_quip_vu_w4a16_h32", true);
}

TEST(GoldenVectors, GptqPack) {
  MIQ_REQUIRE_GOLDEN("formats/vectors/gptq_pack.safetensors");
  const auto file = SafetensorsFile::open(miq::test::golden_dir() / "formats/vectors/gptq_pack.safetensors");
  const Format& format = find_format("gptq");
  for (const int bits : {2, 3, 4, 8})
    for (const std::string version : {"v1", "v2"}) {
      SCOPED_TRACE(std::to_string(bits) + " bits, " + version);
      const auto get = [&](const std::string& name) { return file.tensor("b" + std::to_string(bits) + "." + name); };
      auto source = std::make_shared<test::MemorySource>();
      source->tensors = {{"m.qweight", get("qweight")},
                         {"m.scales", get("scales")},
                         {"m.g_idx", get("g_idx")},
                         {"m.qzeros", get(version == "v1" ? "qzeros_v1_gptqmodel" : "qzeros_v2")}};
      const nlohmann::json config = {
          {"bits", bits}, {"group_size", 32}, {"desc_act", true}, {"sym", false}, {"checkpoint_format", version == "v1" ? "gptq" : "gptq_v2"}};
      auto linear = std::make_shared<quantizer::QuantizedLinear>(format.open(source, config, {}, "vectors")->linear("m"));
      EXPECT_TRUE(at::equal(linear->codes_OI, get("codes").to(at::kByte)));
      EXPECT_TRUE(at::equal(linear->params.zeros_OG, get("zeros").to(at::kFloat)));
      EXPECT_TRUE(linear->group_of_column.defined());
      EXPECT_TRUE(at::equal(quantizer::stored_weight(*linear).to(at::kHalf).to(at::kFloat), get("dequant")));
      FormatOptions options;
      options.variant = version;
      if (version == "v2") {
        for (const NamedTensor& t : format.encode({{"m", linear}}, options))
          EXPECT_TRUE(test::same_bytes(t.tensor, source->tensors.at(t.name))) << t.name;
        continue;
      }
      try {  // it has zero points of 0
        format.encode({{"m", linear}}, options);
        ADD_FAILURE() << "a zero point of 0 was written";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::unsupported);
        EXPECT_NE(std::string(error.what()).find("version v2"), std::string::npos) << error.what();
      }
      linear->params.zeros_OG.clamp_(1);
      const at::Tensor clamped = get("zeros").clamp(1).t() - 1;
      EXPECT_TRUE(test::same_bytes(format.encode({{"m", linear}}, options).at(1).tensor, pack_bits(clamped, bits)));
    }
}

TEST(GoldenVectors, AwqPack) {
  MIQ_REQUIRE_GOLDEN("formats/vectors/awq_pack.safetensors");
  const auto file = SafetensorsFile::open(miq::test::golden_dir() / "formats/vectors/awq_pack.safetensors");
  auto source = std::make_shared<test::MemorySource>();
  for (const char* name : {"qweight", "qzeros", "scales"}) source->tensors[std::string("m.") + name] = file.tensor(name);
  // As AutoAWQ's quant_config.json has it.
  const nlohmann::json config = {{"zero_point", true}, {"q_group_size", 32}, {"w_bit", 4}, {"version", "GEMM"}};
  const Format& format = find_format("awq");
  EXPECT_TRUE(format.recognises(config));
  EXPECT_FALSE(find_format("gptq").recognises(config));
  const auto linear = std::make_shared<quantizer::QuantizedLinear>(format.open(source, config, {}, "vectors")->linear("m"));
  EXPECT_TRUE(at::equal(linear->codes_OI, file.tensor("codes_kn").t().to(at::kByte)));
  EXPECT_TRUE(at::equal(linear->params.zeros_OG, file.tensor("zeros_gn").t().to(at::kFloat)));
  EXPECT_TRUE(at::equal(quantizer::stored_weight(*linear).to(at::kHalf).to(at::kFloat), file.tensor("dequant_kn").t()));
  for (const NamedTensor& t : format.encode({{"m", linear}}, {})) EXPECT_TRUE(test::same_bytes(t.tensor, source->tensors.at(t.name))) << t.name;
}

// Codes packed along the input in both packings, and taken for zero points along the output.
TEST(GoldenVectors, CompressedTensorsPack) {
  MIQ_REQUIRE_GOLDEN("formats/vectors/ct_pack.safetensors");
  const auto file = SafetensorsFile::open(miq::test::golden_dir() / "formats/vectors/ct_pack.safetensors");
  const Format& format = find_format("compressed-tensors");
  for (int bits = 2; bits <= 8; ++bits)
    for (const bool old : {false, true}) {
      SCOPED_TRACE(std::to_string(bits) + (old ? " bits, before 0.17" : " bits"));
      const std::string start = "b" + std::to_string(bits) + ".";
      const at::Tensor signed_codes = file.tensor(start + "codes"), codes = (signed_codes.to(at::kShort) + (1 << (bits - 1))).to(at::kByte);
      auto source = std::make_shared<test::MemorySource>();
      source->tensors = {{"m.weight_packed", file.tensor(start + (old ? "packed_dim1_le016" : "packed_dim1"))},
                         {"m.weight_shape", at::tensor({6, 40}, at::kLong)},
                         {"m.weight_scale", at::ones({6, 40}, at::kBFloat16)}};
      if (!old) source->tensors["m.weight_zero_point"] = file.tensor(start + "packed_dim0");
      const nlohmann::json config = {
          {"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"version", old ? "0.16.0" : "0.17.0"},  // 40 codes of some widths take as many words in both
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"weights", {{"num_bits", bits}, {"type", "int"}, {"symmetric", old}, {"strategy", "group"}, {"group_size", 1}}}}}}}};
      const auto linear = std::make_shared<quantizer::QuantizedLinear>(format.open(source, config, {}, "vectors")->linear("m"));
      EXPECT_TRUE(at::equal(linear->codes_OI, codes));
      if (old) continue;
      EXPECT_TRUE(at::equal(linear->params.zeros_OG, codes.to(at::kFloat)));
      for (const NamedTensor& t : format.encode({{"m", linear}}, {})) EXPECT_TRUE(test::same_bytes(t.tensor, source->tensors.at(t.name))) << t.name;
    }
}

}  // namespace
}  // namespace miq::format
