// Every tokenizer folder of the golden data: strings, id lists and whole files.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "miq/core/digest.h"
#include "miq/core/file.h"
#include "miq/dataset/tokenizer.h"
#include "support/golden.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Ids = std::vector<std::int64_t>;

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

std::string decode_base64(const std::string& text) {
  static const std::string kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  unsigned held = 0, bits = 0;
  for (const char c : text.substr(0, text.find('='))) {
    held = held << 6 | static_cast<unsigned>(kAlphabet.find(c));
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes += static_cast<char>(held >> bits);
  }
  return bytes;
}

class GoldenTokenizer : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = test::golden_dir() / "tokenizers" / GetParam();
    tokenizer_ = GetParam() == "chatglm2" ? load_chatglm2() : load_tokenizer(folder_);
  }
  // Its model file is ChatGLM3's, its configuration that of the hub.
  std::unique_ptr<Tokenizer> load_chatglm2() {
    const test::TempFolder made;
    fs::copy_file(folder_ / "../chatglm3/tokenizer.model", made.path() / "tokenizer.model");
    std::ofstream(made.path() / "tokenizer_config.json")
        << R"({"name_or_path": "THUDM/chatglm2-6b", "remove_space": false,
        "do_lower_case": false, "tokenizer_class": "ChatGLMTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", null]}})";
    return load_tokenizer(made.path());
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
    EXPECT_EQ(tokenizer_->decode(row["ids"].get<Ids>(), false), row["decode"].get<std::string>())
        << row.dump().substr(0, 400);
}

// Of the sentencepiece library alone, which the families of Baichuan and ChatGLM hand a text as it is.
TEST_P(GoldenTokenizer, BytesThatAreNotUtf8) {
  if (GetParam().rfind("baichuan", 0) != 0 && GetParam().rfind("chatglm", 0) != 0) return;
  const auto rows = read_lines(folder_ / "bytes.jsonl");
  ASSERT_FALSE(rows.empty());
  for (const Json& row : rows)
    EXPECT_EQ(tokenizer_->encode(decode_base64(row["bytes_b64"].get<std::string>()), false), row["sp_ids"].get<Ids>())
        << row.dump();
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
    EXPECT_EQ(sha256(raw), entry["ids_int32le_sha256"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, GoldenTokenizer, testing::ValuesIn(folders()),
                         [](const auto& info) { return info.param; });

// LLaMA-3's tiktoken file, alone in its folder, gives what its tokenizer.json does.
TEST(GoldenTiktoken, EncodesAsItsReference) {
  MIQ_REQUIRE_GOLDEN("tokenizers/llama3/original");
  const fs::path folder = test::golden_dir() / "tokenizers/llama3";
  const auto tokenizer = load_tokenizer(folder / "original");
  EXPECT_EQ(tokenizer->vocab_size(), 128256);
  EXPECT_EQ(tokenizer->bos_id(), 128000);
  const auto rows = read_lines(folder / "golden_tiktoken.jsonl");
  ASSERT_FALSE(rows.empty());
  for (const Json& row : rows)
    EXPECT_EQ(tokenizer->encode(row["text"].get<std::string>(), false), row["ids"].get<Ids>()) << row.dump();
  for (const Json& row : read_lines(folder / "golden.jsonl")) {
    SCOPED_TRACE(row.dump().substr(0, 600));
    EXPECT_EQ(tokenizer->encode(row["text"].get<std::string>(), true), row["ids_special"].get<Ids>());
    EXPECT_EQ(tokenizer->decode(row["ids_special"].get<Ids>(), true), row["decode_skip_special"].get<std::string>());
  }
}

TEST(GoldenTokenizers, AreThere) {
  MIQ_REQUIRE_GOLDEN("tokenizers");
  EXPECT_FALSE(folders().empty());
}

}  // namespace
}  // namespace miq::dataset
