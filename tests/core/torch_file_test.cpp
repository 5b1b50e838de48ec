// Files of torch.save: what real ones hold, and every way to a clear error instead of a crash or a run of code.
#include "miq/core/torch_file.h"

#include <gmock/gmock.h>

#include <random>

#include "archives.h"
#include "miq/core/checkpoint.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/mapped_file.h"
#include "miq/core/memory.h"
#include "support/golden.h"

namespace miq {
namespace {
using testing::HasSubstr;
namespace fs = std::filesystem;
namespace p = test::pickle;

class TorchFileTest : public testing::Test {
 protected:
  TorchFile open(const std::string& content) { return TorchFile::open(MappedFile::copy(content, "a.bin")); }
  // The error that opening such a file and reading its tensors gives, "" when it opens.
  std::string open_error(const std::string& content) {
    try {
      const TorchFile file = open(content);
      for (const auto& [name, spec] : file.specs()) EXPECT_EQ(file.tensor(name).sizes(), at::IntArrayRef(spec.shape));
      return "";
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::io || error.kind() == ErrorKind::unsupported) << error.what();
      EXPECT_THAT(error.where(), HasSubstr("a.bin"));
      return error.message();
    }
  }
  // The same for one tensor over a storage of 24 floats.
  std::string tensor_error(std::int64_t offset, const std::vector<std::int64_t>& shape,
                           const std::vector<std::int64_t>& strides, std::int64_t elements = 24) {
    const std::string tensor = p::tensor(p::storage("FloatStorage", "0", elements), offset, shape, strides);
    return open_error(test::make_torch_file(p::whole(p::dict({{"w", tensor}})), {std::string(96, '\1')}));
  }
  std::string object_error(const std::string& object) {
    return open_error(test::make_torch_file(p::whole(object), {std::string(96, '\1')}));
  }

  const std::string weight_ = p::tensor(p::storage("FloatStorage", "0", 24), 0, {4, 6}, {6, 1});
};

TEST_F(TorchFileTest, ViewsOfOneStorage) {
  std::string data;
  for (int i = 0; i < 24; ++i) data += test::bytes_of(static_cast<float>(i));
  const std::string storage = p::storage("FloatStorage", "0", 24);
  const TorchFile file = open(test::make_torch_file(
      p::whole(
          p::dict({{"all", p::tensor(storage, 0, {4, 6}, {6, 1})},
                   {"t", p::tensor(storage, 0, {6, 4}, {1, 6})},
                   {"last", p::tensor(storage, 23, {}, {})},
                   {"wide", p::tensor(storage, 2, {3, 2}, {0, 1})},
                   {"none", p::tensor(storage, 900, {0, 5}, {5, 1})},
                   {"step", p::integer(7)},
                   {"parts", "](" + p::tensor(storage, 6, {2}, {1}) + p::tensor(storage, 8, {1, 2}, {77, 1}) + "e"}})),
      {data}));
  const at::Tensor all = at::arange(24, at::kFloat).view({4, 6});
  EXPECT_TRUE(file.tensor("all").equal(all));
  EXPECT_TRUE(file.tensor("t").equal(all.t()));
  EXPECT_TRUE(file.tensor("t").is_contiguous());
  EXPECT_TRUE(file.tensor("last").equal(at::full({}, 23.0f)));
  EXPECT_TRUE(file.tensor("wide").equal(at::tensor({2.0f, 3.0f, 2.0f, 3.0f, 2.0f, 3.0f}).view({3, 2})));
  EXPECT_EQ(file.tensor("none").sizes(), at::IntArrayRef({0, 5}));
  EXPECT_TRUE(file.tensor("parts.0").equal(at::tensor({6.0f, 7.0f})));
  EXPECT_TRUE(file.tensor("parts.1").equal(at::tensor({8.0f, 9.0f}).view({1, 2})));
  EXPECT_FALSE(file.has("step"));
  EXPECT_THROW(file.tensor("step"), Error);
  for (const char* name : {"all", "last", "none", "absent"}) {
    file.advise(name, true);
    file.advise(name, false);
  }
  EXPECT_TRUE(file.tensor("all").equal(all));
}

TEST_F(TorchFileTest, TheDictOfWeightsAmongOthers) {
  const std::string weights = p::dict({{"w", weight_}});
  const auto names = [&](const std::string& object) {
    const TorchFile file = open(test::make_torch_file(p::whole(object), {std::string(96, '\1')}));
    std::string all;
    for (const auto& [name, spec] : file.specs()) all += name + " ";
    return all;
  };
  EXPECT_EQ(names(p::dict({{"epoch", "N"}, {"optimizer", weights}, {"state_dict", weights}})), "w ");
  EXPECT_EQ(names(p::dict({{"module", p::dict({{"model", weights}})}})), "w ");
  EXPECT_EQ(names(p::dict({{"model", weights}, {"own", weight_}})), "model.w own ");
  EXPECT_EQ(names(p::dict({{"layer", weights}})), "layer.w ");
}

TEST_F(TorchFileTest, PlacesOutsideTheStorage) {
  EXPECT_EQ(tensor_error(0, {4, 6}, {6, 1}), "");
  EXPECT_EQ(tensor_error(23, {1}, {1 << 30}), "");
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  for (const std::string& error :
       {tensor_error(1, {4, 6}, {6, 1}), tensor_error(24, {}, {}), tensor_error(0, {2}, {24}),
        tensor_error(kHuge, {2}, {kHuge}), tensor_error(0, {3}, {kHuge}), tensor_error(INT64_MAX, {2}, {1})})
    EXPECT_THAT(error, HasSubstr("beyond its storage"));
  EXPECT_THAT(tensor_error(0, {kHuge, 4}, {0, 0}), HasSubstr("does not fit"));
  EXPECT_THAT(tensor_error(0, {kHuge, 4, 0}, {0, 0, 0}), HasSubstr("does not fit"));
  EXPECT_THAT(tensor_error(0, {1 << 20, 1 << 20}, {0, 0}), HasSubstr("expanded"));
  EXPECT_THAT(tensor_error(-1, {4}, {1}), HasSubstr("from 0 on"));
  EXPECT_THAT(tensor_error(3, {4}, {-1}), HasSubstr("from 0 on"));
  EXPECT_THAT(tensor_error(0, {-4}, {1}), HasSubstr("from 0 on"));
  EXPECT_THAT(tensor_error(0, {4}, {1, 1}), HasSubstr("differ in length"));
  EXPECT_THAT(tensor_error(0, std::vector<std::int64_t>(65, 1), std::vector<std::int64_t>(65, 1)),
              HasSubstr("tuple of sizes"));
  EXPECT_THAT(tensor_error(0, {4}, {1}, 25), HasSubstr("has 96 bytes"));
  EXPECT_THAT(tensor_error(0, {4}, {1}, kHuge), HasSubstr("has 96 bytes"));
  EXPECT_THAT(tensor_error(0, {4}, {1}, -1), HasSubstr("storage"));
}

TEST_F(TorchFileTest, ObjectsThatAreNoStateDict) {
  const std::string deep = std::string(1000, ']') + std::string(999, 'a');
  EXPECT_THAT(object_error("N"), HasSubstr("no dict"));
  EXPECT_THAT(object_error(weight_), HasSubstr("no dict"));
  EXPECT_THAT(object_error("}"), HasSubstr("no tensors"));
  EXPECT_THAT(object_error(p::dict({{"w", deep}})), HasSubstr("nested deeper"));
  EXPECT_THAT(object_error(p::dict({{"w", weight_}, {"w", weight_}})), HasSubstr("twice"));
  EXPECT_THAT(object_error(p::dict({{"w", p::tensor(p::storage("FloatStorage", "9", 1), 0, {1}, {1})}})),
              HasSubstr("'9' is missing"));
  EXPECT_THAT(object_error(p::dict({{"w", p::tensor(p::storage("Size", "0", 1), 0, {1}, {1})}})), HasSubstr("storage"));
  EXPECT_THAT(object_error(p::dict({{"w", p::tensor("N", 0, {1}, {1})}})), HasSubstr("storage"));
  EXPECT_THAT(object_error(p::dict({{"w", p::global("torch._utils", "_rebuild_tensor_v2") + ")R"}})),
              HasSubstr("missing"));
  EXPECT_THAT(object_error(p::dict({{"w", p::global("torch._utils", "_rebuild_parameter") + ")R"}})),
              HasSubstr("Parameter"));
  // A dict that holds itself, and lists of one list eight times each: as few bytes, exponentially many ways through.
  EXPECT_THAT(object_error(std::string("}q\0(", 4) + p::text("a") + std::string("h\0u", 3)),
              HasSubstr("nested deeper"));
  EXPECT_THAT(object_error(std::string("}q\0(", 4) + p::text("model") + std::string("h\0u", 3)),
              HasSubstr("nested deeper"));
  std::string bomb = "]";
  for (int i = 0; i < 30; ++i) bomb = "](" + bomb + "q\1h\1h\1h\1h\1h\1h\1h\1e";
  EXPECT_THAT(object_error(p::dict({{"w", bomb}})), HasSubstr("more than"));
}

TEST_F(TorchFileTest, NothingThatCouldRunCode) {
  for (const auto& [module, name] :
       std::vector<std::pair<std::string, std::string>>{{"os", "system"},
                                                        {"builtins", "eval"},
                                                        {"torch.storage", "_load_from_bytes"},
                                                        {"torch", "load"},
                                                        {"collections", "OrderedDict.fromkeys"}}) {
    const std::string error =
        object_error(p::dict({{"w", weight_}, {"x", p::global(module, name) + p::tuple({p::text("true")}) + "R"}}));
    EXPECT_THAT(error, testing::AllOf(HasSubstr(module + "." + name), HasSubstr("could run code")));
  }
  for (const char* opcode : {"\x81", "\x92", "i", "o", "\x82", "P", "I1\n", "0", "2"})
    EXPECT_THAT(object_error(std::string(")") + opcode), HasSubstr("instruction")) << opcode;
}

TEST_F(TorchFileTest, ArchivesThatAreNone) {
  using Parts = std::vector<test::ZipPart>;
  const std::string object = p::whole(p::dict({{"w", weight_}})), data(96, '\1');
  const auto error = [&](const Parts& parts) { return open_error(test::make_zip(parts)); };
  EXPECT_EQ(error({{"a/data.pkl", object}, {"a/data/0", data}}), "");
  EXPECT_EQ(open_error(test::make_zip({{"a/data.pkl", object}, {"a/data/0", data}}, true)), "");
  EXPECT_THAT(error({}), HasSubstr("without data.pkl"));
  EXPECT_THAT(error({{"data.pkl", object}}), HasSubstr("without data.pkl"));
  EXPECT_THAT(error({{"a/data.pkl", object}, {"b/data.pkl", object}}), HasSubstr("two objects"));
  EXPECT_THAT(error({{"a/data.pkl", object}, {"a/data/0", data}, {"a/byteorder", "big"}}), HasSubstr("little-endian"));
  EXPECT_THAT(error({{"a/data.pkl", object}, {"a/data/0", data, 8}}), HasSubstr("compressed"));
  EXPECT_THAT(error({{"a/data.pkl", object}, {"a/data/0", data, 0, 1}}), HasSubstr("encrypted"));
  EXPECT_THAT(error({{"a/data.pkl", object}, {"a/data.pkl", object}}), HasSubstr("twice"));
  for (const char* name : {"../x", "/x", "a/../../x", "a\\x", "a/./x", "a\nx"})
    EXPECT_THAT(error({{name, "1"}}), HasSubstr("name")) << name;
  EXPECT_THAT(open_error(""), HasSubstr("neither"));
  EXPECT_THAT(open_error("<html>"), HasSubstr("neither"));
  EXPECT_THAT(open_error("PK\3\4"), HasSubstr("zip"));
  // Two entries of the directory that share one place: the second header's offset is the first's.
  std::string overlap = test::make_zip({{"a/x", "1"}, {"a/x", "2"}});
  const size_t second = overlap.rfind("PK\1\2");
  overlap.replace(second + 42, 4, std::string(4, '\0'));
  EXPECT_NE(open_error(overlap), "");
  std::string many = test::make_zip({{"a/x", "1"}}, true);
  many.replace(many.find("PK\6\6") + 24, 16, std::string(16, '\x7f'));
  EXPECT_NE(open_error(many), "");
}

TEST_F(TorchFileTest, HugeLengthsTakeNoMemory) {
  const std::int64_t before = anonymous_rss_bytes();
  EXPECT_THAT(object_error("X\xff\xff\xff\xff"), HasSubstr("ends early"));
  EXPECT_THAT(object_error(std::string("\x95\xff\xff\xff\xff\xff\xff\xff\x7fN", 10)), HasSubstr("no dict"));
  EXPECT_THAT(object_error("r\xff\xff\xff\xff"), HasSubstr("nothing to remember"));
  EXPECT_THAT(object_error(std::string(3 << 20, 'N')), HasSubstr("values"));
  EXPECT_THAT(object_error(std::string(3 << 20, '(')), HasSubstr("missing"));
  EXPECT_LT(anonymous_rss_bytes() - before, std::int64_t{1} << 30);
}

// The kind before PyTorch 1.6: five pickles, then the storages.
class LegacyFile : public TorchFileTest {
 protected:
  std::string file(const std::string& object, const std::string& keys, const std::string& storages) {
    return p::whole(std::string("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12)) + p::whole(p::integer(1001)) +
           p::whole(p::dict({{"little_endian", little_ ? "\x88" : "\x89"}})) + p::whole(object) + p::whole(keys) +
           storages;
  }
  std::string storage(std::int64_t elements, const std::string& part = "N") {
    return p::tuple({p::text("storage"), p::global("torch", "FloatStorage"), p::text("k"), p::text("cpu"),
                     p::integer(elements), part}) +
           "Q";
  }
  std::string part(std::int64_t first, std::int64_t count) {
    return p::tuple({p::text("v"), p::integer(first), p::integer(count)});
  }
  std::string error(const std::string& tensor, const std::string& keys, const std::string& storages) {
    return open_error(file(p::dict({{"w", tensor}}), keys, storages));
  }
  const std::string keys_ = "](" + p::text("k") + "e";
  const std::string data_ =
      test::bytes_of(std::int64_t{3}) + test::bytes_of(1.0f) + test::bytes_of(2.0f) + test::bytes_of(3.0f);
  bool little_ = true;
};

TEST_F(LegacyFile, WholeStoragesAndParts) {
  const TorchFile whole = open(file(p::dict({{"w", p::tensor(storage(3), 1, {2}, {1})}}), keys_, data_));
  EXPECT_TRUE(whole.tensor("w").equal(at::tensor({2.0f, 3.0f})));
  const TorchFile half = open(file(p::dict({{"w", p::tensor(storage(3, part(2, 1)), 0, {1}, {1})}}), keys_, data_));
  EXPECT_TRUE(half.tensor("w").equal(at::full({1}, 3.0f)));
}

TEST_F(LegacyFile, Malformed) {
  const std::string tensor = p::tensor(storage(3), 0, {3}, {1});
  EXPECT_EQ(error(tensor, keys_, data_), "");
  EXPECT_THAT(error(tensor, keys_, data_.substr(0, 19)), HasSubstr("ends inside"));
  EXPECT_THAT(error(tensor, keys_, data_.substr(0, 7)), HasSubstr("ends before"));
  EXPECT_THAT(error(tensor, keys_, test::bytes_of(INT64_MAX) + data_), HasSubstr("ends inside"));
  EXPECT_THAT(error(tensor, keys_, test::bytes_of(std::int64_t{-1}) + data_), HasSubstr("ends inside"));
  EXPECT_THAT(error(tensor, keys_, test::bytes_of(std::int64_t{2}) + data_), HasSubstr("has 8 bytes"));
  EXPECT_THAT(error(tensor, "]", data_), HasSubstr("missing"));
  EXPECT_THAT(error(tensor, "N", data_), HasSubstr("no list"));
  EXPECT_THAT(error(tensor, "](" + p::text("z") + "e", data_), HasSubstr("no tensor refers"));
  EXPECT_THAT(error(tensor, "](" + p::text("k") + p::text("k") + "e", data_ + data_), HasSubstr("twice"));
  for (const std::string& bad : {part(3, 1), part(-1, 1), part(0, -1), part(INT64_MAX, INT64_MAX), p::tuple({"N"})})
    EXPECT_THAT(error(p::tensor(storage(3, bad), 0, {1}, {1}), keys_, data_), HasSubstr("storage"));
  little_ = false;
  EXPECT_THAT(error(tensor, keys_, data_), HasSubstr("little-endian"));
}

// A file cut off anywhere, and a file with a bit changed anywhere, opens or says why not.
TEST_F(TorchFileTest, TruncationsAndBitFlips) {
  const std::string whole = test::make_torch_file(p::whole(p::dict({{"w", weight_}})), {std::string(96, '\1')});
  EXPECT_EQ(open_error(whole), "");
  for (size_t length = 0; length < whole.size(); ++length) EXPECT_NE(open_error(whole.substr(0, length)), "") << length;
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string changed = whole;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ 1 << bit % 8);
    open_error(changed);
  }
}

class TorchFileGolden : public TorchFileTest {
 protected:
  void compare(const fs::path& file, const fs::path& expected) {
    const TorchFile ours = TorchFile::open(file);
    const SafetensorsFile theirs = SafetensorsFile::open(expected);
    EXPECT_EQ(ours.specs().size(), theirs.specs().size());
    for (const auto& [name, spec] : theirs.specs()) {
      ASSERT_TRUE(ours.has(name)) << name;
      const at::Tensor a = ours.tensor(name), b = theirs.tensor(name);
      EXPECT_EQ(ours.specs().at(name).dtype, spec.dtype) << name;
      EXPECT_EQ(a.scalar_type(), spec.dtype) << name;
      ASSERT_EQ(a.sizes(), b.sizes()) << name;
      if (b.numel() > 0) {
        EXPECT_EQ(std::memcmp(a.const_data_ptr(), b.const_data_ptr(), b.nbytes()), 0) << name;
      }
    }
  }
  const fs::path edge_ = test::golden_dir() / "formats" / "bin_edge";
};

TEST_F(TorchFileGolden, EdgeCases) {
  MIQ_REQUIRE_GOLDEN("formats/bin_edge");
  for (const char* name : {"edge.bin", "edge_proto4.bin", "edge_legacy_notzip.bin"}) {
    SCOPED_TRACE(name);
    compare(edge_ / name, edge_ / "edge_expected.safetensors");
  }
  compare(edge_ / "edge_v3dtypes.bin", edge_ / "edge_v3dtypes_expected.safetensors");
  const TorchFile nested = TorchFile::open(edge_ / "nested.bin");
  ASSERT_EQ(nested.specs().size(), 1u);
  EXPECT_EQ(nested.specs().begin()->first, "layer.weight");
}

TEST_F(TorchFileGolden, HostileIsRefused) {
  MIQ_REQUIRE_GOLDEN("formats/bin_edge");
  const std::string error = open_error(read_file(edge_ / "hostile_must_be_refused.bin"));
  EXPECT_THAT(error, testing::AllOf(HasSubstr("posix.getcwd"), HasSubstr("could run code")));
}

TEST_F(TorchFileGolden, DamagedFilesOpenOrSayWhyNot) {
  MIQ_REQUIRE_GOLDEN("formats/bin_edge");
  std::mt19937 random(1);
  for (const char* name : {"edge_proto4.bin", "edge_legacy_notzip.bin"}) {
    const std::string whole = read_file(edge_ / name);
    for (size_t length = 0; length < whole.size(); length += 7)
      EXPECT_NE(open_error(whole.substr(0, length)), "") << length;
    for (int i = 0; i < 2000; ++i) {
      std::string changed = whole;
      for (int change = 0; change < 3; ++change) changed[random() % changed.size()] = static_cast<char>(random());
      open_error(changed);
    }
  }
}

TEST_F(TorchFileGolden, CheckpointsEqualTheSafetensorsOnes) {
  MIQ_REQUIRE_GOLDEN("formats/base_bin");
  const auto base = open_checkpoint(test::golden_dir() / "formats" / "base");
  for (const char* folder : {"base_bin", "base_bin_sharded", "base_sharded"}) {
    const auto other = open_checkpoint(test::golden_dir() / "formats" / folder);
    ASSERT_EQ(other->specs().size(), base->specs().size()) << folder;
    EXPECT_EQ(other->bytes(), base->bytes());
    for (const TensorSpec& spec : base->specs())
      EXPECT_TRUE(other->tensor(spec.name).equal(base->tensor(spec.name))) << spec.name;
  }
}

TEST_F(TorchFileGolden, EveryModelOpens) {
  MIQ_REQUIRE_GOLDEN("models");
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(test::golden_dir() / "models")) {
    if (entry.path().filename() != "pytorch_model.bin" && entry.path().filename() != "pytorch_model.bin.index.json")
      continue;
    const auto source = open_checkpoint(entry.path().parent_path());
    for (const TensorSpec& spec : source->specs())
      EXPECT_TRUE(at::isfinite(source->tensor(spec.name)).all().item<bool>()) << spec.name;
    ++files;
  }
  EXPECT_GT(files, 4);
}

}  // namespace
}  // namespace miq
