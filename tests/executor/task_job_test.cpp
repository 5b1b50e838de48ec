// Jobs with tasks, on the embedded model and tasks made here: what results.json tells, what lies beside it, and what is told before the work.
#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <set>

#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/executor/job.h"
#include "miq/executor/plan.h"
#include "support/golden.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

const std::string kTiny = std::string(MIQ_SOURCE_DIR) + "/tests/fixtures/tiny-llama";

std::vector<std::string> keys_of(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  return keys;
}

std::set<std::string> files_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) names.insert(fs::relative(entry.path(), folder).string());
  return names;
}

class TaskJob : public testing::Test {
 protected:
  TaskJob() {
    const std::vector<std::string> people = {"Emil", "Luis", "Dean"}, things = {"box", "rope", "bell"};
    const std::vector<std::string> numbers = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"};
    std::string quiz, sums, blind;
    std::vector<std::string> exam(3);
    for (size_t i = 0; i < 12; ++i) {
      Json row = {{"thing", things[i % 3]}, {"who", people[(i / 3) % 3]}, {"other", people[(i / 3 + 1 + i % 2) % 3]}, {"answer", i % 2}, {"letter", i % 2 ? "B" : "A"}};
      row["options"] = i % 2 ? Json{row["other"], row["who"]} : Json{row["who"], row["other"]};
      quiz += row.dump() + "\n";
      exam[i % 3] += row.dump() + "\n";
      row["answer"] = "";
      blind += row.dump() + "\n";
      const size_t left = 1 + i % 4, right = 2 + i / 4;
      sums += Json({{"text", numbers[left] + " plus " + numbers[right] + " is"}, {"next", numbers[left + right]}}).dump() + "\n";
    }
    for (const char* split : {"test", "train"}) {
      write("quiz/" + std::string(split) + ".jsonl", quiz);
      write("sums/" + std::string(split) + ".jsonl", sums);
    }
    write("blind/test.jsonl", blind);
    for (size_t s = 0; s < 3; ++s)
      for (const char* split : {"test", "train"}) write(std::string("exam/") + "abc"[s] + "/" + split + ".jsonl", exam[s] + (s == 0 ? exam[1] : ""));
    write("quiz.yaml", std::string("category: puzzles\nfewshot: {split: train, exclude_self: true}\nmetrics: [acc, acc_norm]\n") + kQuiz);
    write("fixed.yaml", std::string("category: puzzles\nfewshot: {count: 0}\nmetrics: [acc]\n") + kQuiz);
    write("blind.yaml", std::string("include: quiz.yaml\ndata: {set: ./blind, eval: test}\n"));
    write("exam.yaml", "include: quiz.yaml\ndata: {set: './exam/{{SUBJECT}}', eval: test}\n"
                       "subjects: [{subject: a, category: North}, {subject: b, category: North}, {subject: c, category: South}]\n");
    for (const char* round : {"1", "2"}) write(std::string("round") + round + ".yaml", "include: quiz.yaml\ngroup: rounds\ncategory: puzzles\ndata: {set: ./exam/" + std::string(round[0] == '1' ? "a" : "c") + ", eval: test}\n");
    write("fill.yaml", "shape: context_choice\ndata: {set: ./quiz, eval: test}\nchoices: ['{{who}}', '{{other}}']\ntarget: has the {{thing}}.\ngold: 0\nmetrics: [acc]\n");
    write("letters.yaml", "shape: letter_logits\ndata: {set: ./quiz, eval: test}\nprompt: 'Who has the {{thing}}? A. {{who}} B. {{other}} '\nchoices: [A, B]\ngold: '{{letter}}'\nmetrics: [acc]\n");
    write("sums.yaml", "shape: generate\ndata: {set: ./sums, eval: test}\nfewshot: {split: train}\nprompt: '{{text}}'\ntarget: '{{next}}'\ngeneration: {max_new_tokens: 6, until: ['.']}\nnormalize: [strip]\nmetrics: [exact_match, token_f1]\n");
    write("rolling.yaml", "shape: perplexity\ndata: {set: ./sums, eval: test}\ntext: '{{text}} {{next}}.'\nmetrics: [word_perplexity, byte_perplexity, bits_per_byte]\n");
    write("windows.yaml", "shape: perplexity\ndata: {set: ./sums, eval: test}\nmode: windows\nwindow: 16\njoin: ' '\ntext: '{{text}} {{next}}.'\nmetrics: [perplexity]\n");
    write("suite.yaml", "tasks: [quiz.yaml, exam.yaml]\n");
  }

  void write(const std::string& name, const std::string& content) const {
    fs::create_directories((folder_.path() / name).parent_path());
    std::ofstream(folder_.path() / name, std::ios::binary) << content;
  }
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  // `items` are elements of evaluation.tasks, with a file's name after the first "task: ".
  JobConfig config(const std::vector<std::string>& items, const std::string& output = "", const std::string& more = "") const {
    std::string list;
    for (const std::string& item : items) list += (list.empty() ? "" : ", ") + std::string("{task: ") + path(item) + "}";
    return read("evaluation: {bootstrap: 50, tasks: [" + list + "]" + more + "}", output);
  }
  JobConfig read(const std::string& evaluation, const std::string& output = "") const {
    JobConfig config = read_job_config(ConfigSource::from_text("model: {path: " + kTiny + ", dtype: float32}\nrecipe: {preset: rtn, grid: {bits: 2, group_size: 32}}\n" + evaluation, "test.yaml"));
    config.data_dir = path("data");
    if (!output.empty()) config.output = path(output);
    return config;
  }
  Json evaluate(const std::vector<std::string>& items, const std::string& output = "", const std::string& more = "") const { return run_job(config(items, output, more), JobMode::evaluate, {.overwrite = true}); }
  std::vector<Json> lines(const std::string& name) const {
    std::vector<Json> lines;
    std::ifstream file(folder_.path() / name);
    for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
    return lines;
  }
  template <class Action>
  std::string fault(ErrorKind kind, Action&& action) const {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  }

  static constexpr const char* kQuiz = "shape: choice\ndata: {set: ./quiz, eval: test}\nprompt: 'Who has the {{thing}}?'\nchoices: '{{options}}'\ngold: '{{answer}}'\n";
  test::TempFolder folder_;
};

TEST_F(TaskJob, EveryShapeIsTold) {
  const std::vector<std::string> names = {"quiz", "fill", "letters", "sums", "rolling", "windows", "exam"};
  std::vector<std::string> items;
  for (const std::string& name : names) items.push_back(name + ".yaml");
  const Json results = evaluate(items, "out");
  EXPECT_THAT(keys_of(results), ElementsAre("miq", "config", "model", "perplexity", "tasks", "events"));
  EXPECT_EQ(Json::parse(read_file(path("out/results.json"))), results);
  ASSERT_EQ(results["tasks"].size(), names.size());
  for (size_t t = 0; t < names.size(); ++t) {
    const Json& task = results["tasks"][t];
    SCOPED_TRACE(names[t]);
    EXPECT_EQ(task["task"], names[t]);
    EXPECT_EQ(task["shots"], 0);
    EXPECT_EQ(task["split"], "test");
    EXPECT_EQ(task["documents"], names[t] == "windows" ? 1 : names[t] == "exam" ? 16 : 12);
    EXPECT_GE(task["seconds"], 0);
    EXPECT_EQ(task["records"], "tasks/" + names[t] + ".jsonl");
    EXPECT_FALSE(task.contains("flips") || task.contains("agreement") || task.contains("kl_divergence"));
    for (const auto& [metric, value] : task["metrics"].items()) {
      EXPECT_TRUE(value["value"].is_number()) << metric;
      EXPECT_EQ(value["stderr"].is_number(), names[t] != "windows") << metric;
      EXPECT_EQ(value["ci95"].size(), 2u);
      EXPECT_TRUE(value.contains("baseline") && value["baseline"].is_null()) << metric;
      EXPECT_TRUE(value.contains("p_value") && value["p_value"].is_null()) << metric;
    }
    const std::vector<Json> records = lines("out/tasks/" + names[t] + ".jsonl");
    ASSERT_EQ(records.size(), task["documents"]);
    for (size_t d = 0; d < records.size(); ++d) {
      for (const char* key : {"doc", "prediction", "gold", "metrics", "digest"}) EXPECT_TRUE(records[d].contains(key)) << key;
      EXPECT_FALSE(records[d].contains("requests"));
      EXPECT_TRUE(names[t] == "exam" || records[d]["doc"] == d);
    }
  }
  const Json first = lines("out/tasks/quiz.jsonl")[0];
  EXPECT_EQ(first["gold"], 0);
  EXPECT_EQ(first["loglikelihoods"].size(), 2u);
  EXPECT_EQ(first["prediction"], first["loglikelihoods"][1] > first["loglikelihoods"][0] ? 1 : 0);
  EXPECT_EQ(first["metrics"]["acc"], first["prediction"] == 0 ? 1 : 0);
  EXPECT_TRUE(lines("out/tasks/sums.jsonl")[0]["prediction"].is_string());
  double sum = 0;
  for (const Json& record : lines("out/tasks/quiz.jsonl")) sum += record["metrics"]["acc"].get<double>();
  EXPECT_DOUBLE_EQ(results["tasks"][0]["metrics"]["acc"]["value"], sum / 12);
}

TEST_F(TaskJob, SubjectsAndCategoriesHaveTables) {
  const Json task = evaluate({"exam.yaml"}, "out")["tasks"][0];
  std::vector<std::string> subjects, categories;
  for (const Json& part : task["subjects"]) subjects.push_back(part["subject"]);
  for (const Json& part : task["categories"]) categories.push_back(part["category"]);
  EXPECT_THAT(subjects, ElementsAre("a", "b", "c"));
  EXPECT_THAT(categories, ElementsAre("North", "South"));
  const auto acc = [](const Json& part, const char* kind) { return part[kind]["acc"]["value"].get<double>(); };
  const double a = acc(task["subjects"][0], "metrics"), b = acc(task["subjects"][1], "metrics"), c = acc(task["subjects"][2], "metrics");
  EXPECT_EQ(task["subjects"][0]["documents"], 8);
  EXPECT_DOUBLE_EQ(acc(task["categories"][0], "metrics"), (8 * a + 4 * b) / 12);
  EXPECT_DOUBLE_EQ(acc(task["categories"][0], "macro"), (a + b) / 2);
  EXPECT_DOUBLE_EQ(acc(task, "metrics"), (8 * a + 4 * b + 4 * c) / 16);
  EXPECT_DOUBLE_EQ(acc(task, "macro"), (a + b + c) / 3);
  EXPECT_THAT(read_file(path("out/tasks/exam.subjects.txt")), AllOf(HasSubstr("subject"), HasSubstr("acc_norm"), HasSubstr("\na "), HasSubstr("\nall")));
  EXPECT_THAT(read_file(path("out/tasks/exam.categories.txt")), AllOf(HasSubstr("over subjects"), HasSubstr("North"), HasSubstr("South"), HasSubstr("\nall")));
  EXPECT_THAT(files_in(path("out/tasks")), UnorderedElementsAre("exam.jsonl", "exam.subjects.txt", "exam.categories.txt"));
  // The same task on other subjects has other records.
  const Json twice = evaluate({"exam.yaml, subjects: North", "exam.yaml, subjects: South", "exam.yaml, subjects: 'a, c'"}, "twice");
  EXPECT_EQ(twice["tasks"][0]["records"], "tasks/exam.jsonl");
  EXPECT_EQ(twice["tasks"][1]["records"], "tasks/exam.South.jsonl");
  EXPECT_EQ(twice["tasks"][2]["records"], "tasks/exam.2.jsonl");
  EXPECT_EQ(lines("twice/tasks/exam.South.jsonl").size(), 4u);
  // A choice of subjects is told, and counted alone.
  const Json south = evaluate({"exam.yaml, subjects: South"});
  EXPECT_EQ(south["tasks"][0]["selection"], "South");
  EXPECT_EQ(south["tasks"][0]["documents"], 4);
  EXPECT_DOUBLE_EQ(acc(south["tasks"][0], "metrics"), c);
  EXPECT_THAT(format_report(south), HasSubstr("exam (South)"));
}

TEST_F(TaskJob, RunComparesWithTheUnquantizedModel) {
  const Json results = run_job(config({"quiz.yaml", "sums.yaml", "rolling.yaml", "windows.yaml", "exam.yaml"}, "out"), JobMode::run, {.overwrite = true});
  EXPECT_THAT(keys_of(results), ElementsAre("miq", "config", "model", "quantization", "perplexity", "tasks", "events"));
  for (const Json& task : results["tasks"]) {
    SCOPED_TRACE(task["task"].get<std::string>());
    for (const auto& [name, metric] : task["metrics"].items()) {
      ASSERT_TRUE(metric["baseline"].is_number() && metric["p_value"].is_number()) << name;
      EXPECT_GE(metric["p_value"], 0);
      EXPECT_LE(metric["p_value"], 1);
      EXPECT_NEAR(metric["comparison"]["difference"].get<double>(), metric["value"].get<double>() - metric["baseline"].get<double>(), 1e-9) << name;
    }
    EXPECT_GE(task["metrics"].begin()->at("p_value_holm"), task["metrics"].begin()->at("p_value"));
  }
  EXPECT_GT(results["tasks"][1]["metrics"]["exact_match"]["baseline"], 0.5);  // the model can add
  // Two bits cost: the text is less likely.
  EXPECT_GT(results["tasks"][2]["metrics"]["word_perplexity"]["value"], results["tasks"][2]["metrics"]["word_perplexity"]["baseline"]);
  EXPECT_FALSE(results["tasks"][2].contains("flips"));

  // The same from the two records files by hand.
  const Json& quiz = results["tasks"][0];
  EXPECT_EQ(quiz["baseline_records"], "tasks/quiz.baseline.jsonl");
  const std::vector<Json> before = lines("out/tasks/quiz.baseline.jsonl"), after = lines("out/tasks/quiz.jsonl");
  int flips = 0, same = 0;
  double divergence = 0;
  for (size_t d = 0; d < before.size(); ++d) {
    flips += before[d]["metrics"]["acc"] != after[d]["metrics"]["acc"];
    same += before[d]["prediction"] == after[d]["prediction"];
    const auto odds = [](const Json& record) { return record["loglikelihoods"][0].get<double>() - record["loglikelihoods"][1].get<double>(); };
    const double p = 1 / (1 + std::exp(-odds(before[d]))), q = 1 / (1 + std::exp(-odds(after[d])));
    divergence += p * std::log(p / q) + (1 - p) * std::log((1 - p) / (1 - q));
  }
  EXPECT_GT(divergence, 0);
  EXPECT_EQ(quiz["flips"], flips);
  EXPECT_DOUBLE_EQ(quiz["agreement"], same / 12.0);
  EXPECT_NEAR(quiz["kl_divergence"].get<double>(), divergence / 12, 1e-9);
  EXPECT_TRUE(results["tasks"][4]["subjects"][0]["metrics"]["acc"]["baseline"].is_number());
  EXPECT_TRUE(results["tasks"][4]["macro"]["acc"]["baseline"].is_number());
  EXPECT_THAT(read_file(path("out/tasks/exam.subjects.txt")), HasSubstr("before"));
  EXPECT_THAT(format_report(results), AllOf(HasSubstr("p (Holm)"), HasSubstr("flips"), HasSubstr("KL"), HasSubstr("North"), HasSubstr("tasks/exam.subjects.txt")));
}

TEST_F(TaskJob, AgainstAnEarlierRunIsTheBaselinesComparison) {
  const std::vector<std::string> items = {"quiz.yaml, shots: 2", "sums.yaml", "exam.yaml"};
  evaluate({"exam.yaml", "sums.yaml", "quiz.yaml", "quiz.yaml, shots: 2"}, "float");  // other names and order of records
  const Json both = run_job(config(items, "both"), JobMode::run), against = run_job(config(items, "against", ", against: " + path("float")), JobMode::run, {.overwrite = true});
  ASSERT_EQ(against["tasks"].size(), 3u);
  for (size_t t = 0; t < 3; ++t) {
    for (const auto& [name, metric] : both["tasks"][t]["metrics"].items()) EXPECT_EQ(against["tasks"][t]["metrics"][name], metric) << name;
    EXPECT_EQ(against["tasks"][t]["agreement"], both["tasks"][t]["agreement"]);
    EXPECT_FALSE(against["tasks"][t].contains("baseline_records"));
  }
  EXPECT_EQ(against["tasks"][0]["kl_divergence"], both["tasks"][0]["kl_divergence"]);
  // A model against itself.
  const Json same = evaluate(items, "", ", against: " + path("float"));
  EXPECT_EQ(same["tasks"][0]["metrics"]["acc"]["p_value"], 1);
  EXPECT_EQ(same["tasks"][0]["flips"], 0);
  EXPECT_EQ(same["tasks"][0]["agreement"], 1);
  EXPECT_EQ(same["tasks"][0]["kl_divergence"], 0);
}

TEST_F(TaskJob, AgainstAnotherRunIsToldBeforeTheWork) {
  evaluate({"quiz.yaml, limit: 6"}, "few");
  const std::string against = ", against: " + path("few");
  const auto refused = [&](ErrorKind kind, const std::string& item) {
    const std::string told = fault(kind, [&] { evaluate({item}, "out", against); });
    EXPECT_FALSE(fs::exists(path("out/results.json")) || fs::exists(path("out/tasks")));
    return told;
  };
  EXPECT_THAT(refused(ErrorKind::config, "quiz.yaml"), AllOf(HasSubstr("document 6 is not among them"), HasSubstr("few")));
  EXPECT_THAT(refused(ErrorKind::config, "quiz.yaml, limit: 3"), HasSubstr("document 3 is only there"));
  EXPECT_THAT(refused(ErrorKind::config, "quiz.yaml, limit: 6, shots: 1"), HasSubstr("with 0 shots, not with 1"));
  EXPECT_THAT(refused(ErrorKind::io, "sums.yaml"), HasSubstr("has no records of the task sums"));
  EXPECT_EQ(evaluate({"quiz.yaml, limit: 6"}, "", against)["tasks"][0]["flips"], 0);
  fs::remove(path("few/results.json"));  // the records alone are enough
  EXPECT_EQ(evaluate({"quiz.yaml, limit: 6"}, "", against)["tasks"][0]["flips"], 0);
  std::string changed = read_file(path("quiz/test.jsonl"));
  write("quiz/test.jsonl", changed.replace(changed.find("box"), 3, "cup"));
  EXPECT_THAT(refused(ErrorKind::config, "quiz.yaml, limit: 6"), HasSubstr("document 0 has other content"));
  write("few/results.json", "[]");
  EXPECT_THAT(refused(ErrorKind::io, "quiz.yaml, limit: 6"), HasSubstr("no list of tasks"));
}

TEST_F(TaskJob, SuitesExpandAndShotsHaveTheirOwnRecords) {
  const Json results = evaluate({"suite.yaml, shots: 0, limit: 2", "suite.yaml, shots: 1, limit: 2", "quiz.yaml, shots: 0, limit: 2", "quiz.yaml, limit: 3"}, "out", "");
  std::vector<std::string> told;
  for (const Json& task : results["tasks"]) told.push_back(task["task"].get<std::string>() + " " + std::to_string(task["shots"].get<int>()) + " " + task["records"].get<std::string>());
  EXPECT_THAT(told, ElementsAre("quiz 0 tasks/quiz.jsonl", "exam 0 tasks/exam.jsonl", "quiz 1 tasks/quiz.1shot.jsonl", "exam 1 tasks/exam.1shot.jsonl", "quiz 0 tasks/quiz.2.jsonl"));
  EXPECT_NE(read_file(path("out/tasks/quiz.jsonl")), read_file(path("out/tasks/quiz.1shot.jsonl")));
}

TEST_F(TaskJob, WhatTakesNoShotsIsAskedOnce) {
  const Json results = evaluate({"quiz.yaml, shots: 0", "fixed.yaml, shots: 0", "quiz.yaml, shots: 2", "fixed.yaml, shots: 2"}, "out", ", requests: true");
  ASSERT_EQ(results["tasks"].size(), 4u);
  EXPECT_EQ(results["tasks"][3]["shots"], 0);
  EXPECT_EQ(results["tasks"][3]["records"], "tasks/fixed.jsonl");
  EXPECT_EQ(results["tasks"][3]["metrics"], results["tasks"][1]["metrics"]);
  EXPECT_THAT(files_in(path("out/tasks")), UnorderedElementsAre("quiz.jsonl", "quiz.2shot.jsonl", "fixed.jsonl"));
  // Means over a category are of one number of shots.
  const Json& categories = results["categories"];
  ASSERT_EQ(categories.size(), 4u);
  const auto acc = [&](size_t t) { return results["tasks"][t]["metrics"]["acc"]["value"].get<double>(); };
  EXPECT_EQ(categories[0]["category"], "puzzles");
  EXPECT_EQ(categories[0]["shots"], 0);
  EXPECT_EQ(categories[0]["sets"], 2);
  EXPECT_DOUBLE_EQ(categories[0]["value"], (acc(0) + acc(1)) / 2);
  EXPECT_EQ(categories[1]["category"], "all");
  EXPECT_EQ(categories[2]["shots"], 2);
  EXPECT_DOUBLE_EQ(categories[2]["value"], (acc(2) + acc(3)) / 2);
  EXPECT_THAT(format_report(results), AllOf(HasSubstr("puzzles"), HasSubstr("all")));
  const Json record = lines("out/tasks/quiz.jsonl")[0];
  EXPECT_EQ(record["requests"][0], Json({{"context", "Who has the box?"}, {"continuation", " Emil"}}));
}

TEST_F(TaskJob, TasksOfAGroupAreOneSet) {
  const Json results = run_job(config({"round1.yaml", "quiz.yaml", "round2.yaml"}), JobMode::run, {.overwrite = true});
  ASSERT_EQ(results["groups"].size(), 1u);
  const Json& group = results["groups"][0];
  EXPECT_EQ(group["group"], "rounds");
  EXPECT_EQ(group["tasks"], Json({"round1", "round2"}));
  EXPECT_EQ(group["documents"], 12);
  const auto acc = [&](size_t t) { return results["tasks"][t]["metrics"]["acc"]["value"].get<double>(); };
  EXPECT_DOUBLE_EQ(group["metrics"]["acc"]["value"], (8 * acc(0) + 4 * acc(2)) / 12);
  EXPECT_TRUE(group["metrics"]["acc"]["p_value"].is_number());
  EXPECT_TRUE(group.contains("agreement"));
  EXPECT_EQ(results["categories"].back()["sets"], 2);
  EXPECT_DOUBLE_EQ(results["categories"].back()["value"], (group["metrics"]["acc"]["value"].get<double>() + acc(1)) / 2);
  EXPECT_THAT(format_report(results), HasSubstr("rounds: 2 tasks"));
}

TEST_F(TaskJob, TheBatchDoesNotMatter) {
  const std::vector<std::string> items = {"quiz.yaml, shots: 2", "fill.yaml", "letters.yaml", "sums.yaml", "rolling.yaml", "windows.yaml"};
  const auto run = [&](const std::string& output, const std::string& tokens) { return run_job(config(items, output, ", batch_tokens: " + tokens), JobMode::run, {.overwrite = true}); };
  const Json usual = run("usual", "0");  // of the quantized model, whose kernels differ more
  for (const char* tokens : {"1", "8", "100"}) {
    const Json other = run("other", tokens);
    for (size_t t = 0; t < items.size(); ++t) {
      const std::string records = usual["tasks"][t]["records"];
      SCOPED_TRACE(records);
      for (const auto& [name, metric] : usual["tasks"][t]["metrics"].items())
        EXPECT_NEAR(other["tasks"][t]["metrics"][name]["value"].get<double>() / metric["value"].get<double>(), 1, 1e-5) << name;
      const std::vector<Json> a = lines("usual/" + records), b = lines("other/" + records);
      ASSERT_EQ(a.size(), b.size());
      for (size_t d = 0; d < a.size(); ++d) {
        EXPECT_EQ(a[d]["prediction"], b[d]["prediction"]);
        for (size_t i = 0; a[d].contains("loglikelihoods") && i < a[d]["loglikelihoods"].size(); ++i)
          EXPECT_NEAR(a[d]["loglikelihoods"][i].get<double>(), b[d]["loglikelihoods"][i].get<double>(), 1e-5);
      }
    }
  }
}

TEST_F(TaskJob, MemoryDoesNotMatter) {
  const std::vector<std::string> items = {"quiz.yaml, shots: 2", "fill.yaml", "letters.yaml", "sums.yaml", "rolling.yaml"};
  JobConfig tight = config(items, "tight");
  tight.pipeline.memory = 1 << 20;  // blocks are read one by one, texts go through in parts
  const Json usual = evaluate(items, "usual");
  run_job(tight, JobMode::evaluate, {.overwrite = true});
  for (const Json& task : usual["tasks"]) EXPECT_EQ(read_file(path("tight/" + task["records"].get<std::string>())), read_file(path("usual/" + task["records"].get<std::string>())));
}

TEST_F(TaskJob, WithoutAnOutputNothingIsWritten) {
  const std::set<std::string> before = files_in(folder_.path());
  std::set<std::string> here_before, here_after;
  for (const auto& entry : fs::directory_iterator(fs::current_path())) here_before.insert(entry.path().filename());
  const Json results = run_job(config({"quiz.yaml", "exam.yaml"}), JobMode::run, {.overwrite = true});
  for (const auto& entry : fs::directory_iterator(fs::current_path())) here_after.insert(entry.path().filename());
  EXPECT_EQ(files_in(folder_.path()), before);
  EXPECT_EQ(here_before, here_after);
  for (const Json& task : results["tasks"]) EXPECT_FALSE(task.contains("records") || task.contains("baseline_records"));
  EXPECT_THAT(format_report(results), testing::Not(HasSubstr("subjects.txt")));
}

TEST_F(TaskJob, MissingDataAreToldBeforeAnyWork) {
  const auto told = [&](const std::string& tasks, ErrorKind kind) {
    const std::string text = fault(kind, [&] { run_job(read("evaluation: {tasks: [" + tasks + "]}", "out"), JobMode::run, {.overwrite = true}); });
    EXPECT_EQ(files_in(path("out")), std::set<std::string>{"miq.log"});
    return text;
  };
  EXPECT_THAT(told("{task: " + path("quiz.yaml") + "}, hellaswag", ErrorKind::io), AllOf(HasSubstr("tools/miq_data.py hellaswag"), HasSubstr("validation")));
  EXPECT_THAT(told("{task: " + path("quiz.yaml") + ", split: dev}", ErrorKind::io), AllOf(HasSubstr("'dev'"), HasSubstr("there are: test, train")));
  EXPECT_THAT(told("{task: " + path("quiz.yaml") + ", shots: 12}", ErrorKind::config), HasSubstr("12 shots need 13 rows"));
  EXPECT_THAT(told("{task: " + path("letters.yaml") + ", shots: 1}", ErrorKind::config), HasSubstr("no split to take 1 shots from"));
  EXPECT_THAT(told("{task: " + path("exam.yaml") + ", subjects: Suoth}", ErrorKind::config), HasSubstr("did you mean South"));
}

TEST_F(TaskJob, PlanAndQuantizeDoNotReadTheTasks) {
  const JobConfig job = read("evaluation: {tasks: [hellaswag, standard]}");
  EXPECT_EQ(describe_plan(job)["layers"].size(), 28u);
  const Json results = run_job(job, JobMode::quantize, {.overwrite = true});
  EXPECT_EQ(results["tasks"], Json::array());
  EXPECT_EQ(results["quantization"]["layers"].size(), 28u);
  EXPECT_FALSE(format_report(results).empty());
}

TEST_F(TaskJob, UnknownGoldLeavesTheAnswersToCompare) {
  const Json results = run_job(config({"blind.yaml", "quiz.yaml"}, "out"), JobMode::run, {.overwrite = true});
  const Json& task = results["tasks"][0];
  EXPECT_TRUE(task["metrics"]["acc"]["value"].is_null() && task["metrics"]["acc"]["p_value"].is_null());
  EXPECT_EQ(task["metrics"]["acc"]["left_out"], 12);
  EXPECT_FALSE(task.contains("flips"));
  EXPECT_EQ(task["agreement"], results["tasks"][1]["agreement"]);  // they are asked the same
  EXPECT_EQ(task["kl_divergence"], results["tasks"][1]["kl_divergence"]);
  EXPECT_TRUE(lines("out/tasks/blind.jsonl")[0]["gold"].is_null());
  EXPECT_THAT(format_report(results), HasSubstr("blind"));
}

TEST_F(TaskJob, CalibratesOnATask) {
  JobConfig job = config({"exam.yaml, subjects: South"});
  job.recipe = read_job_config(ConfigSource::from_text("recipe: {preset: gptq, grid: {bits: 3, group_size: 32}}", "test.yaml")).recipe;
  job.calibration.dataset = path("exam.yaml");
  job.calibration.split = "test";
  job.calibration.subjects = "North";
  job.calibration.per_subject = 3;
  const Json results = run_job(job, JobMode::run, {.overwrite = true});
  EXPECT_EQ(results["config"]["calibration"]["subjects"], "North");
  EXPECT_GT(results["quantization"]["layers"][0]["loss"], 0);
  EXPECT_TRUE(results["tasks"][0]["metrics"]["acc"]["baseline"].is_number());
}

TEST_F(TaskJob, TheResolvedConfigurationReadsBackTheSame) {
  const JobConfig job = config({"quiz.yaml, shots: 3, limit: 7, split: train, seed: 5", "exam.yaml, subjects: 'a, South'"}, "", ", requests: true, batch_tokens: 99, baseline: false");
  const std::string shown = to_yaml(job);
  const JobConfig again = read_job_config(ConfigSource::from_text(shown, "shown.yaml"));
  EXPECT_EQ(to_yaml(again), shown);
  EXPECT_EQ(to_json(again), to_json(job));
  ASSERT_EQ(again.evaluation.tasks.size(), 2u);
  EXPECT_EQ(again.evaluation.tasks[0].options.shots, 3);
  EXPECT_EQ(again.evaluation.tasks[1].options.subjects, "a, South");
}

}  // namespace
}  // namespace miq::executor
