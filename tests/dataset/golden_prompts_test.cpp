// Every file of golden/prompts, to the character; the digests over whole sets; the document steps' vectors; Python's generator.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "miq/core/digest.h"
#include "miq/core/random.h"
#include "miq/dataset/task.h"
#include "../../src/dataset/python_values.h"
#include "../../src/dataset/task_steps.h"
#include "support/golden.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

fs::path data_dir() { return test::golden_dir() / ".." / "data"; }

std::vector<Json> read_lines(const fs::path& path) {
  std::vector<Json> rows;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) rows.push_back(Json::parse(line));
  return rows;
}

struct Case {
  std::string task;
  std::int64_t shots = 0;
};

Case case_of(const std::string& name) {  // "arc_easy.5shot"
  const size_t dot = name.find('.');
  return {name.substr(0, dot), std::stoll(name.substr(dot + 1))};
}

// The task with the splits that are on disk where its own are not: the golden prompts were made so.
std::vector<TaskDocument> documents(const Case& c, std::int64_t limit) {
  TaskOptions options;
  options.shots = c.shots;
  options.limit = limit;
  const Task task = load_task(c.task, &options);
  const auto there = [&](const std::string& set, const std::string& split) { return fs::exists(data_dir() / set / (split + ".jsonl")); };
  if (task.set.find("{{") == std::string::npos) {
    if (!there(task.set, task.split)) options.split = "validation";
    const std::string pool = task.fewshot.set.empty() ? task.set : task.fewshot.set;
    if (!task.fewshot.split.empty() && !there(pool, task.fewshot.split)) {
      options.fewshot_split = options.split.empty() ? task.split : options.split;
      if (pool.rfind("anli_r", 0) == 0) {
        options.fewshot_set = "anli_r3";
        options.fewshot_split = "train_r3";
      }
    }
  }
  std::vector<TaskDocument> all;
  for (TaskSubject& subject : load_documents(task, options, data_dir()))
    for (TaskDocument& document : subject.documents)
      if (limit == 0 || static_cast<std::int64_t>(all.size()) < limit) all.push_back(std::move(document));
  return all;
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(test::golden_dir() / "prompts", none))
    if (entry.path().extension() == ".jsonl") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

void expect_target(const Json& target, const TaskDocument& document, const std::string& type) {
  if (target.is_null()) return;
  if (target.is_number()) {
    ASSERT_FALSE(document.gold.empty());
    EXPECT_EQ(document.gold[0], target.get<std::int64_t>());
  } else if (type == "loglikelihood" || type == "next_token_logits") {
    ASSERT_FALSE(document.gold.empty());
    EXPECT_EQ(document.choices[static_cast<size_t>(document.gold[0])], target.get<std::string>());
  } else {
    EXPECT_EQ(document.references, target.is_array() ? target.get<std::vector<std::string>>() : std::vector<std::string>{target.get<std::string>()});
  }
}

class GoldenPrompts : public testing::TestWithParam<std::string> {};

TEST_P(GoldenPrompts, AreTheReferences) {
  const Case c = case_of(GetParam());
  const std::vector<Json> rows = read_lines(test::golden_dir() / "prompts" / (GetParam() + ".jsonl"));
  ASSERT_FALSE(rows.empty());
  const std::vector<TaskDocument> made = documents(c, rows.back()["doc_id"].get<std::int64_t>() + 1);
  for (const Json& row : rows) {
    const auto index = row["doc_id"].get<size_t>();
    ASSERT_LT(index, made.size());
    const TaskDocument& document = made[index];
    EXPECT_EQ(static_cast<size_t>(document.index), index);
    const size_t request = row.contains("idx") ? row["idx"].get<size_t>() : 0;
    ASSERT_LT(request, document.requests.size());
    if (row.contains("text")) {
      EXPECT_EQ(document.requests[0].context, "");
      const std::string golden = row["text"];
      EXPECT_EQ(document.requests[0].continuation.substr(0, golden.size()), golden);
      EXPECT_EQ(code_points(document.requests[0].continuation), row["text_chars"].get<std::int64_t>());
    } else {
      EXPECT_EQ(document.requests[request].context, row["context"].get<std::string>());
      EXPECT_EQ(document.requests[request].continuation, row.value("continuation", ""));
    }
    if (row.contains("candidates")) {
      EXPECT_EQ(Json(document.choices), row["candidates"]);
    }
    expect_target(row["target"], document, row["request_type"]);
  }
}
INSTANTIATE_TEST_SUITE_P(All, GoldenPrompts, testing::ValuesIn(case_names()), [](const auto& info) {
  std::string name = info.param;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenPrompts);

TEST(GoldenPromptSets, HaveTheReferencesDigests) {
  MIQ_REQUIRE_GOLDEN("prompts/SHA256.txt");
  std::ifstream in(test::golden_dir() / "prompts/SHA256.txt");
  int checked = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    char name[200], digest[100];
    long long count = 0, requests = 0;
    ASSERT_EQ(std::sscanf(line.c_str(), "%199s docs=%lld requests=%lld sha256=%99s", name, &count, &requests, digest), 4) << line;
    SCOPED_TRACE(name);
    std::string text;
    long long made = 0;
    for (const TaskDocument& document : documents(case_of(name), count))
      for (const TaskRequest& request : document.requests) {
        const bool whole_text = document.choices.empty() && request.context.empty();  // the reference has it as context
        text += whole_text ? request.continuation + '\0' + '\1' : request.context + '\0' + request.continuation + '\1';
        ++made;
      }
    EXPECT_EQ(made, requests);
    EXPECT_EQ(sha256(text), digest);
    ++checked;
  }
  EXPECT_GT(checked, 0);
}

// What a step makes of a row with the vector's text in it.
Json stepped(const std::string& function, const std::string& input) {
  if (function == "capitalize") return capitalized(input);
  const std::string step = function == "hellaswag_preprocess" ? "hellaswag" : function == "mathqa_choices" ? "mathqa_options" : function == "wikitext_detokenizer" ? "wikitext_detokenize" : function;
  Json row = {{"ctx_a", ""}, {"ctx_b", ""}, {"activity_label", ""}, {"endings", {input}}, {"options", step == "mathqa_options" ? Json(input) : Json{input}}, {"article", input}, {"page", input}};
  prepare(step, row, "vector");
  if (step == "hellaswag") return row["choices"][0];
  if (step == "mathqa_options") return row["choices"];
  if (step == "mutual_detokenize") {
    EXPECT_EQ(row["options"][0], row["article"]);
    return row["article"];
  }
  return row["text"];
}

TEST(GoldenTextFunctions, AreTheReferences) {
  MIQ_REQUIRE_GOLDEN("metrics/text_functions.jsonl");
  for (const Json& line : read_lines(test::golden_dir() / "metrics/text_functions.jsonl")) {
    SCOPED_TRACE(line.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 100));
    const std::string input = line["input"];
    EXPECT_EQ(stepped(line["fn"], input), line["output"]);
    if (line.contains("words")) {
      EXPECT_EQ(white_space_pieces(input), line["words"].get<std::int64_t>());
    }
    if (line.contains("bytes")) {
      EXPECT_EQ(input.size(), line["bytes"].get<size_t>());
    }
  }
}

TEST(GoldenRandom, IsPythons) {
  MIQ_REQUIRE_GOLDEN("metrics/aggregates.jsonl");
  int checked = 0;
  for (const Json& line : read_lines(test::golden_dir() / "metrics/aggregates.jsonl")) {
    const std::string function = line["fn"];
    if (function.rfind("python_", 0) != 0) continue;
    SCOPED_TRACE(line.dump().substr(0, 100));
    PythonRandom random(line["seed"].get<std::uint64_t>());
    for (const Json& wanted : function == "python_random_shuffle" ? Json::array({line["out"]}) : line["out"]) {
      if (function == "python_random_sample") {
        EXPECT_EQ(Json(random.sample_indices(line["n"], line["k"])), wanted);
      } else if (function == "python_random_shuffle") {
        std::vector<int> values(line["n"].get<size_t>());
        std::iota(values.begin(), values.end(), 0);
        random.shuffle(values);
        EXPECT_EQ(Json(values), wanted);
      } else if (function == "python_getrandbits32") {
        EXPECT_EQ(random.getrandbits(32), wanted.get<std::uint32_t>());
      } else if (function == "python_randint") {
        EXPECT_EQ(random.randint(line["lo"], line["hi"]), wanted.get<std::int64_t>());
      } else {
        FAIL() << "an unknown vector";
      }
      ++checked;
    }
  }
  EXPECT_GT(checked, 0);
}

// The step's fields decide BBQ's scores: targets and biased answers of real documents.
TEST(GoldenBbq, TargetsAndBiasedAnswersAreTheReferences) {
  MIQ_REQUIRE_GOLDEN("metrics/bbq.json");
  std::ifstream in(test::golden_dir() / "metrics/bbq.json");
  for (const Json& set : Json::parse(in)) {
    const std::string name = set["set"];
    if (!fs::exists(data_dir() / name)) continue;
    const std::vector<TaskDocument> made = documents({name, 0}, 80);
    for (size_t i = 0; i < set["per_doc"].size(); ++i) {
      const Json& wanted = set["per_doc"][i];
      SCOPED_TRACE(name + " " + std::to_string(i));
      std::vector<std::int64_t> targets = wanted["targets"];
      targets.erase(std::remove(targets.begin(), targets.end(), 12), targets.end());  // the reference counts one choice too many
      EXPECT_EQ(made[i].gold, targets);
      EXPECT_EQ(made[i].fields["biased"], wanted["biased"]);
    }
  }
}

// "text" of 1.1: one string of the whole split.
TEST(GoldenText, JoinedTextIsTheSplits) {
  const Task task = load_task("ppl_wikitext2");
  const fs::path whole = data_dir() / "wikitext2/test.joined.txt";
  if (!fs::exists(whole)) GTEST_SKIP() << "no " << whole;
  std::ifstream in(whole, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  EXPECT_TRUE(joined_text(task, {}, data_dir()) == text);
}

}  // namespace
}  // namespace miq::dataset
