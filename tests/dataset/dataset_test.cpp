// Corpora, calibration windows, and tokenizers made on the spot, malformed ones among them.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "miq/core/error.h"
#include "miq/core/safetensors.h"
#include "miq/dataset/calibration.h"
#include "support/golden.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

// A byte-level BPE over a few letters: ab and abc are merges; <x> is special.
Json small_tokenizer() {
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  return {{"model", {{"type", "BPE"},
                     {"vocab", {{"a", 0}, {"b", 1}, {"c", 2}, {"\xC4\xA0", 3}, {"ab", 4}, {"abc", 5}, {"\xC4\xA0" "a", 6}}},
                     {"merges", {"a b", Json::array({"ab", "c"}), "\xC4\xA0 a"}}}},
          {"pre_tokenizer", byte_level},
          {"decoder", byte_level},
          {"added_tokens", {{{"id", 7}, {"content", "<x>"}, {"special", true}, {"normalized", false}}}}};
}

class Tokenizers : public testing::Test {
 protected:
  std::unique_ptr<Tokenizer> load(const Json& description) {
    write(folder_.path() / "tokenizer.json", description.dump());
    return load_tokenizer(folder_.path());
  }
  ErrorKind error_of(const Json& description) {
    try {
      load(description);
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::internal;
  }
  test::TempFolder folder_;
};

TEST_F(Tokenizers, MergesByRankAndKeepsSpecialTokens) {
  const auto tokenizer = load(small_tokenizer());
  EXPECT_THAT(tokenizer->encode("abc ab<x>a", false), ElementsAre(5, 3, 4, 7, 0));  // "a b" ranks before " a"
  EXPECT_THAT(tokenizer->encode("a\xFFz b", false), ElementsAre(0, 3, 1));  // what the vocabulary lacks is dropped
  EXPECT_EQ(tokenizer->decode({5, 3, 4, 7, 0, 99, -1}, false), "abc ab<x>a");
  EXPECT_EQ(tokenizer->decode({5, 7}, true), "abc");
  EXPECT_EQ(tokenizer->vocab_size(), 8);
}

TEST_F(Tokenizers, LongWordsTakeNoLongerThanTheirLength) {
  const auto tokenizer = load(small_tokenizer());
  std::string word;
  for (int i = 0; i < 300000; ++i) word += "abc";
  EXPECT_EQ(tokenizer->encode(word, false).size(), 300000u);
}

TEST_F(Tokenizers, MalformedFilesAreRefused) {
  Json json = small_tokenizer();
  json["model"]["merges"] = {"a z"};
  EXPECT_EQ(error_of(json), ErrorKind::io);
  json = small_tokenizer();
  json["model"]["merges"] = {5};
  EXPECT_EQ(error_of(json), ErrorKind::io);
  json = small_tokenizer();
  json["model"]["vocab"]["zz"] = 0;
  EXPECT_EQ(error_of(json), ErrorKind::io);
  json["model"]["vocab"]["zz"] = 4000000000;
  EXPECT_EQ(error_of(json), ErrorKind::io);
  json["model"]["vocab"]["zz"] = "1";
  EXPECT_EQ(error_of(json), ErrorKind::io);
  json = small_tokenizer();
  json["added_tokens"][0]["id"] = -5;
  EXPECT_EQ(error_of(json), ErrorKind::io);
  json = small_tokenizer();
  json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}};
  EXPECT_EQ(error_of(json), ErrorKind::io);
  json["pre_tokenizer"] = {{"type", "Whitespace"}};
  EXPECT_EQ(error_of(json), ErrorKind::unsupported);
  json = small_tokenizer();
  json["model"]["type"] = "Unigram";
  EXPECT_EQ(error_of(json), ErrorKind::unsupported);
  json = small_tokenizer();
  json["normalizer"] = {{"type", "Sequence"}};
  EXPECT_EQ(error_of(json), ErrorKind::io);
  EXPECT_EQ(error_of(Json::array()), ErrorKind::io);
  EXPECT_EQ(error_of(Json(7)), ErrorKind::io);
  write(folder_.path() / "tokenizer.json", small_tokenizer().dump().substr(0, 100));
  EXPECT_THROW(load_tokenizer(folder_.path()), Error);
  fs::remove(folder_.path() / "tokenizer.json");
  EXPECT_THROW(load_tokenizer(folder_.path()), Error);
  write(folder_.path() / "tokenizer.model", "not a model");
  EXPECT_THROW(load_tokenizer(folder_.path()), Error);
}

TEST_F(Tokenizers, RunawayPatternsAreStopped) {
  Json json = small_tokenizer();
  json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a+)+$"}}}, {"behavior", "Isolated"}};
  const auto tokenizer = load(json);
  EXPECT_THROW(tokenizer->encode(std::string(5000, 'a') + "b", false), Error);
}

TEST_F(Tokenizers, ComponentsDoWhatTheirNamesSay) {
  Json json = small_tokenizer();
  json["model"]["vocab"] = {{"<unk>", 0}, {"\xE2\x96\x81", 1}, {"a", 2}, {"b", 3}, {"<0xC3>", 4}, {"<0xA9>", 5}, {"\xE2\x96\x81" "a", 6}};
  json["model"]["merges"] = {"\xE2\x96\x81 a"};
  json["model"]["byte_fallback"] = true;
  json["model"]["unk_token"] = "<unk>";
  json["model"]["fuse_unk"] = true;
  json["pre_tokenizer"] = nullptr;
  json["normalizer"] = Json::parse(R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})");
  json["decoder"] = Json::parse(R"({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
  json["post_processor"] = Json::parse(R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<x>"}}], "special_tokens": {"<x>": {"ids": [7]}}})");
  const auto tokenizer = load(json);
  EXPECT_THAT(tokenizer->encode("a e\xCC\x81", true), ElementsAre(7, 6, 1, 4, 5, 7));  // e + accent, composed
  EXPECT_EQ(tokenizer->decode({6, 1, 4, 5}, false), "a \xC3\xA9");
  EXPECT_EQ(tokenizer->decode({6, 4}, false), "a\xEF\xBF\xBD");
  EXPECT_THAT(tokenizer->encode("zza", false), ElementsAre(1, 0, 2));
}

class Corpora : public testing::Test {
 protected:
  test::TempFolder folder_;
};

TEST_F(Corpora, AreReadAndJoinedAsTheFieldDoes) {
  write(folder_.path() / "wikitext2/test.jsonl", "{\"text\": \"\"}\n{\"text\": \" = A = \\n\"}\n");
  write(folder_.path() / "wikitext2_train/train.txt", " \n = A = \n");
  write(folder_.path() / "ptb/validation.txt", "one\ntwo\n");
  write(folder_.path() / "mine.jsonl", "{\"content\": \"x\"}\n\n{\"text\": \"y\"}");
  EXPECT_EQ(load_corpus("wikitext2", "test", folder_.path()).joined(), "\n\n = A = \n");
  EXPECT_EQ(load_corpus("wikitext2", "train", folder_.path()).joined(), "\n\n = A = \n");
  EXPECT_EQ(load_corpus("ptb", "validation", folder_.path()).joined(), "one two");
  EXPECT_EQ(load_corpus((folder_.path() / "mine.jsonl").string(), "", "").joined(), "x\n\ny");
}

TEST_F(Corpora, MissingOnesSayWhatThereIs) {
  write(folder_.path() / "ptb/validation.txt", "one\n");
  try {
    load_corpus("ptb", "train", folder_.path());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_THAT(error.fix(), HasSubstr("validation"));
  }
  EXPECT_THROW(load_corpus("ptb", "../../etc/passwd", folder_.path()), Error);
  EXPECT_THROW(load_corpus("ptbb", "train", folder_.path()), Error);
  EXPECT_THROW(load_corpus("ceval", "val", folder_.path()), Error);
  write(folder_.path() / "bad.jsonl", "{\"text\": 3}\n");
  EXPECT_THROW(load_corpus((folder_.path() / "bad.jsonl").string(), "", ""), Error);
}

// A token per byte.
class Bytes : public Tokenizer {
 public:
  std::vector<std::int64_t> encode(std::string_view text, bool) const override { return {text.begin(), text.end()}; }
  std::string decode(const std::vector<std::int64_t>&, bool) const override { return ""; }
  std::int64_t vocab_size() const override { return 256; }
  std::optional<std::int64_t> bos_id() const override { return std::nullopt; }
  std::optional<std::int64_t> eos_id() const override { return std::nullopt; }
};

class Calibration : public Corpora {
 protected:
  CalibrationConfig config(const std::string& text, std::int64_t samples, std::int64_t seqlen) {
    write(folder_.path() / "t.txt", text);
    CalibrationConfig config;
    config.dataset = (folder_.path() / "t.txt").string();
    config.samples = samples;
    config.seqlen = seqlen;
    return config;
  }
  std::string letters_ = "abcdefghijklmnopqrstuvwxyz";
};

TEST_F(Calibration, ConsecutiveWindows) {
  CalibrationConfig c = config(letters_, 3, 8);
  c.sampling = Sampling::consecutive;
  const at::Tensor ids = calibration_ids(c, Bytes(), "");
  EXPECT_EQ(ids.sizes(), at::IntArrayRef({3, 8}));
  EXPECT_EQ(ids[2][7].item<std::int64_t>(), 'x');
  c.samples = 4;
  EXPECT_THROW(calibration_ids(c, Bytes(), ""), Error);
}

// random.seed(42); [random.randint(0, 26 - 5 - 1) for _ in range(4)] is 20, 3, 0, 8 in CPython.
TEST_F(Calibration, RandomWindowsAreTheReferences) {
  const at::Tensor ids = calibration_ids(config(letters_, 4, 5), Bytes(), "");
  std::vector<std::int64_t> starts;
  for (int s = 0; s < 4; ++s) starts.push_back(ids[s][0].item<std::int64_t>() - 'a');
  EXPECT_THAT(starts, ElementsAre(20, 3, 0, 8));
  EXPECT_THROW(calibration_ids(config("abc", 1, 3), Bytes(), ""), Error);
}

TEST_F(Calibration, DocumentsOfC4MustBeLongEnough) {
  write(folder_.path() / "c4/train.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"abcdefgh\"}\n");
  CalibrationConfig c = config("", 6, 5);
  c.dataset = "c4";
  c.split = "train";
  EXPECT_EQ(calibration_ids(c, Bytes(), folder_.path()).sizes(), at::IntArrayRef({6, 5}));
  c.seqlen = 8;
  EXPECT_THROW(calibration_ids(c, Bytes(), folder_.path()), Error);
}

TEST_F(Calibration, GivenIds) {
  const fs::path path = folder_.path() / "ids.safetensors";
  const at::Tensor ids = at::arange(6, at::kLong).view({2, 3});
  save_safetensors(path, {{"ids", ids}});
  EXPECT_TRUE(at::equal(read_calibration_ids(path), ids));
  save_safetensors(path, {{"ids", ids.to(at::kInt)}});
  EXPECT_THROW(read_calibration_ids(path), Error);
  save_safetensors(path, {{"ids", ids.view({6})}});
  EXPECT_THROW(read_calibration_ids(path), Error);
  save_safetensors(path, {{"tokens", ids}});
  EXPECT_THROW(read_calibration_ids(path), Error);
}

class TaskCalibration : public Calibration {
 protected:
  void SetUp() override {
    write(folder_.path() / "ceval/subjects.jsonl", R"({"subject": "arts", "category": "Humanities"})" "\n" R"({"subject": "law", "category": "Social Science"})" "\n"
                                                   R"({"subject": "gone", "category": "Humanities"})" "\n");
    for (const char* subject : {"arts", "law"}) {
      std::string rows;
      for (int i = 0; i < 6; ++i)
        rows += Json{{"question", subject + std::to_string(i)}, {"A", "a"}, {"B", "b"}, {"C", "c"}, {"D", "d"}, {"answer", "B"}}.dump() + "\n";
      write(folder_.path() / "ceval" / subject / "val.jsonl", rows);
      write(folder_.path() / "ceval" / subject / "dev.jsonl", rows);
    }
    std::string rows;
    for (int i = 0; i < 6; ++i)
      rows += Json{{"question", "q" + std::to_string(i)}, {"choices", {{"text", {"x", "y"}}, {"label", {"A", "B"}}}}, {"answerKey", i % 2 ? "A" : "B"}}.dump() + "\n";
    write(folder_.path() / "arc_easy/train.jsonl", rows);
    write(folder_.path() / "boss/QuestionAnswering/advqa/train.jsonl", R"({"question": "q", "context": "c", "answers": {"text": ["it's", "b"]}})" "\n");
    write(folder_.path() / "boss/NaturalLanguageInference/mnli/train.jsonl", R"({"Premise": "p", "Hypothesis": "h", "Label": 2})" "\n");
  }
  std::vector<std::string> texts(const std::string& dataset, const std::string& split, const std::function<void(CalibrationConfig&)>& change = [](CalibrationConfig&) {}) {
    CalibrationConfig config;
    config.dataset = dataset;
    config.split = split;
    config.samples = 3;
    config.per_subject = 2;
    change(config);
    return task_samples(config, folder_.path());
  }
};

TEST_F(TaskCalibration, QuestionsOfExaminationsAreMiOptimizes) {
  const std::string options = "\nA. a\nB. b\nC. c\nD. d\n答案：";
  EXPECT_THAT(texts("ceval", "val"), ElementsAre("arts0" + options, "arts1" + options, "law0" + options, "law1" + options));
  EXPECT_THAT(texts("ceval", "val", [](auto& c) { c.subjects = "social_sciences"; }), ElementsAre("law0" + options, "law1" + options));
  EXPECT_THAT(texts("ceval", "val", [](auto& c) { c.subjects = "law=1, arts"; }), ElementsAre("law0" + options, "arts0" + options, "arts1" + options));
  EXPECT_THAT(texts("ceval/law", "val"), ElementsAre("law0" + options, "law1" + options, "law2" + options));
  // random.Random(42), x = [0 .. 5], shuffle(x), twice: 3 1 2 4 0 5 and 3 0 2 4 5 1.
  EXPECT_THAT(texts("ceval", "val", [](auto& c) { c.shuffle = true; }), ElementsAre("arts3" + options, "arts1" + options, "law3" + options, "law0" + options));
  EXPECT_THROW(texts("ceval", "val", [](auto& c) { c.subjects = "lawn"; }), Error);
  EXPECT_THROW(texts("ceval", "val", [](auto& c) { c.subjects = "gone"; }), Error);
  EXPECT_THROW(texts("ceval", "val", [](auto& c) { c.subjects = "law=x"; }), Error);
  EXPECT_THROW(texts("ceval", "vaal"), Error);
}

TEST_F(TaskCalibration, AnyTaskGivesSamples) {
  EXPECT_THAT(texts("arc_easy", "train"), ElementsAre("Question: q0\nAnswer: y", "Question: q1\nAnswer: x", "Question: q2\nAnswer: y"));
  EXPECT_THAT(texts("boss/QuestionAnswering/advqa", "train"), ElementsAre("Question:q Context:c Answer:[\"it's\", 'b']"));
  EXPECT_THAT(texts("boss_NaturalLanguageInference_mnli=1, arc_easy=1", "train"), ElementsAre("Premise:p Hypothesis:h Label:contradiction", "Question: q0\nAnswer: y"));
  EXPECT_THAT(texts("ceval_mi/law", "val", [](auto& c) { c.samples = 1, c.shots = 1; }),
              ElementsAre("以下是中国考试的单项选择题，请选出其中的正确答案。\n\n\nlaw0\nA. a\nB. b\nC. c\nD. d\n答案：B\n\nlaw0\nA. a\nB. b\nC. c\nD. d\n答案：B"));
  for (const std::string& text : texts("arc_easy", "train", [](auto& c) { c.shots = 2, c.samples = 6; }))  // never a shot of its own
    EXPECT_EQ(text.find(text.substr(text.rfind("Question:"))), text.rfind("Question:"));
  EXPECT_THROW(texts("arc_easi", "train"), Error);
  EXPECT_THROW(texts("arc_easy", "test"), Error);
  EXPECT_THROW(texts("blimp", "train", [](auto& c) { c.shots = 2; }), Error);
}

TEST_F(TaskCalibration, SamplesOfOneLengthAreABatch) {
  CalibrationConfig c;
  c.dataset = "arc_easy";
  c.split = "train";
  c.samples = 6;
  c.seqlen = 22;
  const auto batches = calibration_samples(c, Bytes(), folder_.path());
  ASSERT_EQ(batches.size(), 1u);
  EXPECT_EQ(batches[0].sizes(), at::IntArrayRef({6, 22}));
  c.pack = true;  // 6 texts of 22 bytes, two between each
  c.seqlen = 50;
  EXPECT_EQ(calibration_samples(c, Bytes(), folder_.path())[0].sizes(), at::IntArrayRef({2, 50}));
  c.seqlen = 200;
  EXPECT_THROW(calibration_samples(c, Bytes(), folder_.path()), Error);
}

}  // namespace
}  // namespace miq::dataset
