// Safetensors: round trips, and every kind of malformed file as a clear error.
#include "miq/core/safetensors.h"

#include <gmock/gmock.h>

#include <fstream>

#include "miq/core/error.h"
#include "miq/core/mapped_file.h"
#include "support/golden.h"

namespace miq {
namespace {
using testing::HasSubstr;

std::string file_of(const std::string& header, size_t data_bytes) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(data_bytes, '\x01');
}

// The text of the Error{io} that opening a file of this content gives.
std::string open_error(const std::string& content) {
  const test::TempFolder folder;
  const auto path = folder.path() / "a.safetensors";
  std::ofstream(path, std::ios::binary) << content;
  try {
    SafetensorsFile::open(path);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io) << error.what();
    EXPECT_THAT(error.where(), HasSubstr("a.safetensors"));
    return error.message();
  }
  return "no error";
}

TEST(Safetensors, RoundTripOfEveryType) {
  const test::TempFolder folder;
  const auto path = folder.path() / "all.safetensors";
  std::map<std::string, at::Tensor> tensors;
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort,
                                    at::kChar, at::kByte, at::kBool, at::kFloat8_e4m3fn, at::kFloat8_e5m2})
    tensors[std::string("t.") + c10::toString(type)] = at::randint(0, 2, {3, 5}, at::kFloat).to(type);
  tensors["scalar"] = at::tensor(2.5f).view({});
  tensors["empty"] = at::empty({0, 7}, at::kHalf);
  tensors["name \"quoted\" \n \xc3\xa9"] = at::ones({2});
  tensors["transposed"] = at::randn({4, 3}).t();
  save_safetensors(path, tensors);
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.specs().size(), tensors.size());
  EXPECT_EQ(file.metadata().at("format"), "pt");
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor read = file.tensor(name);
    ASSERT_EQ(read.scalar_type(), tensor.scalar_type()) << name;
    ASSERT_EQ(read.sizes(), tensor.sizes()) << name;
    EXPECT_TRUE(read.to(at::kDouble).equal(tensor.to(at::kDouble))) << name;
    file.advise(name, true);
    file.advise(name, false);
    EXPECT_TRUE(file.tensor(name).to(at::kDouble).equal(tensor.to(at::kDouble))) << name;
  }
  EXPECT_FALSE(file.has("absent"));
  EXPECT_THROW(file.tensor("absent"), Error);
}

TEST(Safetensors, TensorsOutliveTheFileObject) {
  const test::TempFolder folder;
  const auto path = folder.path() / "a.safetensors";
  save_safetensors(path, {{"x", at::arange(6, at::kFloat)}});
  at::Tensor x;
  {
    const SafetensorsFile file = SafetensorsFile::open(path);
    x = file.tensor("x");
  }
  std::filesystem::remove(path);
  EXPECT_TRUE(x.equal(at::arange(6, at::kFloat)));
}

TEST(Safetensors, UnalignedDataIsCopied) {
  const test::TempFolder folder;
  const auto path = folder.path() / "a.safetensors";
  std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  if (header.size() % 2 == 0) header += ' ';
  std::ofstream(path, std::ios::binary) << file_of(header, 8);
  EXPECT_EQ(SafetensorsFile::open(path).tensor("a").sum().item<float>(), 2 * std::bit_cast<float>(0x01010101u));
}

TEST(Safetensors, MalformedHeaders) {
  const auto entry = [](const std::string& text) { return "{\"w\":" + text + "}"; };
  const std::string good = R"({"dtype":"F32","shape":[2,2],"data_offsets":[0,16]})";
  EXPECT_EQ(open_error(file_of(entry(good), 16)), "no error");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "bytes long"},
      {"1234567", "bytes long"},
      {file_of("", 100), "JSON"},
      {file_of("{", 100), "JSON"},
      {file_of("[1]", 0), "not a JSON object"},
      {file_of("\xff\xfe{}", 0), "JSON"},
      {file_of(std::string(5000, '['), 0), "JSON"},
      {file_of(entry("3"), 16), "missing"},
      {file_of(entry("{}"), 16), "missing"},
      {file_of(entry(R"({"dtype":"F32","shape":[2,2]})"), 16), "missing"},
      {file_of(entry(R"({"dtype":32,"shape":[2,2],"data_offsets":[0,16]})"), 16), "wrong type"},
      {file_of(entry(R"({"dtype":"F32","shape":4,"data_offsets":[0,16]})"), 16), "wrong type"},
      {file_of(entry(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16,16]})"), 16), "wrong type"},
      {file_of(entry(R"({"dtype":"Q4_K","shape":[2,2],"data_offsets":[0,16]})"), 16), "unknown dtype 'Q4_K'"},
      {file_of(entry(R"({"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]})"), 16), "sizes"},
      {file_of(entry(R"({"dtype":"F32","shape":[2.0,2],"data_offsets":[0,16]})"), 16), "sizes"},
      {file_of(entry(R"({"dtype":"F32","shape":["2",2],"data_offsets":[0,16]})"), 16), "sizes"},
      {file_of(entry(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,16]})"), 16), "sizes"},
      {file_of(entry(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]})"), 16),
       "more than fits"},
      {file_of(entry(R"({"dtype":"F32","shape":[4611686018427387904,4,0],"data_offsets":[0,0]})"), 0), "more than fits"},
      {file_of(entry(R"({"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,)"
                     R"(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]})"), 1), "axes"},
      {file_of(entry(R"({"dtype":"F32","shape":[2,3],"data_offsets":[0,16]})"), 16), "need 24"},
      {file_of(entry(R"({"dtype":"F32","shape":[2,2],"data_offsets":[0,20]})"), 20), "need 16"},
      {file_of(entry(R"({"dtype":"F32","shape":[2,2],"data_offsets":[16,0]})"), 16), "outside"},
      {file_of(entry(R"({"dtype":"F32","shape":[2,2],"data_offsets":[-16,0]})"), 16), "outside"},
      {file_of(entry(R"({"dtype":"F32","shape":[2,2],"data_offsets":[9223372036854775800,9223372036854775807]})"), 16),
       "outside"},
      {file_of(entry(good), 15), "outside"},
      {file_of(entry(good), 17), "behind the last tensor"},
      {file_of(entry(R"({"dtype":"F32","shape":[2,2],"data_offsets":[4,20]})"), 20), "gap"},
      {file_of(R"({"a":)" + good + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})", 16), "overlap"},
      {file_of(R"({"a":)" + good + R"(,"b":)" + good + "}", 16), "overlap"},
      {file_of(R"({"a":)" + good + R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":[20,24]}})", 24), "gap"},
      {file_of(R"({"__metadata__":3,"w":)" + good + "}", 16), "__metadata__"},
      {file_of(R"({"__metadata__":{"a":1},"w":)" + good + "}", 16), "__metadata__"}};
  for (const auto& [content, expected] : cases)
    EXPECT_THAT(open_error(content), HasSubstr(expected)) << content.substr(8);
}

TEST(Safetensors, HeaderLengthsThatLie) {
  for (const std::uint64_t length :
       {std::uint64_t{11}, std::uint64_t{1} << 32, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    std::string content = file_of("{}        ", 0);
    std::memcpy(content.data(), &length, 8);
    EXPECT_THAT(open_error(content), HasSubstr("header of"));
  }
}

TEST(Safetensors, EveryTruncationIsFound) {
  const test::TempFolder folder;
  save_safetensors(folder.path() / "a.safetensors", {{"x", at::ones({3})}, {"y", at::ones({2, 2}, at::kHalf)}});
  std::ifstream in(folder.path() / "a.safetensors", std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(in)), {});
  EXPECT_EQ(open_error(whole), "no error");
  for (size_t length = 0; length < whole.size(); ++length)
    EXPECT_NE(open_error(whole.substr(0, length)), "no error") << length;
}

TEST(Safetensors, ChangedFilesOpenOrSayWhyNot) {
  const std::string whole =
      file_of(R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"v":{"dtype":"I8","shape":[3],"data_offsets":[16,19]}})", 19);
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string changed = whole;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ 1 << bit % 8);
    try {
      const SafetensorsFile file = SafetensorsFile::open(MappedFile::copy(changed, "a"));
      for (const auto& [name, spec] : file.specs()) EXPECT_EQ(file.tensor(name).sizes(), at::IntArrayRef(spec.shape));
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::io) << error.what();
    }
  }
}

TEST(Safetensors, NoFileOrAFolder) {
  const test::TempFolder folder;
  EXPECT_THROW(SafetensorsFile::open(folder.path()), Error);
  EXPECT_THROW(SafetensorsFile::open(folder.path() / "none"), Error);
}

TEST(SafetensorsWriter, EveryTensorIsAligned) {
  const test::TempFolder folder;
  const std::filesystem::path path = folder.path() / "a.safetensors";
  const std::map<std::string, at::Tensor> tensors = {{"byte", at::ones({3}, at::kByte)},       {"half", at::ones({1}, at::kHalf)},
                                                     {"float", at::full({3}, 2.5f)},           {"long", at::arange(3)},
                                                     {"scalar", at::tensor(1.5f).reshape({})}, {"none", at::empty({0, 4}, at::kBFloat16)}};
  SafetensorsWriter writer(path, static_cast<std::int64_t>(tensors.size()), 1 << 16);
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  EXPECT_THROW(writer.write("half", at::ones({1})), Error);
  writer.finish();
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.specs().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(file.tensor(name).equal(tensor)) << name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.tensor(name).const_data_ptr()) % tensor.element_size(), 0u) << name;
  }
  EXPECT_LT(std::filesystem::file_size(path), 4000u) << "reserved space was not given back";
  EXPECT_THROW(SafetensorsWriter(folder.path() / "no/such/b.safetensors", 1, 0), Error);
}

}  // namespace
}  // namespace miq
