// Tokenizers from GGUF metadata: against those of the files the metadata stands for.
#include <gmock/gmock.h>

#include <fstream>

#include "../../src/dataset/sentencepiece_proto.h"
#include "../../src/dataset/tokenizers.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "support/golden.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

// What a converter writes of a tokenizer.json with a byte-level BPE.
Json metadata_of(const Json& description, const std::string& pre) {
  Json tokens = Json::array(), types = Json::array(), merges = Json::array();
  const auto put = [&](size_t id, const std::string& text, int type) {
    for (size_t next = tokens.size(); next <= id; ++next) {
      tokens.push_back("[PAD" + std::to_string(next) + "]");
      types.push_back(5);
    }
    tokens[id] = text;
    types[id] = type;
  };
  for (const auto& [piece, id] : description["model"]["vocab"].items()) put(id.get<size_t>(), piece, 1);
  for (const auto& item : description["added_tokens"])
    put(item["id"], item["content"], item["special"].get<bool>() ? 3 : 4);
  for (const auto& merge : description["model"]["merges"])
    merges.push_back(merge.is_string() ? merge : Json(merge[0].get<std::string>() + " " + merge[1].get<std::string>()));
  return {{"tokenizer.ggml.model", "gpt2"},
          {"tokenizer.ggml.pre", pre},
          {"tokenizer.ggml.tokens", tokens},
          {"tokenizer.ggml.token_type", types},
          {"tokenizer.ggml.merges", merges}};
}

// And of a sentencepiece model.
Json metadata_of(const std::string& proto) {
  Json tokens = Json::array(), scores = Json::array(), types = Json::array();
  for (const SentencePiece& piece : read_model_proto(proto, "")) {
    tokens.push_back(piece.text);
    scores.push_back(piece.score);
    types.push_back(static_cast<int>(piece.type));
  }
  return {{"tokenizer.ggml.model", "llama"},    {"tokenizer.ggml.tokens", tokens},  {"tokenizer.ggml.scores", scores},
          {"tokenizer.ggml.token_type", types}, {"tokenizer.ggml.bos_token_id", 1}, {"tokenizer.ggml.eos_token_id", 2}};
}

void expect_same_on_golden_strings(const Tokenizer& a, const Tokenizer& b) {
  std::ifstream in(test::golden_dir() / "tokenizers/llama3/golden.jsonl");
  for (std::string line; std::getline(in, line);) {
    const auto text = Json::parse(line)["text"].get<std::string>();
    SCOPED_TRACE(text);
    const auto ids = b.encode(text, true);
    EXPECT_EQ(a.encode(text, true), ids);
    EXPECT_EQ(a.decode(ids, false), b.decode(ids, false));
    EXPECT_EQ(a.decode(ids, true), b.decode(ids, true));
  }
}

class GoldenGgufTokenizer : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(GoldenGgufTokenizer, IsThatOfTokenizerJson) {
  const auto& [name, pre] = GetParam();
  const fs::path folder = test::golden_dir() / "tokenizers" / name;
  MIQ_REQUIRE_GOLDEN(fs::path("tokenizers") / name);
  Json metadata = metadata_of(Json::parse(read_file(folder / "tokenizer.json")), pre);
  const auto reference = load_tokenizer(folder);
  if (reference->bos_id()) metadata["tokenizer.ggml.bos_token_id"] = *reference->bos_id();
  metadata["tokenizer.ggml.eos_token_id"] = *reference->eos_id();
  const auto tokenizer = make_gguf_tokenizer(metadata, "");
  EXPECT_EQ(tokenizer->bos_id(), reference->bos_id());
  EXPECT_EQ(tokenizer->eos_id(), reference->eos_id());
  EXPECT_EQ(tokenizer->vocab_size(), reference->vocab_size());
  expect_same_on_golden_strings(*tokenizer, *reference);
  // And as the files of an export.
  const test::TempFolder exported;
  metadata["tokenizer.chat_template"] = "{{ '<|im_start|>' }}\xFF";
  for (const auto& [file, content] : describe_gguf_tokenizer(metadata, "")) std::ofstream(exported.path() / file) << content;
  expect_same_on_golden_strings(*load_tokenizer(exported.path()), *reference);
}
INSTANTIATE_TEST_SUITE_P(Pre, GoldenGgufTokenizer,
                         testing::Values(std::pair("llama3", "llama-bpe"), std::pair("qwen2_5", "qwen2"),
                                         std::pair("smollm2", "smollm")),
                         [](const auto& info) { return std::string(info.param.first); });

TEST(GoldenGgufSentencePiece, IsThatOfTokenizerModel) {
  for (const char* name : {"formats/base", "tokenizers/llama2", "tokenizers/mistral_v1"}) {
    MIQ_REQUIRE_GOLDEN(name);
    SCOPED_TRACE(name);
    const fs::path model = test::golden_dir() / name / "tokenizer.model";
    const test::TempFolder alone;
    fs::copy_file(model, alone.path() / "tokenizer.model");
    const auto tokenizer = make_gguf_tokenizer(metadata_of(read_file(model)), "");
    EXPECT_EQ(tokenizer->bos_id(), 1);
    EXPECT_EQ(tokenizer->eos_id(), 2);
    expect_same_on_golden_strings(*tokenizer, *load_tokenizer(alone.path()));
  }
}

// Files that the reference converter wrote of formats/base.
TEST(GoldenGgufFiles, CarryTheTokenizerOfTheirModel) {
  MIQ_REQUIRE_GOLDEN("formats/base");
  const fs::path base = test::golden_dir() / "formats/base";
  const test::TempFolder alone;
  fs::copy_file(base / "tokenizer.model", alone.path() / "tokenizer.model");
  const auto reference = load_tokenizer(alone.path());
  for (const char* name : {"gguf_f16", "gguf_q4_0", "gguf_q4_k_m"}) {
    const fs::path folder = base / ".." / name;
    MIQ_REQUIRE_GOLDEN(std::string("formats/") + name);
    SCOPED_TRACE(name);
    const auto tokenizer = load_tokenizer(folder);
    EXPECT_EQ(load_tokenizer(folder / "model.gguf")->vocab_size(), tokenizer->vocab_size());
    expect_same_on_golden_strings(*tokenizer, *reference);
  }
  const auto tokenizer = load_tokenizer(base / "../gguf_f16/model.gguf");
  for (const Json& row : Json::parse(read_file(base / "tokenizer_samples.json")))
    EXPECT_EQ(tokenizer->encode(row["text"].get<std::string>(), false), row["spm_ids"].get<std::vector<std::int64_t>>())
        << row["text"];
}

// A byte-level BPE over three letters; <x> is a control token.
Json small_metadata() {
  return {{"tokenizer.ggml.model", "gpt2"},
          {"tokenizer.ggml.pre", "gpt-2"},
          {"tokenizer.ggml.tokens", {"a", "b", "c", "ab", "<x>", "<y>"}},
          {"tokenizer.ggml.token_type", {1, 1, 1, 1, 3, 3}},
          {"tokenizer.ggml.merges", {"a b"}},
          {"tokenizer.ggml.bos_token_id", 4},
          {"tokenizer.ggml.eos_token_id", 5}};
}

TEST(GgufTokenizer, HonoursTheKeysOfBosAndEos) {
  Json metadata = small_metadata();
  EXPECT_THAT(make_gguf_tokenizer(metadata, "")->encode("abc<x>", true), ElementsAre(3, 2, 4));
  metadata["tokenizer.ggml.add_bos_token"] = true;
  metadata["tokenizer.ggml.add_eos_token"] = true;
  const auto tokenizer = make_gguf_tokenizer(metadata, "");
  EXPECT_THAT(tokenizer->encode("abc", true), ElementsAre(4, 3, 2, 5));
  EXPECT_THAT(tokenizer->encode("abc", false), ElementsAre(3, 2));
  EXPECT_EQ(tokenizer->bos_id(), 4);
  EXPECT_EQ(tokenizer->eos_id(), 5);
  EXPECT_EQ(tokenizer->special_id("<y>"), 5);
  EXPECT_EQ(tokenizer->special_id("a"), std::nullopt);
}

ErrorKind error_of(const Json& metadata) {
  try {
    make_gguf_tokenizer(metadata, "here");
  } catch (const Error& error) {
    EXPECT_EQ(error.where(), "here");
    return error.kind();
  }
  return ErrorKind::internal;
}

TEST(GgufTokenizer, MalformedMetadataIsRefused) {
  const auto with = [](const std::string& key, const Json& value) {
    Json metadata = small_metadata();
    metadata["tokenizer.ggml." + key] = value;
    return error_of(metadata);
  };
  EXPECT_EQ(with("model", "bert"), ErrorKind::unsupported);
  EXPECT_EQ(with("pre", "no-such"), ErrorKind::unsupported);
  EXPECT_EQ(with("model", 3), ErrorKind::io);
  EXPECT_EQ(with("tokens", Json::array()), ErrorKind::io);
  EXPECT_EQ(with("tokens", {1, 2, 3, 4, 5, 6}), ErrorKind::io);
  EXPECT_EQ(with("tokens", {"a", "a", "c", "ab", "<x>", "<y>"}), ErrorKind::io);
  EXPECT_EQ(with("tokens", {"a", "b", "c", "ab\xFF", "<x>", "<y>"}), ErrorKind::io);
  EXPECT_EQ(with("token_type", {1, 1}), ErrorKind::io);
  EXPECT_EQ(with("token_type", {1, 1, 1, 1, 3, 7}), ErrorKind::io);
  EXPECT_EQ(with("token_type", {1, 1, 1, 1, 3, -1}), ErrorKind::io);
  EXPECT_EQ(with("merges", {"a z"}), ErrorKind::io);
  EXPECT_EQ(with("merges", Json()), ErrorKind::io);
  EXPECT_EQ(with("eos_token_id", 6), ErrorKind::io);
  EXPECT_EQ(with("eos_token_id", -2), ErrorKind::io);
  EXPECT_EQ(with("eos_token_id", 1.5), ErrorKind::io);
  EXPECT_EQ(with("add_bos_token", "yes"), ErrorKind::io);
  EXPECT_EQ(with("model", "llama"), ErrorKind::io);  // no unknown token
  EXPECT_EQ(error_of(Json::array()), ErrorKind::io);
  EXPECT_EQ(error_of(Json::object()), ErrorKind::io);
  try {
    Json metadata = small_metadata();
    metadata["tokenizer.ggml.pre"] = "no-such";
    make_gguf_tokenizer(metadata, "");
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.message(), HasSubstr("no-such"));
    EXPECT_THAT(error.fix(), HasSubstr("llama-bpe"));
  }
}

}  // namespace
}  // namespace miq::dataset
