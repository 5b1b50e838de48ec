// Files that are not what they should be: one clear error, never a crash.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/dataset/tokenizer.h"
#include "small_models.h"
#include "support/golden.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::HasSubstr;

class DamagedTokenizers : public FolderTest {
 protected:
  // "" when it loads; then it is used, too.
  std::string problem() {
    try {
      const auto tokenizer = load_tokenizer(folder_.path());
      const auto ids = tokenizer->encode("ab <h2> abc\xFF \xE4\xBD\xA0\n" + std::string(50, 'a'), true);
      tokenizer->decode(ids, false);
      tokenizer->decode({0, 1, 2, 3, 258, 300, 70000, -1, INT64_MAX, INT64_MIN}, true);
      return "";
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::io || error.kind() == ErrorKind::unsupported) << error.what();
      return error.message();
    }
  }
  // The file cut and changed at random places: whatever it then holds, no crash.
  void damage(const std::string& name, const std::string& whole, int rounds) {
    std::mt19937 random(7);
    for (int round = 0; round < rounds; ++round) {
      std::string part = whole;
      for (unsigned changes = 1 + random() % 8; changes > 0; --changes) {
        // Half the changes where the structure lies: at the front and the back.
        const size_t span = random() % 2 ? part.size() : std::min<size_t>(part.size(), 4000);
        const size_t at = random() % 4 ? random() % span : part.size() - 1 - random() % span;
        part[at] = static_cast<char>(random() % 3 ? random() : part[at] ^ 1 << random() % 8);
      }
      if (round % 5 == 0) part.resize(random() % part.size());
      put(name, part);
      problem();
    }
  }
};

TEST_F(DamagedTokenizers, ASoundSentencePieceModelLoads) {
  put("tokenizer.model", small_proto());
  EXPECT_EQ(problem(), "");
  EXPECT_EQ(load_tokenizer(folder_.path())->encode("ab", true), (std::vector<std::int64_t>{1, 264}));
}

TEST_F(DamagedTokenizers, SentencePieceModels) {
  const std::string proto = small_proto();
  for (const std::string& bad : {std::string(), std::string(1, '\0'), std::string("garbage"), std::string(1000, '\xFF'),
                                 proto.substr(0, proto.size() - 3), proto.substr(0, 7),
                                 std::string("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01 a", 13)}) {
    put("tokenizer.model", bad);
    EXPECT_THAT(problem(), HasSubstr("malformed")) << bad.size();
  }
  damage("tokenizer.model", proto, 400);
}

TEST_F(DamagedTokenizers, SentencePiecesWithoutSense) {
  const auto problem_of = [&](std::vector<SentencePiece> pieces) {
    put("tokenizer.model", write_model_proto(pieces, {}));
    return problem();
  };
  const SentencePiece unknown = {"<unk>", 0, PieceType::unknown};
  EXPECT_NE(problem_of({{"a"}}), "");
  EXPECT_NE(problem_of({unknown, {"a"}, {"a"}}), "");
  EXPECT_NE(problem_of({unknown, {""}}), "");
  EXPECT_NE(problem_of({unknown, unknown}), "");
  EXPECT_NE(problem_of({unknown, {"<0xZZ>", 0, PieceType::byte}}), "");
  EXPECT_NE(problem_of({unknown, {"a", std::numeric_limits<float>::quiet_NaN()}}), "");
  EXPECT_NE(problem_of({unknown, {"a", 0, static_cast<PieceType>(9)}}), "");
}

TEST_F(DamagedTokenizers, Tiktoken) {
  for (const char* bad :
       {"IQ== 0\nIg== x\n", "IQ== 0\n!!!! 1\n", "IQ== 0\nIQ== 1\n", "IQ== 0\nIg== 0\n", "IQ== 0\nIg== 99999999\n",
        "IQ== 0\nIg== 5\n", "IQ== 0\nIg== -1\n", "IQ== 0\nIg==\n", "IQ== 0\nI 1\n", "IQ== 0\n"}) {
    put("tokenizer.model", bad);
    EXPECT_THAT(problem(), HasSubstr("malformed")) << bad;
  }
  put("tokenizer.model", tiktoken_file(256));
  EXPECT_THAT(problem(), HasSubstr("256 ranks"));  // sound, but of no family
}

TEST_F(DamagedTokenizers, ConfigurationsOfWrongTypes) {
  put("tokenizer.model", small_proto());
  for (const char* config :
       {R"({"tokenizer_class": 5})", R"({"add_bos_token": "x", "legacy": []})", R"({"added_tokens_decoder": []})"}) {
    put("tokenizer_config.json", config);
    EXPECT_EQ(problem(), "") << config;
  }
  for (const char* config : {"[]", "{", R"({"added_tokens_decoder": {"-1": {"content": "x"}}})",
                             R"({"added_tokens_decoder": {"5": {"content": 7}}})",
                             R"({"added_tokens_decoder": {"99999999999": {"content": "x"}}})"}) {
    put("tokenizer_config.json", config);
    EXPECT_NE(problem(), "") << config;
  }
}

TEST_F(DamagedTokenizers, JsonTokenizers) {
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  const Json sound = {{"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", {"a b"}}}},
                      {"normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}}},
                      {"pre_tokenizer", byte_level},
                      {"decoder", byte_level},
                      {"post_processor",
                       {{"type", "TemplateProcessing"},
                        {"single", {{{"SpecialToken", {{"id", "<x>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
                        {"special_tokens", {{"<x>", {{"id", "<x>"}, {"ids", {3}}}}}}}},
                      {"added_tokens", {{{"id", 3}, {"content", "<x>"}, {"special", true}, {"normalized", false}}}}};
  put("tokenizer.json", sound.dump());
  ASSERT_EQ(problem(), "");
  // Every value in turn replaced by one of another type.
  const Json flat = sound.flatten();
  for (const auto& [path, value] : flat.items()) {
    for (const Json& other :
         {Json(), Json(-3), Json(1.5), Json("?"), Json::array({1}), Json{{"x", 1}}, Json(UINT64_MAX)}) {
      Json changed = sound;
      changed[Json::json_pointer(path)] = other;
      put("tokenizer.json", changed.dump());
      problem();
    }
  }
  for (const char* part : {"/model", "/model/vocab", "/model/merges", "/post_processor", "/post_processor/single",
                           "/post_processor/special_tokens", "/added_tokens", "/added_tokens/0", "/normalizer",
                           "/pre_tokenizer", "/decoder", "/normalizer/normalizers"}) {
    for (const Json& other :
         {Json(), Json(-3), Json("?"), Json::array({1}), Json::array({Json::array()}), Json{{"x", 1}}}) {
      Json changed = sound;
      changed[Json::json_pointer(part)] = other;
      put("tokenizer.json", changed.dump());
      problem();
    }
  }
  damage("tokenizer.json", sound.dump(), 300);
}

// The character maps and user-defined pieces of a real model.
TEST(GoldenDamagedTokenizer, Baichuan1) {
  MIQ_REQUIRE_GOLDEN("tokenizers/baichuan1");
  const std::string whole = read_file(test::golden_dir() / "tokenizers/baichuan1/tokenizer.model");
  // The map lies at the end of the file: damage its last 300 KB.
  std::mt19937 random(11);
  const test::TempFolder folder;
  for (int round = 0; round < 12; ++round) {
    std::string changed = whole;
    for (int i = 0; i < 20; ++i) changed[whole.size() - 1 - random() % 300000] = static_cast<char>(random());
    std::ofstream(folder.path() / "tokenizer.model", std::ios::binary) << changed;
    std::ofstream(folder.path() / "tokenizer_config.json") << R"({"tokenizer_class": "BaichuanTokenizer"})";
    try {
      load_tokenizer(folder.path())->encode("\xEF\xBC\xA1\xEF\xBC\xA2 \xEF\xAC\x81 \xE2\x91\xA0 text", true);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::io);
    }
  }
}

}  // namespace
}  // namespace miq::dataset
