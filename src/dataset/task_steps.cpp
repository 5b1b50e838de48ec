// Source: lm-evaluation-harness 0.4.13, lm_eval/tasks/{hellaswag,mathqa,mutual,race,wsc273,bbq,wikitext}, MIT.
#include "task_steps.h"

#include <set>

#include "miq/core/error.h"
#include "python_values.h"
#include "regex.h"

namespace miq::dataset {
namespace {

using nlohmann::json;
using Pairs = std::vector<std::pair<std::string, std::string>>;

// What a step reads; a row without it is refused with its place.
struct Row {
  json& value;
  const std::string& step;
  const std::string& where;

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::io, "the step " + step + " " + what, where, "the row is not of the data set that the step is made for");
  }
  const json& field(const json& of, const char* key) const {
    if (!of.is_object() || !of.contains(key)) fail("needs the field '" + std::string(key) + "'");
    return of[key];
  }
  std::string text(const json& of, const char* key) const {
    const json& found = field(of, key);
    if (!found.is_string()) fail("needs a text under '" + std::string(key) + "'");
    return found.get<std::string>();
  }
  std::string text(const char* key) const { return text(value, key); }
  std::vector<std::string> texts(const json& of, const char* key) const {
    const json& found = field(of, key);
    std::vector<std::string> out;
    if (!found.is_array()) fail("needs a list under '" + std::string(key) + "'");
    for (const json& item : found) {
      if (!item.is_string()) fail("needs texts under '" + std::string(key) + "'");
      out.push_back(item.get<std::string>());
    }
    return out;
  }
  std::int64_t whole(const char* key) const {
    const json& found = field(value, key);
    if (!found.is_number_integer()) fail("needs a whole number under '" + std::string(key) + "'");
    return found.get<std::int64_t>();
  }
};

std::string all_replaced(std::string text, const Pairs& pairs) {
  for (const auto& [from, to] : pairs) text = replace(text, from, to);
  return text;
}

std::string hellaswag_text(std::string_view text) {
  static const Regex kBrackets(R"(\[.*?\])", "hellaswag");
  const std::string titled = replace(strip(text), " [title]", ". ");
  std::string out;
  size_t at = 0;
  for (const auto& [begin, end] : kBrackets.matches(titled)) {
    out.append(titled, at, begin - at);
    at = end;
  }
  return replace(out.append(titled, at), "  ", " ");
}

void hellaswag(Row& row) {
  const std::string context = row.text("ctx_a") + " " + capitalized(row.text("ctx_b"));
  json choices = json::array();
  for (const std::string& ending : row.texts(row.value, "endings")) choices.push_back(hellaswag_text(ending));
  row.value["query"] = hellaswag_text(row.text("activity_label") + ": " + context);
  row.value["choices"] = choices;
}

void mathqa_options(Row& row) {
  static const Regex kOptions(R"([abcd] \) .*?, |e \) .*?$)", "mathqa_options");
  const std::string options = row.text("options");
  json choices = json::array();
  for (const auto& [begin, end] : kOptions.matches(options)) {
    const std::string option = options.substr(begin + 4, end - begin - 4);
    choices.push_back(option.substr(0, option.find_last_not_of(" ,") + 1));
  }
  row.value["choices"] = choices;
}

void mutual_detokenize(Row& row) {
  static const Pairs kPairs = {{" '", "'"}, {" \n", "\n"}, {"\n ", "\n"}, {" n't", "n't"}, {"`` ", "\""}, {"''", "\""},
                               {" :", ":"}, {" ;", ";"},   {" !", "!"},   {" ?", "?"},     {" ,", ","},   {" .", "."}};
  json options = json::array();
  for (const std::string& option : row.texts(row.value, "options")) options.push_back(all_replaced(option, kPairs));
  row.value["article"] = all_replaced(row.text("article"), kPairs);
  row.value["options"] = options;
}

// One document of an article: its last question is asked, the earlier ones are shown with their answers.
void race(Row& row) {
  constexpr std::string_view kBlank = "  _  .";
  const json problems = row.field(row.value, "problems");
  if (!problems.is_array() || problems.empty()) row.fail("needs a list of questions under 'problems'");
  std::string text = "Article: " + row.text("article") + "\n\n";
  for (size_t i = 0; i + 1 < problems.size(); ++i) {
    const std::string question = row.text(problems[i], "question"), letter = row.text(problems[i], "answer");
    const std::vector<std::string> options = row.texts(problems[i], "options");
    if (letter.size() != 1 || letter[0] < 'A' || static_cast<size_t>(letter[0] - 'A') >= options.size()) row.fail("finds an answer '" + letter + "' that is none of the options");
    const std::string& answer = options[static_cast<size_t>(letter[0] - 'A')];
    const bool cloze = question.size() >= kBlank.size() && std::string_view(question).substr(question.size() - kBlank.size()) == kBlank;
    text += cloze ? question.substr(0, question.size() - 5) + answer + "\n" : "Question: " + question + "\nAnswer: " + answer + "\n";
  }
  row.value["text"] = text + row.text(problems.back(), "question");
  row.value["options"] = row.texts(problems.back(), "options");
  row.value["answer"] = row.text(problems.back(), "answer");
}

// The character at a Python index, which counts from the end where it is negative.
std::string_view character_at(const std::string& text, std::int64_t index) {
  const std::int64_t count = code_points(text);
  if (index < 0) index += count;
  if (index < 0 || index >= count) return {};
  const size_t begin = byte_of_character(text, index);
  return std::string_view(text).substr(begin, byte_of_character(std::string_view(text).substr(begin), 1));
}

void wsc273(Row& row) {
  static const std::set<std::string> kPossessive = {"my", "his", "her", "our", "their"};
  static const std::set<std::string> kOpening = {"A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their"};
  const std::string text = replace(row.text("text"), "  ", " "), pronoun = row.text("pronoun");
  const std::int64_t place = row.whole("pronoun_loc");
  if (place < 0 || place + code_points(pronoun) > code_points(text)) row.fail("finds no pronoun at pronoun_loc");
  const bool sentence_begins = character_at(text, place - 2) == ".";
  json options = json::array();
  for (std::string option : row.texts(row.value, "options")) {
    if (kPossessive.count(lower(pronoun))) option += "'s";
    const std::string_view from_first = lstrip(option);
    const std::string word(from_first.substr(0, from_first.find_first_of(" \t\n\r\f\v")));
    if (!sentence_begins && kOpening.count(word)) option = replace(option, word, lower(word));
    options.push_back(option);
  }
  row.value["text"] = text;
  row.value["before"] = text.substr(0, byte_of_character(text, place));
  row.value["after"] = text.substr(byte_of_character(text, place + code_points(pronoun)));
  row.value["options"] = options;
}

const std::vector<std::string> kUnknown = {"Unknown", "Cannot answer", "Can't be determined", "Cannot be determined", "Can't answer",
                                           "Not known", "Not enough info", "Not enough information", "Not answerable", "Undetermined"};

std::vector<std::string> bbq_groups(const Row& row, const std::string& answer, const char* key) {
  std::string joined;
  const std::vector<std::string> parts = row.texts(row.field(row.value, "answer_info"), key);
  for (const std::string& part : parts) joined += (joined.empty() ? "" : "_") + part;
  if (parts.empty() && answer.find("Latina") != std::string::npos) joined = "Latino";  // two questions lack their groups
  joined = all_replaced(joined, {{"M-", "M_"}, {"F-", "F_"}, {"lowSES-", "lowSES_"}, {"highSES-", "highSES_"}, {"lowSES", "low SES"}, {"highSES", "high SES"},
                                 {"nonObese", "non Obese"}, {"nonDisabled", "non Disabled"}, {"nonTrans", "non Trans"}});
  if (joined.find("woman") != std::string::npos) joined = replace(joined, "woman", "F_woman");
  else joined = replace(joined, "man", "M_man");
  return split_at(lower(all_replaced(joined, {{"girl", "F_girl"}, {"boy", "M_boy"}})), "_");
}

// The answer that tells nothing makes room for all the ways of saying so.
void bbq(Row& row) {
  constexpr const char* kAnswers[] = {"ans0", "ans1", "ans2"};
  const auto is_unknown = [](const std::string& text) { return std::find(kUnknown.begin(), kUnknown.end(), text) != kUnknown.end(); };
  std::set<std::string> stereotyped;
  for (const std::string& group : row.texts(row.field(row.value, "additional_metadata"), "stereotyped_groups")) stereotyped.insert(lower(group));
  const bool negative = row.text("question_polarity") == "neg";
  const std::int64_t label = row.whole("label");
  if (label < 0 || label > 2) row.fail("finds a label that is none of 0, 1, 2");
  std::vector<std::string> choices;
  json biased = json::array(), targets = json::array();
  for (std::int64_t i = 0; i < 3; ++i) {
    const std::string answer = row.text(kAnswers[i]);
    const std::vector<std::string> groups = bbq_groups(row, answer, kAnswers[i]);
    const bool meets = std::any_of(groups.begin(), groups.end(), [&](const std::string& group) { return stereotyped.count(group) > 0; });
    if (is_unknown(answer)) continue;
    const auto choice = static_cast<std::int64_t>(choices.size());
    if (negative ? meets : groups.back() != "unknown" && !meets) biased.push_back(choice);
    if (i == label) targets.push_back(choice);
    choices.push_back(answer);
  }
  const auto known = static_cast<std::int64_t>(choices.size());
  choices.insert(choices.end(), kUnknown.begin(), kUnknown.end());
  if (targets.empty())
    for (std::int64_t i = known; i < static_cast<std::int64_t>(choices.size()); ++i) targets.push_back(i);
  row.value["choices"] = choices;
  row.value["targets"] = targets;
  row.value["biased"] = biased;
}

// re.sub(open + r"\s*([^close]*?)\s*" + close, open + r"\1" + close): blanks inside a pair go.
std::string blanks_inside_removed(const std::string& text, char open, char close) {
  std::string out;
  for (size_t at = 0;;) {
    const size_t begin = text.find(open, at);
    const size_t end = begin == std::string::npos ? begin : text.find(close, begin + 1);
    if (end == std::string::npos) return out.append(text, at);
    out.append(text, at, begin + 1 - at).append(strip(std::string_view(text).substr(begin + 1, end - begin - 1))) += close;
    at = end + 1;
  }
}

void wikitext_detokenize(Row& row) {
  std::string text = replace(row.text("page"), "s '", "s'");
  // The harness's pattern /' [0-9]/ was meant for years; as it stands it needs the slashes and gives its own text.
  for (char digit = '0'; digit <= '9'; ++digit) text = replace(text, std::string("/' ") + digit + "/", "/'[0-9]/");
  text = all_replaced(text, {{" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."}, {" : ", ": "}, {" ; ", "; "}, {" . ", ". "}, {" ! ", "! "}, {" ? ", "? "}, {" , ", ", "}});
  for (const char* pair : {"()", "[]", "{}", "\"\"", "''"}) text = blanks_inside_removed(text, pair[0], pair[1]);
  row.value["text"] = all_replaced(text, {{"= = = =", "===="}, {"= = =", "==="}, {"= =", "=="}, {" ° ", "°"}, {" \n", "\n"}, {"\n ", "\n"}, {" N ", " 1 "}, {" 's", "'s"}});
}

struct Step {
  const char* name;
  void (*apply)(Row&);
};
constexpr Step kSteps[] = {{"hellaswag", hellaswag}, {"mathqa_options", mathqa_options}, {"mutual_detokenize", mutual_detokenize}, {"race", race},
                           {"wsc273", wsc273},       {"bbq", bbq},                       {"wikitext_detokenize", wikitext_detokenize}};

}  // namespace

std::vector<std::string> prepare_steps() {
  std::vector<std::string> names;
  for (const Step& step : kSteps) names.emplace_back(step.name);
  return names;
}

void prepare(const std::string& step, json& row, const std::string& where) {
  Row view{row, step, where};
  for (const Step& known : kSteps)
    if (step == known.name) return known.apply(view);
  throw Error(ErrorKind::internal, "no document step '" + step + "'", where);
}

}  // namespace miq::dataset
