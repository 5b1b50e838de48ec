// Every tokenizer folder of the golden data: strings, id lists and whole files.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "miq/core/file.h"
#include "miq/dataset/tokenizer.h"
#include "support/golden.h"
#include "support/sha256.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Ids = std::vector<std::int64_t>;

// Families of a later version: their rules stand in code, not in their files.
const std::set<std::string> kLater = {"baichuan1", "baichuan2", "chatglm2", "chatglm3"};

std::vector<std::string> folders() {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(test::golden_dir() / "tokenizers", none))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<Json> read_lines(const fs::path& path) {
  std::vector<Json> rows;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) rows.push_back(Json::parse(line));
  return rows;
}

class GoldenTokenizer : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (kLater.count(GetParam())) GTEST_SKIP() << "later: the tokenizer rules of " << GetParam();
    folder_ = test::golden_dir() / "tokenizers" / GetParam();
    tokenizer_ = load_tokenizer(folder_);
  }
  fs::path folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenTokenizer);

TEST_P(GoldenTokenizer, EncodesAndDecodesEveryString) {
  const auto rows = read_lines(folder_ / "golden.jsonl");
  ASSERT_FALSE(rows.empty());
  for (const Json& row : rows) {
    const auto text = row["text"].get<std::string>();
    SCOPED_TRACE(row.dump().substr(0, 600));
    EXPECT_EQ(tokenizer_->encode(text, false), row["ids"].get<Ids>());
    EXPECT_EQ(tokenizer_->encode(text, true), row["ids_special"].get<Ids>());
    EXPECT_EQ(tokenizer_->decode(row["ids"].get<Ids>(), false), row["decode"].get<std::string>());
    EXPECT_EQ(tokenizer_->decode(row["ids_special"].get<Ids>(), true), row["decode_skip_special"].get<std::string>());
  }
}

TEST_P(GoldenTokenizer, DecodesIdLists) {
  for (const Json& row : read_lines(folder_ / "decode.jsonl"))
    EXPECT_EQ(tokenizer_->decode(row["ids"].get<Ids>(), false), row["decode"].get<std::string>()) << row.dump().substr(0, 400);
}

TEST_P(GoldenTokenizer, DropsBytesItLacks) {
  for (const Json& row : read_lines(folder_ / "missing_bytes.jsonl")) {
    EXPECT_EQ(tokenizer_->encode(row["text"].get<std::string>(), false), row["ids"].get<Ids>()) << row.dump();
    EXPECT_EQ(tokenizer_->decode(row["ids"].get<Ids>(), false), row["decode"].get<std::string>()) << row.dump();
  }
}

// The texts an entry of corpus.json speaks of: a whole file, its lines joined, or the first rows of a
// JSONL file, each encoded alone.
std::vector<std::string> corpus_texts(const Json& entry) {
  const fs::path path = test::golden_dir() / ".." / entry["file"].get<std::string>();
  const auto what = entry["string"].get<std::string>();
  if (what.rfind("whole file", 0) == 0) return {read_file(path)};
  if (what.find("lines joined by one space") != std::string::npos) {
    std::string joined;
    std::istringstream lines(read_file(path));
    for (std::string line; std::getline(lines, line);) joined += (joined.empty() ? "" : " ") + line;
    return {joined};
  }
  constexpr std::string_view kRows = "field text of the first ";
  if (what.rfind(kRows, 0) != 0) throw std::runtime_error("corpus.json: unknown text: " + what);
  std::vector<std::string> texts;
  for (const Json& row : read_lines(path)) {
    if (texts.size() == std::stoul(what.substr(kRows.size()))) break;
    texts.push_back(row["text"].get<std::string>());
  }
  return texts;
}

TEST_P(GoldenTokenizer, EncodesWholeFiles) {
  std::ifstream in(folder_ / "corpus.json");
  if (!in) return;
  const Json corpus = Json::parse(in);
  if (!corpus.contains("hf")) return;
  for (const Json& entry : corpus["hf"]) {
    SCOPED_TRACE(entry["file"].dump() + " " + entry["string"].dump());
    Ids ids;
    for (const std::string& text : corpus_texts(entry)) {
      const Ids part = tokenizer_->encode(text, false);
      ids.insert(ids.end(), part.begin(), part.end());
    }
    EXPECT_EQ(ids.size(), entry["n_tokens"].get<size_t>());
    std::string raw;
    for (const std::int64_t id : ids) {
      const auto narrow = static_cast<std::int32_t>(id);
      raw.append(reinterpret_cast<const char*>(&narrow), 4);
    }
    EXPECT_EQ(test::sha256(raw), entry["ids_int32le_sha256"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, GoldenTokenizer, testing::ValuesIn(folders()), [](const auto& info) { return info.param; });

TEST(GoldenTokenizers, AreThere) {
  MIQ_REQUIRE_GOLDEN("tokenizers");
  EXPECT_FALSE(folders().empty());
}

}  // namespace
}  // namespace miq::dataset
