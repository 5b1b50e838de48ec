// GGUF exports: which codes go over as they are, which types tensors get, and blocks read back as linears.
#include "miq/format/gguf.h"

#include <gmock/gmock.h>

#include "../../src/format/gguf_types.h"
#include "miq/core/error.h"
#include "miq/core/gguf.h"
#include "memory_source.h"
#include "support/golden.h"

namespace miq::format {
namespace {
using quantizer::Grid;
using quantizer::QuantizedLinear;
using testing::HasSubstr;
using testing::Optional;

QuantizedLinear make_linear(int bits, bool symmetric, std::int64_t group_size, std::int64_t rows = 6, std::int64_t columns = 64) {
  at::manual_seed(bits + group_size);
  QuantizedLinear linear;
  linear.grid.bits = bits;
  linear.grid.symmetric = symmetric;
  linear.grid.group_size = group_size;
  linear.grid.scale_dtype = at::kHalf;
  const std::int64_t groups = (columns + group_size - 1) / group_size;
  linear.codes_OI = at::randint(1 << bits, {rows, columns}, at::kByte);
  linear.params.scales_OG = (at::rand({rows, groups}) * 0.1 + 0.01).to(at::kHalf).to(at::kFloat);
  linear.params.zeros_OG = symmetric ? at::full({rows, groups}, 1 << (bits - 1), at::kFloat) : at::randint(1 << bits, {rows, groups}, at::kFloat);
  return linear;
}

TEST(GgufCodes, GoOverWithoutLoss) {
  const struct {
    int bits;
    bool symmetric;
    std::int64_t group_size;
    std::int32_t type;
  } cases[] = {{4, true, 32, kGgmlQ4_0},  {4, true, 64, kGgmlQ4_0},   {3, true, 32, kGgmlQ4_0},  {3, false, 32, kGgmlQ4_0}, {2, false, 64, kGgmlQ4_0},
               {4, false, 32, kGgmlQ5_0}, {5, true, 32, kGgmlQ5_0},   {5, false, 32, kGgmlQ8_0}, {6, true, 32, kGgmlQ8_0},  {7, false, 32, kGgmlQ8_0},
               {8, true, 32, kGgmlQ8_0},  {8, true, 1024, kGgmlQ8_0}};
  for (const auto& [bits, symmetric, group_size, type] : cases) {
    SCOPED_TRACE(std::to_string(bits) + (symmetric ? " symmetric " : " asymmetric ") + std::to_string(group_size));
    const QuantizedLinear linear = make_linear(bits, symmetric, group_size);
    EXPECT_THAT(lossless_gguf_type(scheme_of("l", linear)), Optional(type));
    EXPECT_EQ(gguf_loss(scheme_of("l", linear), type), std::nullopt);
    const auto blocks = gguf_blocks_of_codes(linear, type);
    ASSERT_TRUE(blocks);
    EXPECT_TRUE(ggml_decode(*blocks, type).equal(quantizer::dequantize(linear, at::kFloat)));
  }
  EXPECT_EQ(lossless_gguf_type(scheme_of("l", make_linear(8, false, 32))), std::nullopt);
}

TEST(GgufCodes, AMinimumIsRoundedUnlessItIsAFloat16) {
  QuantizedLinear linear = make_linear(4, false, 32);
  EXPECT_THAT(gguf_loss(scheme_of("l", linear), kGgmlQ4_1), Optional(HasSubstr("rounded to float16")));
  for (const std::int32_t type : {kGgmlQ4_1, kGgmlQ5_1}) {
    const auto blocks = gguf_blocks_of_codes(linear, type);
    ASSERT_TRUE(blocks);
    const at::Tensor difference = ggml_decode(*blocks, type) - quantizer::dequantize(linear, at::kFloat);
    EXPECT_LT(difference.abs().max().item<double>(), 15 * 0.11 / 2048);
  }
  linear.params.scales_OG = at::full_like(linear.params.scales_OG, 0.25);
  EXPECT_TRUE(ggml_decode(*gguf_blocks_of_codes(linear, kGgmlQ4_1), kGgmlQ4_1).equal(quantizer::dequantize(linear, at::kFloat)));
  // A zero in the middle times a float16 is a float16.
  const QuantizedLinear symmetric = make_linear(4, true, 32);
  EXPECT_EQ(gguf_loss(scheme_of("l", symmetric), kGgmlQ4_1), std::nullopt);
  EXPECT_TRUE(ggml_decode(*gguf_blocks_of_codes(symmetric, kGgmlQ4_1), kGgmlQ4_1).equal(quantizer::dequantize(symmetric, at::kFloat)));
}

TEST(GgufCodes, SaysWhatIsLost) {
  const auto loss = [](const std::function<void(Scheme&)>& change, std::int32_t type = kGgmlQ4_0) {
    Scheme scheme = scheme_of("l", make_linear(4, true, 32));
    change(scheme);
    return gguf_loss(scheme, type).value_or("nothing");
  };
  EXPECT_EQ(loss([](Scheme&) {}), "nothing");
  EXPECT_THAT(loss([](Scheme& s) { s.divisor = true; }), HasSubstr("online transform"));
  EXPECT_THAT(loss([](Scheme& s) { s.rotated_input = true; }), HasSubstr("online transform"));
  EXPECT_THAT(loss([](Scheme& s) { s.outliers = true; }), HasSubstr("outliers"));
  EXPECT_THAT(loss([](Scheme& s) { s.group_of_column = true; }), HasSubstr("runs of columns"));
  EXPECT_THAT(loss([](Scheme& s) { s.grid.group_size = 48; }), HasSubstr("blocks of 32"));
  EXPECT_THAT(loss([](Scheme& s) { s.grid.scale_dtype = at::kFloat; }), HasSubstr("float16"));
  EXPECT_THAT(loss([](Scheme& s) { s.grid.bits = 5; }), HasSubstr("more bits"));
  EXPECT_THAT(loss([](Scheme& s) { s.grid.type = quantizer::GridType::fp8_e4m3; }), HasSubstr("once more"));
  EXPECT_THAT(loss([](Scheme& s) { s.activation.bits = 8; }), HasSubstr("input"));
  EXPECT_THAT(loss([](Scheme&) {}, kGgmlQ4_K), HasSubstr("once more"));
  EXPECT_THAT(loss([](Scheme&) {}, kGgmlF16), HasSubstr("rounded"));
  EXPECT_EQ(loss([](Scheme&) {}, kGgmlF32), "nothing");
  QuantizedLinear odd = make_linear(4, true, 32);
  odd.params.scales_OG.add_(1e-6);
  EXPECT_EQ(gguf_blocks_of_codes(odd, kGgmlQ4_0), std::nullopt);
  odd = make_linear(4, true, 32);
  odd.params.zeros_OG.fill_(3);  // codes to 15 - 3 = 12 do not fit -8 .. 7
  EXPECT_EQ(gguf_blocks_of_codes(odd, kGgmlQ4_0), std::nullopt);
}

TEST(GgufCodes, BlocksAsLinears) {
  at::manual_seed(5);
  const at::Tensor weight = at::randn({10, 128});
  for (const std::int32_t type : {kGgmlQ4_0, kGgmlQ4_1, kGgmlQ5_0, kGgmlQ5_1, kGgmlQ8_0}) {
    SCOPED_TRACE(ggml_type_name(type));
    const at::Tensor blocks = ggml_encode(weight, type), values = ggml_decode(blocks, type);
    const auto linear = quantized_from_gguf({type, blocks});
    ASSERT_TRUE(linear);
    const bool minimum = type == kGgmlQ4_1 || type == kGgmlQ5_1;
    EXPECT_EQ(linear->grid.real_zeros, minimum);
    if (minimum)
      EXPECT_LT((quantizer::dequantize(*linear, at::kFloat) - values).abs().max().item<double>(), 1e-6);
    else
      EXPECT_TRUE(quantizer::dequantize(*linear, at::kFloat).equal(values));
    EXPECT_TRUE(gguf_blocks_of_codes(*linear, type)->equal(blocks));
  }
  // Whole zeros stay whole; a block with one value has no zero.
  QuantizedLinear whole = make_linear(4, false, 32);
  whole.params.scales_OG = at::full_like(whole.params.scales_OG, 0.25);
  const auto again = quantized_from_gguf({kGgmlQ4_1, *gguf_blocks_of_codes(whole, kGgmlQ4_1)});
  ASSERT_TRUE(again);
  EXPECT_FALSE(again->grid.real_zeros);
  EXPECT_TRUE(again->codes_OI.equal(whole.codes_OI));
  EXPECT_TRUE(again->params.zeros_OG.equal(whole.params.zeros_OG));
  EXPECT_FALSE(quantized_from_gguf({kGgmlQ4_1, ggml_encode(at::ones({1, 32}), kGgmlQ4_1)}));
  EXPECT_FALSE(quantized_from_gguf({kGgmlQ4_K, ggml_encode(at::randn({1, 256}), kGgmlQ4_K)}));
}

TEST(GgufTypes, Versions) {
  EXPECT_EQ(find_gguf_variant("q4_k_m").mix->file_type, 15u);
  EXPECT_TRUE(find_gguf_variant("q4_0-pure").pure);
  try {
    find_gguf_variant("q4_km");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    EXPECT_THAT(error.fix(), HasSubstr("q4_k_m"));
  }
  EXPECT_EQ(choose_gguf_variant({}), "");
  EXPECT_EQ(choose_gguf_variant({scheme_of("a", make_linear(4, true, 32))}), "");
  for (const auto& [bits, mix] : std::map<int, std::string>{{2, "q2_k"}, {3, "q3_k_m"}, {4, "q4_k_m"}, {5, "q5_k_m"}, {6, "q6_k"}, {8, "q8_0"}}) {
    Scheme scheme = scheme_of("a", make_linear(bits, false, 32));
    scheme.grid.scale_dtype = at::kFloat;
    EXPECT_EQ(choose_gguf_variant({scheme}), mix);
  }
}

// llama-quantize's choices for a model of 32 layers, 4 query heads for each of k and v.
TEST(GgufTypes, Mixes) {
  const auto type = [](const char* mix, const std::string& name, GgufFacts facts = {32, 4, 0, true}, std::int64_t columns = 4096) {
    return ggml_type_name(gguf_mix_type(find_gguf_variant(mix), name, {4096, columns}, facts));
  };
  EXPECT_EQ(type("q4_k_m", "output.weight"), "Q6_K");
  EXPECT_EQ(type("q4_k_m", "token_embd.weight"), "Q4_K");
  EXPECT_EQ(type("q4_k_m", "token_embd.weight", {32, 4, 0, false}), "Q6_K");
  std::string layers;
  for (int l = 0; l < 32; ++l) layers += type("q4_k_m", "blk." + std::to_string(l) + ".ffn_down.weight") == "Q6_K" ? '6' : '4';
  EXPECT_EQ(layers, "6666" "446446446446446446446446" "6666");
  EXPECT_EQ(type("q4_k_m", "blk.9.attn_v.weight"), "Q6_K" == type("q4_k_m", "blk.9.ffn_down.weight") ? "Q6_K" : "Q4_K");
  EXPECT_EQ(type("q4_k_s", "blk.3.attn_v.weight"), "Q5_K");
  EXPECT_EQ(type("q4_k_s", "blk.4.attn_v.weight"), "Q4_K");
  EXPECT_EQ(type("q4_k_s", "blk.3.ffn_down.weight"), "Q5_K");
  EXPECT_EQ(type("q2_k", "blk.9.attn_v.weight"), "Q4_K");
  EXPECT_EQ(type("q2_k", "blk.9.attn_v.weight", {32, 1, 0, true}), "Q3_K");
  EXPECT_EQ(type("q2_k", "blk.9.ffn_down.weight"), "Q3_K");
  EXPECT_EQ(type("q2_k", "blk.9.attn_output.weight"), "Q3_K");
  EXPECT_EQ(type("q2_k", "blk.9.attn_q.weight"), "Q2_K");
  EXPECT_EQ(type("q3_k_m", "blk.1.attn_v.weight"), "Q5_K");
  EXPECT_EQ(type("q3_k_m", "blk.2.attn_v.weight"), "Q4_K");
  EXPECT_EQ(type("q3_k_m", "blk.1.ffn_down.weight"), "Q5_K");
  EXPECT_EQ(type("q3_k_m", "blk.2.ffn_down.weight"), "Q4_K");
  EXPECT_EQ(type("q3_k_m", "blk.2.attn_output.weight"), "Q4_K");
  EXPECT_EQ(type("q3_k_l", "blk.2.attn_output.weight"), "Q5_K");
  EXPECT_EQ(type("q3_k_s", "blk.2.attn_v.weight"), "Q3_K");
  EXPECT_EQ(type("q5_k_m", "blk.0.attn_v.weight"), "Q6_K");
  EXPECT_EQ(type("q4_0", "output.weight"), "Q6_K");
  EXPECT_EQ(type("q4_0-pure", "output.weight"), "Q4_0");
  EXPECT_EQ(type("q8_0", "output.weight"), "Q8_0");
  EXPECT_EQ(type("q4_k_m", "blk.0.attn_k.weight", {32, 4, 8, true}), "Q8_0");
  EXPECT_EQ(type("q4_k_m", "blk.0.ffn_gate_inp.weight"), "F32");
  // Rows of 576: no whole super-blocks.
  EXPECT_EQ(type("q4_k_m", "output.weight", {32, 4, 0, true}, 576), "Q8_0");
  EXPECT_EQ(type("q4_k_m", "blk.9.attn_q.weight", {32, 4, 0, true}, 576), "Q5_0");
  EXPECT_EQ(type("q5_k_m", "blk.9.attn_q.weight", {32, 4, 0, true}, 576), "Q5_1");
  EXPECT_EQ(type("q6_k", "blk.9.attn_q.weight", {32, 4, 0, true}, 576), "Q8_0");
  EXPECT_EQ(type("q2_k", "blk.9.attn_q.weight", {32, 4, 0, true}, 576), "Q4_0");
  EXPECT_EQ(type("q4_0", "blk.9.attn_q.weight", {32, 4, 0, true}, 100), "F16");
  EXPECT_EQ(gguf_mix_type(find_gguf_variant("f16"), "output_norm.weight", {4096}, {}), kGgmlF32);
}

class GgufExportTest : public testing::Test {
 protected:
  GgufExportTest() {
    at::manual_seed(7);
    for (const char* name : {"q.weight", "e.0.weight", "e.1.weight", "head.weight"}) tensors_[name] = at::randn({8, 64}).to(at::kBFloat16);
    tensors_["norm.weight"] = at::rand({64}).to(at::kBFloat16);
    tensors_["q.bias"] = at::rand({8}).to(at::kBFloat16);
    tensors_["buffer"] = at::ones({1});
    names_.metadata = {{"general.architecture", std::string("llama")}, {"llama.block_count", std::uint32_t{1}}};
    names_.extra = {{"rope_freqs.weight", at::ones({4})}};
    names_.place = [](const std::string& tensor) -> std::optional<GgufPlace> {
      if (tensor == "buffer") return std::nullopt;
      if (tensor.rfind("q.", 0) == 0) return GgufPlace{.name = "blk.0.attn_" + tensor, .heads = 2};
      if (tensor.rfind("e.", 0) == 0) return GgufPlace{.name = "blk.0.ffn_up_exps.weight", .expert = tensor[2] - '0', .experts = 2};
      return GgufPlace{.name = tensor == "head.weight" ? "output.weight" : "output_norm.weight"};
    };
  }
  std::filesystem::path path() const { return folder_.path() / "model.gguf"; }

  std::map<std::string, at::Tensor> tensors_;
  GgufNames names_;
  miq::test::TempFolder folder_;
};

TEST_F(GgufExportTest, LosslessByItself) {
  test::MemorySource source;
  source.tensors = tensors_;
  const QuantizedLinear q = make_linear(4, true, 32, 8), e = make_linear(8, true, 32, 8);
  GgufExport out(path(), source, {scheme_of("q", q), scheme_of("e.0", e), scheme_of("e.1", e)}, {}, names_);
  EXPECT_THAT(out.type_of("q.weight"), Optional(static_cast<std::int32_t>(kGgmlQ4_0)));
  EXPECT_EQ(out.type_of("buffer"), std::nullopt);
  out.put("q", q);
  out.put({{"e.1", std::make_shared<const QuantizedLinear>(e)}});
  out.put("norm.weight", tensors_["norm.weight"] * 2);
  EXPECT_THROW(out.put("q", q), Error);
  EXPECT_THROW(out.finish(), Error);  // e.0 never came
  out.put("e.0", e);
  out.finish();
  EXPECT_TRUE(out.requantized().empty());
  const GgufFile file = GgufFile::open(path());
  EXPECT_TRUE(from_interleaved_rows(file.tensor("blk.0.attn_q.weight"), 2).equal(quantizer::dequantize(q, at::kFloat)));
  EXPECT_TRUE(from_interleaved_rows(file.tensor("blk.0.attn_q.bias"), 2).equal(tensors_["q.bias"].to(at::kFloat)));
  EXPECT_TRUE(file.tensor("blk.0.ffn_up_exps.weight")[1].equal(quantizer::dequantize(e, at::kFloat)));
  EXPECT_TRUE(file.tensor("output.weight").equal(tensors_["head.weight"]));
  EXPECT_TRUE(file.tensor("output_norm.weight").equal(tensors_["norm.weight"].to(at::kFloat) * 2));
  EXPECT_TRUE(file.tensor("rope_freqs.weight").equal(at::ones({4})));
  EXPECT_EQ(file.tensors().size(), 6u);
  EXPECT_EQ(file.metadata()["general.quantization_version"], 2);
  EXPECT_EQ(file.metadata()["general.file_type"], 7);
}

TEST_F(GgufExportTest, OtherTypesAreQuantizedOnceMore) {
  test::MemorySource source;
  source.tensors = tensors_;
  const QuantizedLinear q = make_linear(4, false, 32, 8);
  FormatOptions options;
  options.variant = "q4_k_m";
  GgufExport out(path(), source, {scheme_of("q", q)}, options, names_);
  out.put("q", q);
  out.finish();
  const GgufFile file = GgufFile::open(path());
  EXPECT_EQ(file.tensors().at("blk.0.attn_q.weight").type, kGgmlQ5_0);  // rows of 64
  EXPECT_TRUE(from_interleaved_rows(file.tensor("blk.0.attn_q.weight"), 2).equal(quantizer::dequantize(q, at::kFloat)));
  EXPECT_EQ(file.tensors().at("output.weight").type, kGgmlQ8_0);
  EXPECT_TRUE(file.tensor("output.weight").equal(ggml_decode(ggml_encode(tensors_["head.weight"], kGgmlQ8_0), kGgmlQ8_0)));
  EXPECT_EQ(file.metadata()["general.file_type"], 15);
}

TEST_F(GgufExportTest, ALinearThatDoesNotFitIsNamed) {
  test::MemorySource source;
  source.tensors = tensors_;
  QuantizedLinear q = make_linear(4, true, 32, 8);
  GgufExport out(path(), source, {scheme_of("q", q)}, {}, names_);
  q.params.scales_OG.add_(1e-5);
  out.put("q", q);
  out.finish();
  EXPECT_THAT(out.requantized(), testing::ElementsAre("q"));
  const at::Tensor written = from_interleaved_rows(GgufFile::open(path()).tensor("blk.0.attn_q.weight"), 2);
  EXPECT_LT(miq::test::relative_difference(written, quantizer::dequantize(q, at::kFloat)), 0.15);
}

}  // namespace
}  // namespace miq::format
