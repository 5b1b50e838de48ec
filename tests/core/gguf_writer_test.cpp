// Writing GGUF: the file against our reader, encoders against ggml's own blocks.
#include "miq/core/gguf_writer.h"

#include <gmock/gmock.h>

#include "miq/core/error.h"
#include "miq/core/gguf.h"
#include "miq/core/safetensors.h"
#include "support/golden.h"

namespace miq {
namespace {
using testing::HasSubstr;

constexpr std::int32_t kBlockTypes[] = {kGgmlQ4_0, kGgmlQ4_1, kGgmlQ5_0, kGgmlQ5_1, kGgmlQ8_0, kGgmlQ2_K, kGgmlQ3_K, kGgmlQ4_K, kGgmlQ5_K, kGgmlQ6_K};
constexpr std::int32_t kSuperBlockTypes[] = {kGgmlQ2_K, kGgmlQ3_K, kGgmlQ4_K, kGgmlQ5_K, kGgmlQ6_K};

class GgufWriterTest : public testing::Test {
 protected:
  std::filesystem::path path() const { return folder_.path() / "a.gguf"; }
  std::string error_of(const std::function<void()>& action) {
    try {
      action();
      return "";
    } catch (const Error& error) {
      return error.message();
    }
  }
  test::TempFolder folder_;
};

TEST_F(GgufWriterTest, ReadsWhatItWrote) {
  at::manual_seed(1);
  const GgufMetadata metadata = {{"a", std::uint32_t{4000000000}},
                                 {"b", std::int32_t{-3}},
                                 {"c", 0.5f},
                                 {"d", true},
                                 {"e", std::string("x\0y", 3)},
                                 {"f", std::vector<std::string>{"p", ""}},
                                 {"g", std::vector<float>{1.5f, -2}},
                                 {"h", std::vector<std::int32_t>{-1, 7}},
                                 {"i", std::vector<std::string>{}}};
  const at::Tensor matrix = at::randn({3, 64}), vector = at::randn({5}), half = at::randn({2, 3}).to(at::kHalf);
  const at::Tensor experts = at::randn({4, 2, 32});
  GgufWriter writer(path(), metadata,
                    {{"vector", kGgmlF32, {5}}, {"blocks", kGgmlQ8_0, {3, 64}}, {"half", kGgmlF16, {2, 3}}, {"experts", kGgmlQ4_0, {4, 2, 32}}, {"bf16", kGgmlBf16, {5}}});
  for (const std::int64_t e : {2, 0, 3, 1}) writer.write_entry("experts", e, ggml_encode(experts[e], kGgmlQ4_0));
  writer.write("half", half);
  writer.write("bf16", ggml_encode(vector, kGgmlBf16));
  writer.write("blocks", ggml_encode(matrix, kGgmlQ8_0));
  EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr("'vector' was never written"));
  writer.write("vector", vector);
  writer.finish();
  writer.finish();

  const GgufFile file = GgufFile::open(path());
  EXPECT_EQ(file.metadata(), (nlohmann::json{{"a", 4000000000}, {"b", -3}, {"c", 0.5}, {"d", true}, {"e", std::string("x\0y", 3)}, {"f", {"p", ""}}, {"g", {1.5, -2.0}},
                                             {"h", {-1, 7}}, {"i", nlohmann::json::array()}}));
  EXPECT_TRUE(file.tensor("vector").equal(vector));
  EXPECT_TRUE(file.tensor("half").equal(half));
  EXPECT_TRUE(file.tensor("bf16").equal(vector.to(at::kBFloat16)));
  EXPECT_TRUE(file.tensor("blocks").equal(ggml_decode(ggml_encode(matrix, kGgmlQ8_0), kGgmlQ8_0)));
  EXPECT_TRUE(file.tensor("experts").equal(ggml_decode(ggml_encode(experts, kGgmlQ4_0), kGgmlQ4_0)));
  EXPECT_TRUE(file.blocks("experts", 2, 2).equal(ggml_encode(experts[2], kGgmlQ4_0)));
  EXPECT_THROW(file.blocks("experts", 4, 2), Error);
  EXPECT_THROW(file.blocks("vector", 0, 1), Error);
  // llama.cpp wants the last tensor padded, too.
  EXPECT_EQ(std::filesystem::file_size(path()) % 32, 0u);
}

TEST_F(GgufWriterTest, RefusesWhatWasNotAnnounced) {
  GgufWriter writer(path(), {}, {{"w", kGgmlF32, {2, 3}}, {"e", kGgmlF32, {2, 3}}});
  for (const at::Tensor& wrong : {at::zeros({2, 3}, at::kHalf), at::zeros({2, 2})}) EXPECT_THAT(error_of([&] { writer.write("w", wrong); }), HasSubstr("announced"));
  writer.write("w", at::zeros({2, 3}));
  EXPECT_THAT(error_of([&] { writer.write("w", at::zeros({2, 3})); }), HasSubstr("comes twice"));
  EXPECT_THAT(error_of([&] { writer.write("x", at::zeros({2, 3})); }), HasSubstr("not announced"));
  writer.write_entry("e", 1, at::zeros({3}));
  EXPECT_THAT(error_of([&] { writer.write_entry("e", 1, at::zeros({3})); }), HasSubstr("comes twice"));
  EXPECT_THAT(error_of([&] { writer.write_entry("e", 2, at::zeros({3})); }), HasSubstr("announced"));
  EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr("'e' was never written, or not all of it"));
  EXPECT_THROW(GgufWriter(path(), {{"a", true}, {"a", true}}, {}), Error);
  EXPECT_THROW(GgufWriter(path(), {}, {{"w", kGgmlF32, {2}}, {"w", kGgmlF32, {2}}}), Error);
  EXPECT_THROW(GgufWriter(path(), {}, {{std::string(64, 'w'), kGgmlF32, {2}}}), Error);
  EXPECT_THROW(GgufWriter(path(), {}, {{"w", kGgmlQ4_0, {33}}}), Error);
  EXPECT_THROW(GgufWriter(folder_.path() / "none" / "a.gguf", {}, {}), Error);
}

TEST_F(GgufWriterTest, ADiskWithoutRoomIsFoundAtOnce) {
  try {
    const GgufWriter writer(path(), {}, {{"w", kGgmlF32, {std::int64_t{1} << 30, std::int64_t{1} << 26}}});
    FAIL() << "2^58 bytes";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
  }
}

TEST_F(GgufWriterTest, InterleavedRows) {
  const at::Tensor rows = at::arange(8).view({8, 1});
  EXPECT_TRUE(to_interleaved_rows(rows, 2).equal(at::tensor({0, 2, 1, 3, 4, 6, 5, 7}, at::kLong).view({8, 1})));
  EXPECT_TRUE(from_interleaved_rows(to_interleaved_rows(rows, 2), 2).equal(rows));
  EXPECT_TRUE(to_interleaved_rows(rows.flatten(), 1).equal(at::tensor({0, 4, 1, 5, 2, 6, 3, 7}, at::kLong)));
  EXPECT_THROW(to_interleaved_rows(rows, 3), Error);
}

TEST_F(GgufWriterTest, EncodersRefuseWhatIsNotANumber) {
  at::Tensor values = at::ones({1, 256});
  values[0][3] = std::numeric_limits<float>::infinity();
  for (const std::int32_t type : kBlockTypes) EXPECT_THAT(error_of([&] { ggml_encode(values, type); }), HasSubstr("not finite"));
  EXPECT_THAT(error_of([&] { ggml_encode(at::full({1, 2}, 1e5), kGgmlF16); }), HasSubstr("too large"));
  EXPECT_THAT(error_of([&] { ggml_encode(at::ones({1, 33}), kGgmlQ4_0); }), HasSubstr("33 values"));
  EXPECT_FALSE(ggml_can_encode(20));
}

TEST_F(GgufWriterTest, ConstantAndEmptyBlocks) {
  for (const std::int32_t type : kBlockTypes) {
    for (const double value : {0.0, 1.0, -1.0, 1e-30}) {
      const at::Tensor values = at::full({3, 256}, value, at::kFloat);
      EXPECT_LT((ggml_decode(ggml_encode(values, type), type) - values).abs().max().item<double>(), 0.02) << ggml_type_name(type) << " " << value;
    }
    EXPECT_EQ(ggml_encode(at::empty({0, 256}), type).size(0), 0);
  }
}

// Columns that count more get smaller errors, those that do not count at all are left to the others.
TEST_F(GgufWriterTest, ImportanceMovesTheError) {
  at::manual_seed(2);
  const at::Tensor values = at::randn({9, 512}), importance = at::rand({512}).pow(4);
  for (const std::int32_t type : kSuperBlockTypes) {
    const auto error = [&](const at::Tensor& blocks) { return ((ggml_decode(blocks, type) - values).square() * importance).sum().item<double>(); };
    EXPECT_LT(error(ggml_encode(values, type, importance)), 0.9 * error(ggml_encode(values, type))) << ggml_type_name(type);
    EXPECT_TRUE(ggml_encode(values, type, at::ones({512})).equal(ggml_encode(values, type))) << ggml_type_name(type);
    EXPECT_NO_THROW(ggml_encode(values, type, at::zeros({512})));
  }
}

// A block's codes do not depend on what stands beside it: two super-blocks share the vectors of Q4_K and Q5_K.
TEST_F(GgufWriterTest, BlocksAreIndependent) {
  at::manual_seed(3);
  const at::Tensor values = at::randn({1, 7 * 256});
  for (const std::int32_t type : kSuperBlockTypes) {
    const at::Tensor all = ggml_encode(values, type).view({7, -1}), alone = ggml_encode(values.view({7, 256}).slice(0, 5, 6), type);
    EXPECT_TRUE(all.slice(0, 5, 6).equal(alone)) << ggml_type_name(type);
  }
}

TEST(GoldenGgufBlocks, ReferenceQuantizersToTheBit) {
  MIQ_REQUIRE_GOLDEN("formats/vectors/gguf_blocks.safetensors");
  const SafetensorsFile vectors = SafetensorsFile::open(test::golden_dir() / "formats/vectors/gguf_blocks.safetensors");
  const at::Tensor source = vectors.tensor("src");
  for (const std::int32_t type : {kGgmlF16, kGgmlBf16, kGgmlQ4_0, kGgmlQ4_1, kGgmlQ5_0, kGgmlQ5_1, kGgmlQ8_0}) {
    const at::Tensor ours = ggml_encode(source, type), raw = vectors.tensor(ggml_type_name(type) + ".raw");
    EXPECT_TRUE(ours.view(at::kByte).equal(raw)) << ggml_type_name(type);
    EXPECT_TRUE(ggml_decode(ours, type).equal(vectors.tensor(ggml_type_name(type) + ".deq"))) << ggml_type_name(type);
  }
}

TEST(GoldenGgufBlocks, SearchIsNotWorseThanGgmls) {
  MIQ_REQUIRE_GOLDEN("formats/vectors/gguf_blocks.safetensors");
  const SafetensorsFile vectors = SafetensorsFile::open(test::golden_dir() / "formats/vectors/gguf_blocks.safetensors");
  const at::Tensor source = vectors.tensor("src").to(at::kDouble);
  for (const std::int32_t type : kSuperBlockTypes) {
    const auto error = [&](const at::Tensor& values) { return (values - source).square().sum().item<double>(); };
    const double ours = error(ggml_decode(ggml_encode(source, type), type)), theirs = error(vectors.tensor(ggml_type_name(type) + ".deq"));
    EXPECT_LE(ours, theirs) << ggml_type_name(type);
    RecordProperty(ggml_type_name(type), std::to_string(ours / theirs));
  }
}

}  // namespace
}  // namespace miq
