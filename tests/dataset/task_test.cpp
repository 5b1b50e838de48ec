// Templates, task files and their mistakes, names, subjects, shots: on data made here.
#include <gmock/gmock.h>

#include <fstream>
#include <set>

#include "../../src/dataset/python_values.h"
#include "../../src/dataset/template.h"
#include "miq/core/error.h"
#include "miq/dataset/task.h"
#include "support/golden.h"

namespace miq::dataset {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

template <class Function>
std::string error_of(const Function& function, ErrorKind kind = ErrorKind::config) {
  try {
    function();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.message();
    return error.message() + " | " + error.where() + " | " + error.fix();
  }
  return "no error";
}

const Json kRow = Json::parse(R"js({"q": " Why? ", "n": 3, "x": 0.5, "yes": true, "none": null, "list": ["a", "b'c", 2],
                                   "deep": {"texts": ["t0", "t1"], "rows": [{"k": "v"}]}, "s": "he _ it _ on", "a b": 1})js");

std::string render(const std::string& text) { return Template(text, "t.yaml:1:1").render({kRow, "d.jsonl:7, document 6", "law", "About law."}); }

TEST(Templates, PutFieldsIn) {
  EXPECT_EQ(render(""), "");
  EXPECT_EQ(render("no field } { here"), "no field } { here");
  EXPECT_EQ(render("{{q}}|{{ n }}{{x}}{{yes}}"), " Why? |30.5True");
  EXPECT_EQ(render("{{deep.texts[1]}}{{deep.rows[0].k}}"), "t1v");
  EXPECT_EQ(render("{{SUBJECT}}: {{SUBJECT_DESCRIPTION}}"), "law: About law.");
  EXPECT_EQ(render("{{list}}"), R"(['a', "b'c", 2])");  // as Python prints it
  EXPECT_EQ(render("{{'{{'}}n}}{{'{%'}}"), "{{n}}{%");
}

TEST(Templates, Filters) {
  EXPECT_EQ(render("{{q|strip}}.{{q|lstrip}}.{{q|rstrip}}."), "Why?.Why? . Why?.");
  EXPECT_EQ(render("{{q|strip|ensure_end('?')|ensure_end('.')|lower}}"), "why?.");
  EXPECT_EQ(render(R"({{list|join('\n')}})"), "a\nb'c\n2");
  EXPECT_EQ(render("{{s|before('_')}}<>{{s|after(\"_\")|strip}}"), "he <>it _ on");
  EXPECT_EQ(render("{{n|label('a','b','c','d')}}{{s|replace('_','')|capitalize}}"), "dHe  it  on");
}

TEST(Templates, SayWhereTheyAreWrong) {
  const auto fault = [](const std::string& text) { return error_of([&] { render(text); }); };
  EXPECT_THAT(fault("a {{q"), AllOf(HasSubstr("'}}' is missing"), HasSubstr("t.yaml:1:1")));
  EXPECT_THAT(fault("{{}}"), HasSubstr("name of a field is missing"));
  EXPECT_THAT(fault("{{q|stripp}}"), HasSubstr("did you mean strip?"));
  EXPECT_THAT(fault("{{q|join}}"), HasSubstr("takes 1 argument"));
  EXPECT_THAT(fault("{{q|join('x}}"), HasSubstr("does not end"));
  EXPECT_THAT(fault("{{list[x]}}"), HasSubstr("no index"));
  EXPECT_THAT(fault("{% if q %}"), HasSubstr("no loops or conditions"));
  EXPECT_THAT(fault("{{qq}}"), AllOf(HasSubstr("no field 'qq'"), HasSubstr("t.yaml:1:1"), HasSubstr("d.jsonl:7, document 6"), HasSubstr("did you mean q?")));
  EXPECT_THAT(fault("{{deep.text}}"), AllOf(HasSubstr("'deep.text'"), HasSubstr("did you mean texts?")));
  EXPECT_THAT(fault("{{list[3]}}"), HasSubstr("3 elements"));
  EXPECT_THAT(fault("{{q.inner}}"), HasSubstr("q has no fields"));
  EXPECT_THAT(fault("{{none}}"), HasSubstr("null"));
  const auto damaged = [](const std::string& text) { return error_of([&] { render(text); }, ErrorKind::io); };
  EXPECT_THAT(damaged("{{q|before('_')}}"), HasSubstr("does not contain '_'"));
  EXPECT_THAT(damaged("{{n|label('a')}}"), HasSubstr("none of the labels"));
  EXPECT_THAT(damaged("{{q|join(', ')}}"), HasSubstr("no list"));
  EXPECT_THAT(damaged("{{list|strip}}"), HasSubstr("not a text"));
}

TEST(Templates, TextIsPythons) {
  EXPECT_EQ(python_repr(Json::parse(R"(["it's", "a\nb\\", "\"'", 1.0, null, true, {"k": []}])")), R"(["it's", 'a\nb\\', '"\'', 1.0, None, True, {'k': []}])");
  EXPECT_EQ(python_repr("\u00A0é\u200B"), "'\\xa0é\\u200b'");
  EXPECT_EQ(capitalized("ﬁN ΟΔΟΣ"), "Fin οδος");
  EXPECT_EQ(white_space_pieces(" a  b\n"), 4);
}

class Tasks : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    fs::create_directories((folder_.path() / name).parent_path());
    std::ofstream(folder_.path() / name, std::ios::binary) << text;
  }
  Task read(const std::string& yaml) { return read_task(yaml, "mine.yaml", folder_.path()); }
  std::vector<TaskSubject> load(const std::string& yaml, const TaskOptions& options = {}) { return load_documents(read(yaml), options, folder_.path()); }
  std::string fault(const std::string& yaml, ErrorKind kind = ErrorKind::config) {
    return error_of([&] { read(yaml); }, kind);
  }
  std::string data_fault(const std::string& rows, ErrorKind kind = ErrorKind::io, const std::string& yaml = kQuiz) {
    write("quiz/test.jsonl", rows);
    return error_of([&] { load(yaml); }, kind);
  }
  static constexpr const char* kQuiz =
      "shape: choice\n"
      "data: {set: quiz, eval: test}\n"
      "prompt: \"Q: {{question}}\\nA:\"\n"
      "choices: \"{{options}}\"\n"
      "gold: \"{{answer}}\"\n"
      "metrics: [acc]\n";
  static constexpr const char* kGood = "{\"question\": \"2+2?\", \"options\": [\"3\", \"4\"], \"answer\": 1}\n";
  test::TempFolder folder_;
};

std::string with(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST_F(Tasks, MakeTheRequestsOfTheirShape) {
  write("quiz/test.jsonl", kGood);
  const auto choice = load(kQuiz)[0].documents.at(0);
  ASSERT_EQ(choice.requests.size(), 2u);
  EXPECT_EQ(choice.requests[1].context, "Q: 2+2?\nA:");
  EXPECT_EQ(choice.requests[1].continuation, " 4");
  EXPECT_THAT(choice.gold, ElementsAre(1));
  EXPECT_THAT(choice.where, testing::EndsWith("quiz/test.jsonl:1"));
  const auto letters = load(with(kQuiz, "choice\n", "letter_logits\n"))[0].documents.at(0);
  ASSERT_EQ(letters.requests.size(), 1u);
  EXPECT_EQ(letters.requests[0].continuation, "");
  const auto contexts = load(std::string(with(kQuiz, "choice\n", "context_choice\n")) + "target: is it\ndescription: \"D.\"\n")[0].documents.at(0);
  EXPECT_EQ(contexts.requests[0].context, "D.3");
  EXPECT_EQ(contexts.requests[0].continuation, " is it");
  const auto generated = load("shape: generate\ndata: {set: quiz, eval: test}\nprompt: \"{{question}}\"\ntarget: \"{{options}}\"\nmetrics: [exact_match]\n")[0].documents.at(0);
  EXPECT_THAT(generated.references, ElementsAre("3", "4"));
  EXPECT_EQ(generated.requests[0].context, "2+2?");
  const auto text = load("shape: perplexity\ndata: {set: quiz, eval: test}\ntext: \"{{question}} now\"\nmetrics: [word_perplexity]\n")[0].documents.at(0);
  EXPECT_EQ(text.requests[0].continuation, "2+2? now");
  EXPECT_EQ(text.words, 2);
  EXPECT_EQ(text.bytes, 8);
}

TEST_F(Tasks, GoldIsAnIndexATextALabelOrAList) {
  const auto gold = [&](const std::string& yaml, const std::string& row) {
    write("quiz/test.jsonl", row);
    return load(yaml)[0].documents.at(0).gold;
  };
  const std::string text = R"({"question": "q", "options": ["no", "yes"], "answer": "yes"})", labels = with(kQuiz, "gold: \"{{answer}}\"", "gold: \"{{answer}}\"\ngold_labels: [X, Y]");
  EXPECT_THAT(gold(kQuiz, text), ElementsAre(1));
  EXPECT_THAT(gold(kQuiz, with(text, "\"yes\"}", "\"0\"}")), ElementsAre(0));
  EXPECT_THAT(gold(kQuiz, with(text, "\"yes\"}", "[0, 1]}")), ElementsAre(0, 1));
  EXPECT_THAT(gold(kQuiz, with(text, "\"yes\"}", "\"\"}")), ElementsAre());
  EXPECT_THAT(gold(labels, with(text, "\"yes\"}", "\"Y\"}")), ElementsAre(1));
  EXPECT_THAT(data_fault(with(text, "\"yes\"}", "\"Z\"}"), ErrorKind::io, labels), AllOf(HasSubstr("'Z' is none of the labels 'X', 'Y'"), HasSubstr("mine.yaml:5:7"), HasSubstr("test.jsonl:1")));
}

TEST_F(Tasks, FilesSayWhereTheyAreWrong) {
  EXPECT_THAT(fault(with(kQuiz, "prompt:", "promt:")), AllOf(HasSubstr("unknown key 'promt'"), HasSubstr("mine.yaml:3:1"), HasSubstr("did you mean prompt?")));
  EXPECT_THAT(fault(with(kQuiz, "[acc]", "[accc]")), AllOf(HasSubstr("metric 'accc'"), HasSubstr("mine.yaml:6:10"), HasSubstr("did you mean acc?")));
  EXPECT_THAT(fault(with(kQuiz, "shape: choice", "shape: choise")), AllOf(HasSubstr("mine.yaml:1:8"), HasSubstr("did you mean choice?")));
  EXPECT_THAT(fault(std::string(kQuiz) + "prepare: helaswag\n"), AllOf(HasSubstr("step 'helaswag'"), HasSubstr("mine.yaml:7:10"), HasSubstr("did you mean hellaswag?")));
  EXPECT_THAT(fault(std::string(kQuiz) + "normalize: [lowr]\n"), AllOf(HasSubstr("step 'lowr'"), HasSubstr("did you mean lower?")));
  EXPECT_THAT(fault(std::string(kQuiz) + "include: helaswag\n"), AllOf(HasSubstr("mine.yaml:7:10"), HasSubstr("did you mean hellaswag?")));
  EXPECT_THAT(fault(with(kQuiz, "{{question}}", "{{question")), AllOf(HasSubstr("not a template"), HasSubstr("mine.yaml:3:9")));
  EXPECT_THAT(fault(with(kQuiz, "data: {set: quiz, eval: test}\n", "")), AllOf(HasSubstr("no data.set"), HasSubstr("mine.yaml")));
  EXPECT_THAT(fault(with(kQuiz, "eval: test", "evil: test")), AllOf(HasSubstr("unknown key 'evil'"), HasSubstr("mine.yaml:2:19")));
  EXPECT_THAT(fault(with(kQuiz, "choices: \"{{options}}\"\n", "choices: []\n")), AllOf(HasSubstr("choices is empty"), HasSubstr("mine.yaml:4:10")));
  EXPECT_THAT(fault(with(kQuiz, "\"{{options}}\"", "\"x {{options}}\"")), HasSubstr("must be a list, or one {{path}}"));
  EXPECT_THAT(fault(with(kQuiz, "gold: \"{{answer}}\"\n", "")), HasSubstr("no gold"));
  EXPECT_THAT(fault(with(kQuiz, "eval: test", "eval: ../test")), HasSubstr("not the name of a split"));
  EXPECT_THAT(fault(std::string(kQuiz) + "subjects: [a, b]\n"), HasSubstr("put {{SUBJECT}} into data.set"));
  EXPECT_THAT(fault(std::string(kQuiz) + "fewshot: {count: 2}\n"), HasSubstr("no split to take them from"));
  EXPECT_THAT(fault(std::string(kQuiz) + "fewshot: {fixed: {two: x}}\n"), HasSubstr("no number"));
  EXPECT_THAT(fault(std::string(kQuiz) + "extract: {answer: {regex: \"(a\"}}\n"), AllOf(HasSubstr("bad regular expression"), HasSubstr("mine.yaml:7:")));
  EXPECT_THAT(fault(with(kQuiz, "[acc]", "[acc")), HasSubstr("not valid YAML"));
  EXPECT_THAT(fault("tasks: [hellaswag]\n"), HasSubstr("suite"));
  write("a.yaml", "include: b.yaml\n");
  write("b.yaml", "include: a.yaml\n");
  EXPECT_THAT(error_of([&] { load_task((folder_.path() / "a.yaml").string()); }), HasSubstr("include each other"));
}

TEST_F(Tasks, DataSayWhereTheyAreWrong) {
  const std::string good = kGood;
  EXPECT_THAT(data_fault(good + "{\"question\": \"q\", \"answer\": 0}\n", ErrorKind::config), AllOf(HasSubstr("no field 'options'"), HasSubstr("mine.yaml:4:10"), HasSubstr("test.jsonl:2, document 1")));
  EXPECT_THAT(data_fault(good + "\n{\"question\": \"q\", \"options\": [], \"answer\": 0}\n"), AllOf(HasSubstr("no choices"), HasSubstr("mine.yaml:4:10"), HasSubstr("test.jsonl:3, document 1")));
  EXPECT_THAT(data_fault(with(good, "\"answer\": 1", "\"answer\": 2")), AllOf(HasSubstr("2 is out of range"), HasSubstr("mine.yaml:5:7"), HasSubstr("test.jsonl:1")));
  EXPECT_THAT(data_fault(with(good, "\"answer\": 1", "\"answer\": -1")), HasSubstr("none of the choices"));
  EXPECT_THAT(data_fault(with(good, "[\"3\", \"4\"]", "\"3\"")), HasSubstr("no list"));
  EXPECT_THAT(data_fault(good + "{\"question\": \"a\xFF\"}\n"), AllOf(HasSubstr("not UTF-8"), HasSubstr("mine.yaml:2:"), HasSubstr("test.jsonl:2")));
  EXPECT_THAT(data_fault(good + "{\"question\": \n"), AllOf(HasSubstr("not valid JSON"), HasSubstr("mine.yaml:2:"), HasSubstr("test.jsonl:2")));
  EXPECT_THAT(data_fault("[1]\n"), HasSubstr("no JSON object"));
  EXPECT_THAT(data_fault("\n"), HasSubstr("no rows"));
  fs::remove_all(folder_.path() / "quiz");
  EXPECT_THAT(error_of([&] { load(kQuiz); }, ErrorKind::io), AllOf(HasSubstr("split 'test'"), HasSubstr("mine.yaml:2:"), HasSubstr("--data-dir")));
  EXPECT_THAT(error_of([&] { load_documents(load_task("hellaswag"), {}, folder_.path()); }, ErrorKind::io),
              AllOf(HasSubstr("configs/tasks/hellaswag.yaml:5:"), HasSubstr("tools/miq_data.py hellaswag --data-dir DIR")));
  EXPECT_THAT(error_of([&] { load_documents(load_task("mmlu"), {}, folder_.path()); }, ErrorKind::io), HasSubstr("tools/miq_data.py mmlu --data-dir DIR"));
  write("hellaswag/validation.jsonl", "{\"ctx_a\": 1, \"ctx_b\": \"\"}\n");
  EXPECT_THAT(error_of([&] { load_documents(load_task("hellaswag"), {}, folder_.path()); }, ErrorKind::io), AllOf(HasSubstr("hellaswag needs a text under 'ctx_a'"), HasSubstr("validation.jsonl:1")));
}

TEST_F(Tasks, IncludeWhatOthersSay) {
  write("base.yaml", with(kQuiz, "metrics: [acc]", "metrics: [acc]\nsummary: of the base\nfewshot: {split: train, exclude_self: true}"));
  write("quiz/test.jsonl", kGood);
  write("mine.yaml", "include: base.yaml\nfewshot: {count: 1}\nmetrics: [acc_norm]\n");
  const Task task = load_task((folder_.path() / "mine.yaml").string());
  EXPECT_EQ(task.fewshot.split, "train");
  EXPECT_EQ(task.fewshot.count, 1);
  EXPECT_THAT(task.metrics, ElementsAre("acc_norm"));
  EXPECT_EQ(task.summary, "");
  EXPECT_EQ(task.name, "mine");
  EXPECT_THAT(task.places.at("prompt"), HasSubstr("base.yaml:3:9"));
  const Task other = read("include: hellaswag\nprompt: \"{{ctx}}\"\n");
  EXPECT_EQ(other.set, "hellaswag");
  EXPECT_EQ(other.data_name, "hellaswag");
  EXPECT_EQ(read(kQuiz).data_name, "");
}

TEST_F(Tasks, DataMayLieBesideTheFile) {
  write("own/mine.yaml", with(kQuiz, "set: quiz", "set: ./rows"));
  write("own/rows/test.jsonl", kGood);
  EXPECT_EQ(load_documents(load_task((folder_.path() / "own/mine.yaml").string()), {}, "/nowhere")[0].documents.size(), 1u);
}

// What stands between ```language and ``` on the page.
std::string example(const std::string& language) {
  std::ifstream in(std::string(MIQ_SOURCE_DIR) + "/docs/add-a-task.md");
  const std::string page{std::istreambuf_iterator<char>(in), {}}, fence = "```" + language + "\n";
  const size_t begin = page.find(fence);
  EXPECT_NE(begin, std::string::npos);
  return page.substr(begin + fence.size(), page.find("```", begin + fence.size()) - begin - fence.size());
}

TEST_F(Tasks, TheExampleOfTheDocumentationWorks) {
  write("capitals.yaml", example("yaml"));
  write("capitals/test.jsonl", example("json"));
  write("capitals/train.jsonl", example("json"));
  TaskOptions options;
  options.shots = 1;
  const std::vector<TaskSubject> subjects = load_documents(load_task((folder_.path() / "capitals.yaml").string(), &options), options, "/nowhere");
  ASSERT_EQ(subjects.at(0).documents.size(), 2u);
  const TaskDocument& first = subjects[0].documents[0];
  EXPECT_EQ(first.requests.at(1).context, "Question: What is the capital of Kenya?\nAnswer: Nairobi\n\nQuestion: What is the capital of France?\nAnswer:");
  EXPECT_EQ(first.requests[1].continuation, " Paris");
  EXPECT_THAT(first.gold, ElementsAre(1));
  EXPECT_THAT(subjects[0].documents[1].gold, ElementsAre(0));
}

class Subjects : public Tasks {
 protected:
  void SetUp() override {
    write("exam/subjects.jsonl", "{\"subject\": \"arts\", \"category\": \"Humanities\", \"description\": \"On arts.\"}\n{\"subject\": \"law\", \"category\": \"Social Sciences\"}\n"
                                 "{\"subject\": \"maths\", \"category\": \"STEM\"}\n{\"subject\": \"gone\", \"category\": \"STEM\"}\n");
    for (const char* subject : {"arts", "law", "maths"}) write(std::string("exam/") + subject + "/test.jsonl", kGood);
  }
  std::vector<std::string> names(const std::string& wanted, const std::string& subjects = "subjects: {file: subjects.jsonl}\n") {
    std::vector<std::string> found;
    TaskOptions options;
    options.subjects = wanted;
    for (const TaskSubject& subject : load(with(kQuiz, "set: quiz", "set: \"exam/{{SUBJECT}}\"") + subjects, options)) found.push_back(subject.name);
    return found;
  }
};

TEST_F(Subjects, AreChosenByNameAndCategory) {
  EXPECT_THAT(names("all"), ElementsAre("arts", "law", "maths"));
  EXPECT_THAT(names("humanities"), ElementsAre("arts"));
  EXPECT_THAT(names("Social Science"), ElementsAre("law"));
  EXPECT_THAT(names("ss, st"), ElementsAre("law", "maths"));
  EXPECT_THAT(names("maths, arts"), ElementsAre("arts", "maths"));
  EXPECT_THAT(names("all", ""), ElementsAre("arts", "law", "maths"));  // the folders
  EXPECT_THAT(names("all", "subjects: [law, arts]\n"), ElementsAre("law", "arts"));
  EXPECT_THAT(names("Y", "subjects: [{subject: law, category: Y}, arts]\n"), ElementsAre("law"));
  EXPECT_THAT(error_of([&] { names("gone"); }, ErrorKind::io), AllOf(HasSubstr("subject gone"), HasSubstr("exam/gone/test.jsonl")));
  EXPECT_THAT(error_of([&] { names("lwa"); }), AllOf(HasSubstr("neither a subject nor a category"), HasSubstr("did you mean law?")));
  TaskOptions options;
  options.split = "val";
  EXPECT_THAT(error_of([&] { load(with(kQuiz, "set: quiz", "set: \"exam/{{SUBJECT}}\""), options); }, ErrorKind::io), HasSubstr("there are: test"));
}

TEST_F(Subjects, HaveDescriptions) {
  const auto subjects = load(with(kQuiz, "set: quiz", "set: \"exam/{{SUBJECT}}\"") + "subjects: {file: subjects.jsonl}\ndescription: \"{{SUBJECT_DESCRIPTION}}({{SUBJECT}}) \"\n");
  EXPECT_THAT(subjects[0].documents[0].requests[0].context, testing::StartsWith("On arts.(arts) Q:"));
  EXPECT_EQ(subjects[1].category, "Social Sciences");
}

class ShotTests : public Tasks {
 protected:
  void SetUp() override {
    std::string rows;
    for (int i = 0; i < 8; ++i) rows += "{\"question\": \"q" + std::to_string(i) + "\", \"options\": [\"a\", \"b\"], \"answer\": " + std::to_string(i % 2) + "}\n";
    write("quiz/test.jsonl", rows);
    write("quiz/train.jsonl", rows);
  }
  std::vector<std::string> contexts(const std::string& fewshot, std::int64_t shots, std::int64_t seed = -1) {
    TaskOptions options;
    options.shots = shots;
    options.seed = seed;
    std::vector<std::string> found;
    const std::vector<TaskSubject> subjects = load(std::string(kQuiz) + "fewshot: {" + fewshot + "}\n", options);
    for (const TaskDocument& document : subjects[0].documents) found.push_back(document.requests[0].context);
    return found;
  }
};

TEST_F(ShotTests, AreDrawnAsPythonDoes) {
  // random.Random(1234).sample(range(8), 2) twice is [7, 0], [0, 7].
  const auto drawn = contexts("split: train", 2);
  EXPECT_EQ(drawn[0], "Q: q7\nA: b\n\nQ: q0\nA: a\n\nQ: q0\nA:");
  EXPECT_EQ(drawn[1], "Q: q0\nA: a\n\nQ: q7\nA: b\n\nQ: q1\nA:");
  EXPECT_EQ(contexts("split: train", 2, 1234)[1], drawn[1]);
  EXPECT_NE(contexts("split: train", 2, 5), drawn);
  EXPECT_EQ(contexts("split: train, order: first", 1)[3], "Q: q0\nA: a\n\nQ: q3\nA:");
  EXPECT_EQ(contexts("split: train, order: first, exclude_self: true", 1)[0], "Q: q1\nA: b\n\nQ: q0\nA:");
  EXPECT_EQ(contexts("split: train, order: first, delimiter: \"|\", header: \"H\", example: \"<{{question}}>\"", 2)[5], "H<q0>|<q1>|Q: q5\nA:");
  EXPECT_EQ(contexts("split: train, header: H", 0)[5], "Q: q5\nA:");
  const auto others = contexts("split: train, exclude_self: true", 7);  // every other row, and never the document itself
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(others[i].find("Q: q" + std::to_string(i)), others[i].size() - 8);
}

TEST_F(ShotTests, TheirNumberIsTheTasksOrTheUsers) {
  TaskOptions five;
  five.shots = 5;
  const auto task = [&](const std::string& fewshot) { return read(std::string(kQuiz) + "fewshot: {" + fewshot + "}\n"); };
  EXPECT_EQ(shots_of(task("split: train, count: 3"), {}), 3);
  EXPECT_EQ(shots_of(task("split: train, count: 3"), five), 5);
  EXPECT_EQ(shots_of(task("split: train, count: 0"), five), 0);
  EXPECT_EQ(shots_of(task("fixed: {0: a, 5: b}"), five), 5);
  EXPECT_THAT(error_of([&] { shots_of(task("fixed: {0: a, 2: b}"), five); }), AllOf(HasSubstr("no prompt with 5 shots"), HasSubstr("0, 2"), HasSubstr("mine.yaml:7:")));
  EXPECT_THAT(error_of([&] { shots_of(read(kQuiz), five); }), HasSubstr("no split to take 5 shots from"));
  EXPECT_THAT(error_of([&] { contexts("split: train", 9); }), HasSubstr("has 8"));
  EXPECT_THAT(error_of([&] { contexts("split: train, exclude_self: true", 8); }), HasSubstr("need 9 rows"));
  EXPECT_EQ(contexts("fixed: {0: \"P{{SUBJECT}} \", 2: \"T: x/y \"}", 2)[0], "T: x/y Q: q0\nA:");
  EXPECT_THAT(error_of([&] { contexts("fixed: {0: \"boss/prompts:NLI/mnli\"}", 0); }, ErrorKind::io), HasSubstr("boss/prompts.jsonl"));
  write("boss/prompts.jsonl", "{\"task\": \"NLI\", \"dataset\": \"mnli\", \"shots\": 0, \"prefix\": \"Do. \"}\n");
  EXPECT_EQ(contexts("fixed: {0: \"boss/prompts:NLI/mnli\"}", 0)[0], "Do. Q: q0\nA:");
  EXPECT_THAT(error_of([&] { contexts("fixed: {0: \"boss/prompts:NLI/anli\"}", 0); }, ErrorKind::io), HasSubstr("no prompt of NLI/anli"));
  write("quiz/other.jsonl", "{\"question\": \"q\", \"options\": [\"a\"], \"answer\": \"\"}\n");
  EXPECT_THAT(error_of([&] { contexts("split: other", 1); }, ErrorKind::io), AllOf(HasSubstr("does not tell the right answer"), HasSubstr("other.jsonl:1")));
}

TEST(TaskNames, EveryBuiltInTaskIsWhole) {
  std::set<std::string> categories, files;
  for (const std::string& name : task_names()) {
    const Task task = load_task(name);
    EXPECT_EQ(task.name, name);
    EXPECT_FALSE(task.summary.empty()) << name;
    EXPECT_TRUE(!task.source.empty() || name == "hellaswag_processed") << name;
    EXPECT_EQ(task.data_name, name == "truthfulqa_mc2" ? "truthfulqa_mc1" : name) << name;
    if (!task.category.empty()) categories.insert(task.category);
    const TaskPresence presence = find_data(task, "/nowhere");
    EXPECT_FALSE(presence.complete || presence.evaluable || presence.missing.empty()) << name;
  }
  EXPECT_EQ(categories.size(), 9u);
}

TEST(TaskNames, CarrySubjects) {
  const auto found = [](const std::string& name) {
    TaskOptions options;
    const Task task = load_task(name, &options);
    return task.name + " " + options.subjects;
  };
  EXPECT_EQ(found("ceval"), "ceval all");
  EXPECT_EQ(found("ceval/law"), "ceval law");
  EXPECT_EQ(found("ceval-valid_law"), "ceval law");
  EXPECT_EQ(found("mi_ceval_law"), "ceval_mi law");
  EXPECT_EQ(found("mi_cmmlu"), "cmmlu_mi all");
  EXPECT_EQ(found("mmlu_high_school_biology"), "mmlu high_school_biology");
  EXPECT_EQ(found("blimp_wh_island"), "blimp wh_island");
  EXPECT_EQ(found("boss_QuestionAnswering_squad"), "boss_eqa squad");
  EXPECT_EQ(found("boss/NaturalLanguageInference/mnli"), "boss_nli mnli");
  EXPECT_EQ(found("boss_td/toxigen"), "boss_td toxigen");
  EXPECT_EQ(found("bbq/Age"), "bbq Age");
  EXPECT_THAT(load_task("blimp_wh_island").subjects, ElementsAre("wh_island"));
  EXPECT_THAT(error_of([] { load_task("hellaswg"); }), HasSubstr("did you mean hellaswag?"));
  EXPECT_THAT(error_of([] { load_task("boss_QuestionAnswering_sqad"); }), HasSubstr("did you mean boss_QuestionAnswering_squad?"));
  EXPECT_THAT(error_of([] { load_task("standard"); }), HasSubstr("suite"));
  EXPECT_THAT(error_of([] { load_task("none.yaml"); }), HasSubstr("no file"));
}

TEST(TaskNames, SuitesAndPatternsAreLists) {
  const auto standard = expand_tasks("standard");
  std::set<std::string> sets;
  for (const std::string& name : standard) sets.insert(name.rfind("qa4mre", 0) == 0 ? "qa4mre" : name.rfind("anli", 0) == 0 ? "anli" : name);
  EXPECT_EQ(standard.size(), 30u);
  EXPECT_EQ(sets.size(), 26u);
  for (const std::string& name : standard) EXPECT_FALSE(load_task(name).category.empty()) << name;
  EXPECT_THAT(expand_tasks("qa4mre"), ElementsAre("qa4mre_2011", "qa4mre_2012", "qa4mre_2013"));
  size_t boss = 0;
  for (const std::string& name : expand_tasks("boss")) boss += load_task(name).subjects.size();
  EXPECT_EQ(boss, 16u);
  EXPECT_THAT(expand_tasks("boss_*"), ElementsAre("boss_eqa", "boss_nli", "boss_sa", "boss_td"));
  EXPECT_THAT(expand_tasks("arc_????"), ElementsAre("arc_easy"));
  EXPECT_THAT(expand_tasks("ceval/law"), ElementsAre("ceval/law"));
  EXPECT_THAT(error_of([] { expand_tasks("standrd"); }), HasSubstr("did you mean standard?"));
  EXPECT_THAT(error_of([] { expand_tasks("xyz*"); }), HasSubstr("no task fits"));
  for (const std::string& name : suite_names()) EXPECT_FALSE(expand_tasks(name).empty()) << name;
}

TEST_F(Tasks, SuitesOfTheUser) {
  write("mine.yaml", kQuiz);
  write("suite.yaml", "summary: two\ntasks: [mine.yaml, anli]\n");
  write("bad.yaml", "tasks: [helaswag]\n");
  write("round.yaml", "tasks: [round.yaml]\n");
  EXPECT_THAT(expand_tasks((folder_.path() / "suite.yaml").string()), ElementsAre((folder_.path() / "mine.yaml").string(), "anli_r1", "anli_r2", "anli_r3"));
  EXPECT_THAT(error_of([&] { expand_tasks((folder_.path() / "bad.yaml").string()); }), AllOf(HasSubstr("bad.yaml:1:8"), HasSubstr("did you mean hellaswag?")));
  EXPECT_THAT(error_of([&] { expand_tasks((folder_.path() / "round.yaml").string()); }), HasSubstr("list each other"));
}

TEST_F(Tasks, PresenceSaysWhatIsMissing) {
  write("quiz/test.jsonl", kGood);
  EXPECT_TRUE(find_data(read(kQuiz), folder_.path()).complete);
  const Task with_pool = read(std::string(kQuiz) + "fewshot: {split: train}\n");
  const TaskPresence presence = find_data(with_pool, folder_.path());
  EXPECT_FALSE(presence.complete);
  EXPECT_TRUE(presence.evaluable);
  EXPECT_EQ(presence.missing, "train (shots)");
}

TEST_F(Tasks, PlainLinesAndJoinedTexts) {
  write("words/test.txt", "one\n\ntwo\nthree\n");
  const Task task = read("shape: perplexity\ndata: {set: words, eval: test}\nmode: windows\ntext: \"<{{text}}>\"\njoin: \"-\"\nmax_docs: 3\nmetrics: [perplexity]\n");
  EXPECT_EQ(joined_text(task, {}, folder_.path()), "<one>-<>-<two>");
  TaskOptions two;
  two.limit = 2;
  EXPECT_EQ(joined_text(task, two, folder_.path()), "<one>-<>");
  EXPECT_EQ(load_documents(task, {}, folder_.path())[0].documents.at(0).requests.at(0).continuation, "<one>-<>-<two>");
}

}  // namespace
}  // namespace miq::dataset
