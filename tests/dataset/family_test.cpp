// Which family's rules a tokenizer.model gets, and what they do.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "miq/dataset/tokenizer.h"
#include "small_models.h"
#include "support/golden.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::ElementsAre;

class Families : public FolderTest {
 protected:
  std::unique_ptr<Tokenizer> load() { return load_tokenizer(folder_.path()); }
};

TEST_F(Families, LlamaWithoutAnySign) {
  put("tokenizer.model", small_proto());
  EXPECT_THAT(load()->encode("ab", true), ElementsAre(1, 264));
  EXPECT_EQ(load()->decode({264, 2}, false), "ab</s>");
  put("tokenizer_config.json", R"({"add_prefix_space": false})");
  EXPECT_THAT(load()->encode("ab", true), ElementsAre(1, 263));
}

TEST_F(Families, BaichuanByItsClassOrModel) {
  put("tokenizer.model", small_proto());
  for (const auto& [file, content] :
       {std::pair("tokenizer_config.json", R"({"tokenizer_class": "BaichuanTokenizer", "add_bos_token": false})"),
        std::pair("tokenizer_config.json", R"({"tokenizer_class": "BaiChuanTokenizer"})"),
        std::pair("config.json", R"({"model_type": "baichuan"})")}) {
    SCOPED_TRACE(content);
    put(file, content);
    const auto tokenizer = load();
    EXPECT_THAT(tokenizer->encode("ab</s>ab", true),
                ElementsAre(264, 2, 264));                           // no BOS, a space in front of each text
    EXPECT_EQ(tokenizer->decode({1, 264, 2}, false), "<s> ab</s>");  // and one before a special token
    EXPECT_EQ(tokenizer->decode({1, 264, 2}, true), "ab");
    EXPECT_EQ(tokenizer->special_id("</s>"), 2);
    fs::remove(folder_.path() / file);
  }
  put("tokenizer_config.json",
      R"({"tokenizer_class": "BaichuanTokenizer", "add_bos_token": true, "add_eos_token": true})");
  EXPECT_THAT(load()->encode("ab", true), ElementsAre(1, 264, 2));
  // A class that is named counts more than the model: a converted checkpoint.
  put("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  put("config.json", R"({"model_type": "baichuan"})");
  EXPECT_EQ(load()->decode({264, 2}, false), "ab</s>");
}

TEST_F(Families, ChatGlmWithAndWithoutRoles) {
  put("tokenizer.model", small_proto());
  put("config.json", R"({"model_type": "chatglm", "_name_or_path": "THUDM/chatglm3-6b"})");
  const std::int64_t pieces = load()->vocab_size() - 9;
  EXPECT_EQ(load()->special_id("<|observation|>"), pieces + 8);
  EXPECT_THAT(load()->encode("ab</s>", true).front(), pieces + 1);
  EXPECT_EQ(load()->decode({pieces + 1, pieces + 3, 264, 2}, true), "[gMASK]sop ab");
  EXPECT_EQ(load()->encode("</s>", false).size(), 5u);  // a space and four bytes: no literal counts
  put("config.json", R"({"model_type": "chatglm", "_name_or_path": "THUDM/chatglm2-6b"})");
  EXPECT_EQ(load()->vocab_size(), pieces + 5);
  EXPECT_EQ(load()->special_id("<|user|>"), std::nullopt);
  EXPECT_EQ(load()->decode({pieces + 1, pieces + 3, 264, 2}, true), "ab");
  put("tokenization_chatglm.py", "special_tokens = ['[MASK]', '<|user|>']");  // the authors' code tells best
  EXPECT_EQ(load()->vocab_size(), pieces + 9);
}

TEST_F(Families, Glm4AndQwenRanks) {
  put("tokenizer.model", tiktoken_file(151329));
  const auto glm = load();
  EXPECT_EQ(glm->vocab_size(), 151343);
  EXPECT_EQ(glm->eos_id(), 151329);
  EXPECT_EQ(glm->special_id("<|user|>"), 151336);
  EXPECT_EQ(glm->special_id("<|end_of_video|>"), 151342);
  EXPECT_THAT(glm->encode("!<|user|>", true), ElementsAre(151331, 151333, 33, 151336));
  EXPECT_EQ(glm->decode({151331, 33, 34}, true), "!\"");
  fs::remove(folder_.path() / "tokenizer.model");
  put("qwen.tiktoken", tiktoken_file(151643));
  const auto qwen = load();
  EXPECT_EQ(qwen->vocab_size(), 151851);
  EXPECT_EQ(qwen->special_id("<|im_end|>"), 151645);
  EXPECT_EQ(qwen->special_id("<|extra_204|>"), 151850);
  EXPECT_EQ(qwen->encode("e\xCC\x81", true), qwen->encode("\xC3\xA9", true));  // NFC
}

TEST(GoldenFamilies, LongTextsWithoutSpaces) {
  std::string text;
  while (text.size() < 400000) text += "abcde";
  for (const char* name : {"baichuan2", "chatglm3", "llama3/original"}) {
    MIQ_REQUIRE_GOLDEN(fs::path("tokenizers") / name);
    const auto tokenizer = load_tokenizer(test::golden_dir() / "tokenizers" / name);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, false), true), text) << name;
  }
}

// Folders as they are published: the class in tokenizer_config.json, a vocabulary of 512.
TEST(GoldenFamilies, BaichuanFoldersEncodeAsSentencepieceDoes) {
  MIQ_REQUIRE_GOLDEN("models/baichuan1_7b");
  for (const char* name : {"baichuan1_7b", "baichuan1_13b", "baichuan2_7b", "baichuan2_13b"}) {
    const auto tokenizer = load_tokenizer(test::golden_dir() / "models" / name);
    std::ifstream in(test::golden_dir() / "tokenizers/tok512/golden.jsonl");
    for (std::string line; std::getline(in, line);) {
      const Json row = Json::parse(line);
      const auto text = row["text"].get<std::string>();
      if (text.find("<s>") != std::string::npos) continue;
      EXPECT_EQ(tokenizer->encode(text, true), row["sp_ids"].get<std::vector<std::int64_t>>()) << text;
    }
    EXPECT_EQ(tokenizer->decode({1, 2}, true), "");
  }
}

}  // namespace
}  // namespace miq::dataset
