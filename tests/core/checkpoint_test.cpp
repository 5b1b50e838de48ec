// Checkpoints: one file or shards, and the ways a folder can be incomplete.
#include "miq/core/checkpoint.h"

#include <gmock/gmock.h>

#include <fstream>

#include "archives.h"
#include "miq/core/error.h"
#include "miq/core/mapped_file.h"
#include "support/golden.h"

namespace miq {
namespace {
using testing::HasSubstr;
namespace fs = std::filesystem;

class Checkpoint : public testing::Test {
 protected:
  std::string open_error(const fs::path& path) {
    try {
      open_checkpoint(path);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::io);
      return error.message() + " | " + error.where();
    }
    return "no error";
  }
  void write_index(const std::string& text) { std::ofstream(at("model.safetensors.index.json")) << text; }
  void write_shards() {
    CheckpointWriter writer(folder_.path(), 3, 220, 100);
    for (const TensorSpec& spec : specs_) writer.write(spec.name, at::full(spec.shape, 2.0f));
    writer.finish();
  }
  fs::path at(const std::string& name) const { return folder_.path() / name; }

  test::TempFolder folder_;
  const std::vector<TensorSpec> specs_ = {{"a", at::kFloat, {20}}, {"b", at::kFloat, {5}}, {"c", at::kFloat, {30}}};
};

TEST_F(Checkpoint, ShardsRoundTrip) {
  write_shards();
  EXPECT_TRUE(fs::exists(at("model-00002-of-00002.safetensors")));
  const auto source = open_checkpoint(folder_.path());
  ASSERT_EQ(source->specs().size(), 3u);
  EXPECT_EQ(source->specs()[2].name, "c");
  EXPECT_EQ(source->bytes(), 220);
  EXPECT_TRUE(source->has("b"));
  EXPECT_FALSE(source->has("d"));
  EXPECT_TRUE(source->tensor("c").equal(at::full({30}, 2.0f)));
  EXPECT_THROW(source->tensor("d"), Error);
  source->advise("d", true);
}

TEST_F(Checkpoint, OneFileByFolderOrByName) {
  save_safetensors(at("model.safetensors"), {{"x", at::ones({2})}});
  EXPECT_TRUE(open_checkpoint(folder_.path())->has("x"));
  EXPECT_TRUE(open_checkpoint(at("model.safetensors"))->has("x"));
  EXPECT_FALSE(fs::exists(at("model.safetensors.index.json")));
}

TEST_F(Checkpoint, NothingThere) {
  EXPECT_THAT(open_error(folder_.path()), HasSubstr("no weights"));
  EXPECT_THAT(open_error(at("none")), HasSubstr("none"));
}

TEST_F(Checkpoint, ShardMissingOrWithoutItsTensor) {
  write_shards();
  fs::rename(at("model-00002-of-00002.safetensors"), at("away"));
  EXPECT_THAT(open_error(folder_.path()), testing::AllOf(HasSubstr("shard"), HasSubstr("model-00002-of-00002")));
  save_safetensors(at("model-00002-of-00002.safetensors"), {{"other", at::ones({2})}});
  EXPECT_THAT(open_error(folder_.path()), testing::AllOf(HasSubstr("'c'"), HasSubstr("model-00002-of-00002")));
  save_safetensors(at("model-00002-of-00002.safetensors"), {{"a", at::ones({2})}, {"c", at::ones({2})}});
  EXPECT_THAT(open_error(folder_.path()), HasSubstr("two shards"));
}

TEST_F(Checkpoint, MalformedIndex) {
  for (const char* text :
       {"", "{", "[]", "3", "{}", R"({"weight_map": 3})", R"({"weight_map": {}})", R"({"weight_map": {"a": 3}})",
        R"({"weight_map": {"a": "../model.safetensors"}})", R"({"weight_map": {"a": "/etc/passwd"}})",
        R"({"weight_map": {"a": ".."}})", R"({"weight_map": {"a": "."}})", R"({"weight_map": {"a": ""}})"}) {
    write_index(text);
    EXPECT_NE(open_error(folder_.path()), "no error") << text;
  }
}

TEST_F(Checkpoint, TorchFilesWhereThereAreNoSafetensors) {
  namespace p = test::pickle;
  const auto torch_file = [](const std::string& name) {
    return test::make_torch_file(p::whole(p::dict({{name, p::tensor(p::storage("FloatStorage", "0", 2), 0, {2}, {1})}})), {std::string(8, '\0')});
  };
  std::ofstream(at("pytorch_model.bin.index.json")) << R"({"weight_map": {"b": "two.bin", "a": "one.bin"}})";
  std::ofstream(at("one.bin"), std::ios::binary) << torch_file("a");
  EXPECT_THAT(open_error(folder_.path()), testing::AllOf(HasSubstr("shard"), HasSubstr("two.bin")));
  std::ofstream(at("two.bin"), std::ios::binary) << torch_file("c");
  EXPECT_THAT(open_error(folder_.path()), testing::AllOf(HasSubstr("'b'"), HasSubstr("two.bin")));
  std::ofstream(at("two.bin"), std::ios::binary) << torch_file("b");
  const auto shards = open_checkpoint(folder_.path());
  EXPECT_EQ(shards->bytes(), 16);
  EXPECT_TRUE(shards->tensor("b").equal(at::zeros({2})));
  shards->advise("b", true);
  EXPECT_TRUE(open_checkpoint(at("one.bin"))->has("a"));
  std::ofstream(at("pytorch_model.bin"), std::ios::binary) << torch_file("single");
  EXPECT_TRUE(open_checkpoint(folder_.path())->has("single"));
  EXPECT_TRUE(has_checkpoint(folder_.path()));
  save_safetensors(at("model.safetensors"), {{"safe", at::ones({2})}});
  EXPECT_TRUE(open_checkpoint(folder_.path())->has("safe"));
}

TEST_F(Checkpoint, MappedFiles) {
  std::ofstream(at("empty"));
  EXPECT_EQ(MappedFile::open(at("empty"))->size(), 0);
  EXPECT_EQ(MappedFile::copy("", "nothing")->size(), 0);
  EXPECT_EQ(MappedFile::copy("abc", "three")->view(1, 2), "bc");
  for (const fs::path& path : {folder_.path(), at("none"), fs::path("/dev/null")}) EXPECT_THROW(MappedFile::open(path), Error) << path;
}

TEST_F(Checkpoint, WriterTakesMoreThanExpected) {
  CheckpointWriter writer(folder_.path(), 1, 4, 1 << 20);
  const std::string long_name(500, 'n');
  for (int i = 0; i < 40; ++i) writer.write(long_name + std::to_string(i), at::full({3}, i));
  EXPECT_THROW(writer.write(long_name + "0", at::ones({3})), Error);
  writer.finish();
  const auto source = open_checkpoint(folder_.path());
  EXPECT_EQ(source->specs().size(), 40u);
  EXPECT_TRUE(source->tensor(long_name + "39").equal(at::full({3}, 39)));
}

TEST_F(Checkpoint, WriterRefusesWhatTheDiskCannotHold) {
  EXPECT_THROW(CheckpointWriter(folder_.path(), 1, std::int64_t{1} << 60, std::int64_t{1} << 40), Error);
}

}  // namespace
}  // namespace miq
