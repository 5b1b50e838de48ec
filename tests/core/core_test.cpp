// Small pieces of core: errors, byte counts, files, tables, JSON, Python's generator.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <fstream>

#include "miq/core/digest.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/memory.h"
#include "miq/core/random.h"
#include "miq/core/text.h"
#include "support/golden.h"

namespace miq {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(Error, SaysWhatWhereFix) {
  const Error error(ErrorKind::io, "cannot read", "a.txt", "look");
  EXPECT_STREQ(error.what(), "error[io]: cannot read\n  where: a.txt\n  fix:   look");
  EXPECT_EQ(error.exit_status(), 4);
  EXPECT_EQ(nearest_name("grup", {"tensor", "group", "channel"}), "group");
  EXPECT_EQ(nearest_name("zzzzzz", {"tensor", "group"}), "");
}

TEST(Memory, ParsesAndWritesByteCounts) {
  EXPECT_EQ(parse_bytes("5GiB"), std::int64_t{5} << 30);
  EXPECT_EQ(parse_bytes("1.5 MiB"), 1572864);
  EXPECT_EQ(parse_bytes("2GB"), 2000000000);
  EXPECT_EQ(parse_bytes("17"), 17);
  for (const char* bad : {"", "GiB", "5 gallons", "-1GiB", "1e30TiB", "99999999TiB", "5GiB!"}) EXPECT_EQ(parse_bytes(bad), std::nullopt) << bad;
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_GT(peak_rss_bytes(), 1 << 20);
  EXPECT_GT(available_memory_bytes(), 0);
}

TEST(File, IsWrittenWholeOrNotAtAll) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "x";
  write_file_atomically(path, "one");
  write_file_atomically(path, "two");
  EXPECT_EQ(read_file(path), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
  EXPECT_THROW(write_file_atomically(folder.path() / "none" / "x", "y"), Error);
  EXPECT_THROW(read_file(folder.path()), Error);
  EXPECT_THROW(read_file(path, 2), Error);
}

TEST(StagedFolder, AppearsOnCommitOnly) {
  const test::TempFolder folder;
  const fs::path final_path = folder.path() / "a" / "model";
  {
    const StagedFolder staged(final_path);
    std::ofstream(staged.path() / "x") << "1";
    EXPECT_FALSE(fs::exists(final_path));
  }
  EXPECT_TRUE(fs::is_empty(folder.path() / "a"));
  for (const char* content : {"1", "2"}) {
    StagedFolder staged(final_path);
    std::ofstream(staged.path() / content) << content;
    staged.commit();
  }
  EXPECT_FALSE(fs::exists(final_path / "1"));
  EXPECT_TRUE(fs::exists(final_path / "2"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path() / "a"), fs::directory_iterator()), 1);
}

TEST(StagedFolder, RemovesWhatKilledProcessesLeft) {
  const test::TempFolder folder;
  const fs::path abandoned = folder.path() / "model.partial-2147480000", alive = folder.path() / "model.partial-1";
  for (const fs::path& path : {abandoned, alive, folder.path() / "model.partial-mine"}) fs::create_directories(path / "x");
  const StagedFolder staged(folder.path() / "model");
  EXPECT_FALSE(fs::exists(abandoned));
  EXPECT_TRUE(fs::exists(alive));
  EXPECT_TRUE(fs::exists(folder.path() / "model.partial-mine"));
}

TEST(Text, TablesAlignNumbersToTheRight) {
  EXPECT_EQ(format_table({{"name", "n"}, {"a", "10"}, {"\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4", "7"}}),
            "name    n\n---------\na      10\n\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4   7");
  EXPECT_EQ(format_fixed(1.0 / 3, 2), "0.33");
  EXPECT_EQ(format_fixed(std::nan(""), 2), "nan");
  EXPECT_EQ(format_seconds(65), "1m 05s");
  EXPECT_EQ(printable("a\xFFz"), "a\xEF\xBF\xBDz");
}

TEST(Text, JsonIsBounded) {
  EXPECT_EQ(parse_json("{\"a\": [1]}", "x")["a"][0], 1);
  for (const std::string& bad : std::vector<std::string>{std::string("{"), std::string("{]"), std::string(100000, '['), std::string("\"\xFF\""), std::string()})
    EXPECT_THROW(parse_json(bad, "x"), Error) << bad.substr(0, 10);
  const std::string deep = std::string(300, '[') + std::string(300, ']');
  EXPECT_THROW(parse_json(deep, "x"), Error);
}

// Values of CPython 3.11.
TEST(PythonRandom, IsPythons) {
  PythonRandom random(42);
  EXPECT_DOUBLE_EQ(random.random(), 0.6394267984578837);
  EXPECT_DOUBLE_EQ(random.random(), 0.025010755222666936);
  PythonRandom ints(0);
  std::vector<std::int64_t> drawn;
  for (int i = 0; i < 5; ++i) drawn.push_back(ints.randint(0, 999999));
  EXPECT_THAT(drawn, ElementsAre(885440, 403958, 794772, 933488, 441001));
  PythonRandom large((std::uint64_t{1} << 40) + 7);
  EXPECT_EQ(large.getrandbits(32), 2635837658u);
  PythonRandom shuffler(7);
  std::vector<int> values{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  shuffler.shuffle(values);
  EXPECT_THAT(values, ElementsAre(8, 3, 1, 4, 7, 0, 9, 6, 2, 5));
  PythonRandom sampler(3);
  EXPECT_THAT(sampler.sample_indices(10, 4), ElementsAre(3, 8, 2, 7));
  EXPECT_THAT(sampler.sample_indices(1000, 4), ElementsAre(937, 618, 485, 640));
}

TEST(Digest, IsSha256) {  // FIPS 180-4's own examples
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

}  // namespace
}  // namespace miq
