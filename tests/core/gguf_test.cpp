// GGUF: block types to the bit, real files of llama.cpp, and damaged ones.
#include "miq/core/gguf.h"

#include <gmock/gmock.h>

#include <cstring>
#include <fstream>
#include <random>

#include "../../src/core/gguf_blocks.h"
#include "archives.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/mapped_file.h"
#include "miq/core/memory.h"
#include "miq/core/safetensors.h"
#include "support/golden.h"

namespace miq {
namespace {
using testing::HasSubstr;
namespace fs = std::filesystem;

std::string text(const std::string& value) { return test::bytes_of(std::uint64_t{value.size()}) + value; }
template <class T>
std::string key(const std::string& name, std::uint32_t type, T value) {
  return text(name) + test::bytes_of(type) + test::bytes_of(value);
}
std::string tensor(const std::string& name, const std::vector<std::uint64_t>& dims, std::int32_t type,
                   std::uint64_t offset) {
  std::string info = text(name) + test::bytes_of(static_cast<std::uint32_t>(dims.size()));
  for (const std::uint64_t extent : dims) info += test::bytes_of(extent);
  return info + test::bytes_of(type) + test::bytes_of(offset);
}
std::string file_of(const std::vector<std::string>& keys, const std::vector<std::string>& tensors,
                    const std::string& data, std::uint32_t version = 3) {
  std::string file = "GGUF" + test::bytes_of(version) + test::bytes_of(std::uint64_t{tensors.size()}) +
                     test::bytes_of(std::uint64_t{keys.size()});
  for (const std::string& part : keys) file += part;
  for (const std::string& part : tensors) file += part;
  file.resize((file.size() + 31) / 32 * 32);
  return file + data;
}
std::string array(const std::string& name, std::uint32_t type, std::uint64_t count, const std::string& elements) {
  return text(name) + test::bytes_of(std::uint32_t{9}) + test::bytes_of(type) + test::bytes_of(count) + elements;
}

class Gguf : public testing::Test {
 protected:
  GgufFile open(const std::string& content) { return GgufFile::open(MappedFile::copy(content, "a.gguf")); }
  std::string open_error(const std::string& content) {
    try {
      const GgufFile file = open(content);
      for (const auto& [name, info] : file.tensors()) file.tensor(name);
      return "";
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::io || error.kind() == ErrorKind::unsupported) << error.what();
      return error.message();
    }
  }
};

TEST_F(Gguf, KeysAndTensors) {
  std::string data(64, '\0');
  for (int i = 0; i < 6; ++i) std::memcpy(data.data() + 4 * i, &(const float&)(static_cast<float>(i)), 4);
  const std::uint16_t one = 0x3C00;
  std::memcpy(data.data() + 32, &one, 2);
  for (int i = 0; i < 16; ++i) data[static_cast<size_t>(34 + i)] = static_cast<char>(i | (15 - i) << 4);
  const GgufFile file = open(file_of(
      {key("a", 0, std::uint8_t{200}), key("b", 5, std::int32_t{-3}), key("c", 6, 0.5f), key("d", 7, std::uint8_t{1}),
       key("e", 10, ~std::uint64_t{0}), key("f", 12, -1.5), text("g") + test::bytes_of(std::uint32_t{8}) + text("xyz"),
       array("h", 8, 2, text("p") + text("")), array("i", 1, 3, "\x01\xff\x7f"), array("j", 4, 0, "")},
      {tensor("plain", {3, 2}, 0, 0), tensor("blocks", {32, 1}, 2, 32)}, data));
  EXPECT_EQ(file.metadata(),
            nlohmann::json::parse(R"({"a": 200, "b": -3, "c": 0.5, "d": true, "e": 18446744073709551615, "f": -1.5,
                                                       "g": "xyz", "h": ["p", ""], "i": [1, -1, 127], "j": []})"));
  EXPECT_TRUE(file.tensor("plain").equal(at::arange(6, at::kFloat).view({2, 3})));
  EXPECT_TRUE(file.rows("plain", 1, 1).equal(at::arange(3, 6, at::kFloat).view({1, 3})));
  EXPECT_EQ(file.rows("plain", 2, 0).sizes(), at::IntArrayRef({0, 3}));
  EXPECT_THROW(file.rows("plain", 1, 2), Error);
  EXPECT_THROW(file.rows("plain", -1, 1), Error);
  const at::Tensor down = at::arange(7, -9, -1, at::kFloat);
  EXPECT_TRUE(file.tensor("blocks").equal(at::cat({down.flip(0), down}).view({1, 32})));
  EXPECT_THROW(file.tensor("none"), Error);
  EXPECT_EQ(ggml_type_name(12), "Q4_K");
  EXPECT_EQ(ggml_type_name(99), "type 99");
  for (const char* name : {"plain", "none"}) file.advise(name, true);
}

TEST_F(Gguf, Malformed) {
  const std::string data(64, '\0'), good = tensor("w", {3, 2}, 0, 0);
  constexpr std::uint64_t kHuge = std::uint64_t{1} << 62;
  EXPECT_EQ(open_error(file_of({}, {good}, data)), "");
  EXPECT_EQ(open_error(file_of({}, {}, "")), "");
  EXPECT_EQ(open_error(file_of({}, {tensor("w", {}, 0, 0)}, data)), "");
  EXPECT_EQ(open_error(file_of({}, {tensor("w", {0, 5}, 0, 0)}, data)), "");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "GGUF"},
      {"GGUF", "GGUF"},
      {"GGML" + std::string(60, '\0'), "GGUF"},
      {file_of({}, {good}, data, 1), "version 1"},
      {file_of({}, {good}, data, 0x03000000), "big-endian"},
      {file_of({key("a", 4, 1u), key("a", 4, 1u)}, {}, ""), "twice"},
      {file_of({key("", 4, 1u)}, {}, ""), "without a name"},
      {file_of({key("a", 13, 1u)}, {}, ""), "type 13"},
      {file_of({array("a", 9, 1, array("", 4, 0, ""))}, {}, ""), "type 9"},
      {file_of({array("a", 0, kHuge, "")}, {}, ""), "more than fit"},
      {file_of({array("a", 8, kHuge, "")}, {}, ""), "more than fit"},
      {file_of({array("a", 10, 20, std::string(60, '\0'))}, {}, ""), "ends early"},
      {file_of({key("a", 8, kHuge)}, {}, ""), "more than fit"},
      {file_of({key("general.alignment", 4, 24u)}, {good}, data), "power of two"},
      {file_of({key("general.alignment", 4, 0u)}, {good}, data), "power of two"},
      {file_of({key("general.alignment", 4, 1u << 31)}, {good}, data), "power of two"},
      {file_of({key("general.alignment", 5, -32)}, {good}, data), "power of two"},
      {file_of({}, {tensor("", {1}, 0, 0)}, data), "without a name"},
      {file_of({}, {tensor("w", {1, 1, 1, 1, 1}, 0, 0)}, data), "5 axes"},
      {file_of({}, {tensor("w", {kHuge, kHuge}, 0, 0)}, data), "does not fit"},
      {file_of({}, {tensor("w", {kHuge, kHuge, 0}, 0, 0)}, data), "does not fit"},
      {file_of({}, {tensor("w", {~std::uint64_t{0}}, 0, 0)}, data), "extent"},
      {file_of({}, {tensor("w", {3, 2}, 99, 0)}, data), "type 99"},
      {file_of({}, {tensor("w", {3, 2}, -1, 0)}, data), "type -1"},
      {file_of({}, {tensor("w", {3, 2}, 4, 0)}, data), "type 4"},
      {file_of({}, {tensor("w", {33}, 2, 0)}, data), "blocks of 32"},
      {file_of({}, {tensor("w", {256}, 18, 0)}, data + data), "cannot be read"},
      {file_of({}, {tensor("w", {3, 2}, 0, 32)}, data), "not at 0"},
      {file_of({}, {tensor("w", {3, 2}, 0, ~std::uint64_t{31})}, data), "not at 0"},
      {file_of({}, {good, tensor("v", {3, 2}, 0, 0)}, data), "not at 32"},
      {file_of({}, {good, tensor("w", {3, 2}, 0, 32)}, data), "twice"},
      {file_of({}, {tensor("w", {17}, 0, 0)}, data), "beyond"},
      {file_of({}, {tensor("w", {17 * 32}, 2, 0)}, data), "beyond"}};
  for (const auto& [content, expected] : cases) EXPECT_THAT(open_error(content), HasSubstr(expected));
  for (const size_t at : {size_t{8}, size_t{16}})
    for (const std::uint64_t count : {std::uint64_t{100}, kHuge, ~std::uint64_t{0}}) {
      std::string content = file_of({}, {good}, data);
      std::memcpy(content.data() + at, &count, 8);
      EXPECT_THAT(open_error(content), HasSubstr("more than fit"));
    }
}

TEST_F(Gguf, TruncationsAndBitFlips) {
  const std::string whole = file_of({key("a", 4, 7u), array("h", 8, 2, text("p") + text(""))},
                                    {tensor("w", {32}, 8, 0)}, std::string(34, '\1'));
  EXPECT_EQ(open_error(whole), "");
  for (size_t length = 0; length < whole.size(); ++length) EXPECT_NE(open_error(whole.substr(0, length)), "") << length;
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string changed = whole;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ 1 << bit % 8);
    open_error(changed);
  }
}

TEST_F(Gguf, MetadataIsBounded) {
  const std::int64_t before = anonymous_rss_bytes();
  const std::string content = file_of({array("a", 0, 8 << 20, std::string(8 << 20, '\1'))}, {}, "");
  EXPECT_THAT(open_error(content), HasSubstr("values"));
  EXPECT_LT(anonymous_rss_bytes() - before, std::int64_t{512} << 20);
}

TEST_F(Gguf, FoundInAFolder) {
  const test::TempFolder folder;
  const auto touch = [&](const char* name) { std::ofstream(folder.path() / name) << "x"; };
  EXPECT_EQ(find_gguf(folder.path()), std::nullopt);
  touch("model.gguf");
  EXPECT_EQ(find_gguf(folder.path()), folder.path() / "model.gguf");
  EXPECT_EQ(find_gguf(folder.path() / "model.gguf"), folder.path() / "model.gguf");
  EXPECT_EQ(find_gguf(folder.path() / "none.gguf"), std::nullopt);
  touch("config.json");
  EXPECT_EQ(find_gguf(folder.path()), folder.path() / "model.gguf");
  EXPECT_EQ(find_gguf(folder.path() / "config.json"), std::nullopt);
  touch("reference.safetensors");
  EXPECT_EQ(find_gguf(folder.path()), folder.path() / "model.gguf");
  touch("pytorch_model.bin");
  EXPECT_EQ(find_gguf(folder.path()), std::nullopt);
  fs::remove(folder.path() / "pytorch_model.bin");
  touch("other.gguf");
  EXPECT_EQ(find_gguf(folder.path()), std::nullopt);
}

TEST(GgufGolden, BlocksToTheBit) {
  MIQ_REQUIRE_GOLDEN("formats/vectors/gguf_blocks.safetensors");
  const SafetensorsFile vectors = SafetensorsFile::open(test::golden_dir() / "formats/vectors/gguf_blocks.safetensors");
  int types = 0;
  for (std::int32_t id = 0; id < 64; ++id) {
    const GgmlType* const type = find_ggml_type(id);
    if (type == nullptr || type->dequantize == nullptr) continue;
    SCOPED_TRACE(type->name);
    const at::Tensor raw = vectors.tensor(std::string(type->name) + ".raw").contiguous(),
                     theirs = vectors.tensor(std::string(type->name) + ".deq");
    ASSERT_EQ(raw.numel() / type->bytes * type->block, theirs.numel());
    at::Tensor ours = at::empty_like(theirs);
    type->dequantize(raw.const_data_ptr<std::uint8_t>(), ours.mutable_data_ptr<float>(), raw.numel() / type->bytes);
    EXPECT_EQ(std::memcmp(ours.const_data_ptr(), theirs.const_data_ptr(), theirs.nbytes()), 0);
    ++types;
  }
  EXPECT_EQ(types, 12);
}

// llama.cpp's names of the tensors that stand in expected.safetensors, without those whose rows it permutes.
TEST(GgufGolden, FilesOfLlamaCpp) {
  MIQ_REQUIRE_GOLDEN("formats/gguf_q4_0");
  int compared = 0;
  for (const auto& entry : fs::directory_iterator(test::golden_dir() / "formats")) {
    if (!entry.path().filename().string().starts_with("gguf_")) continue;
    SCOPED_TRACE(entry.path().string());
    EXPECT_EQ(find_gguf(entry.path()), entry.path() / "model.gguf");
    const GgufFile file = GgufFile::open(entry.path() / "model.gguf");
    const nlohmann::json dump = nlohmann::json::parse(read_file(entry.path() / "gguf_dump.json"));
    for (const auto& [name, row] : dump["kv"].items()) {
      if (name.starts_with("GGUF.")) continue;
      ASSERT_TRUE(file.metadata().contains(name)) << name;
      if (row["value"].is_object())
        EXPECT_EQ(file.metadata()[name].size(), row["value"]["len"].get<size_t>()) << name;
      else
        EXPECT_EQ(file.metadata()[name], row["value"]) << name;
    }
    EXPECT_EQ(file.metadata().size(), dump["kv"]["GGUF.kv_count"]["value"].get<size_t>());
    EXPECT_EQ(file.tensors().size(), dump["kv"]["GGUF.tensor_count"]["value"].get<size_t>());
    const SafetensorsFile expected = SafetensorsFile::open(entry.path() / "expected.safetensors");
    for (const auto& [theirs, ours] :
         std::map<std::string, std::string>{{"model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"},
                                            {"model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight"},
                                            {"model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight"},
                                            {"model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"},
                                            {"lm_head.weight", "output.weight"}}) {
      if (!expected.has(theirs)) continue;
      EXPECT_TRUE(file.tensor(ours).to(at::kFloat).equal(expected.tensor(theirs))) << theirs;
      EXPECT_TRUE(file.rows(ours, 3, 5).to(at::kFloat).equal(expected.tensor(theirs).slice(0, 3, 8))) << theirs;
      ++compared;
    }
  }
  EXPECT_GT(compared, 20);
}

}  // namespace
}  // namespace miq
