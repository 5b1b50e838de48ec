// miq serve without sockets: requests as data, texts, the engine on a tiny model, answers as JSON.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <thread>

#include "../../src/executor/serve_connection.h"
#include "../../src/executor/serve_engine.h"
#include "../../src/executor/serve_protocol.h"
#include "../../src/executor/serve_text.h"
#include "miq/core/text.h"
#include "miq/executor/open_model.h"
#include "miq/model/generate.h"
#include "support/golden.h"
#include "support/tiny_models.h"

namespace miq::executor {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<std::int64_t>;
using testing::ElementsAre;
using testing::HasSubstr;
using namespace std::chrono_literals;

// Token id = byte; 256 and up are special: 256 BOS, which encode() adds, 257 EOS, 258 "<x>".
class ByteTokenizer : public dataset::Tokenizer {
 public:
  Ids encode(std::string_view text, bool special) const override {
    Ids ids;
    if (special) ids.push_back(256);
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(const Ids& ids, bool skip_special) const override {
    std::string bytes;
    for (const std::int64_t id : ids)
      if (id < 256)
        bytes += static_cast<char>(id);
      else if (!skip_special)
        bytes += id == 256 ? "<s>" : id == 257 ? "</s>" : "<x>";
    return printable(bytes);
  }
  std::int64_t vocab_size() const override { return 259; }
  std::optional<std::int64_t> bos_id() const override { return 256; }
  std::optional<std::int64_t> eos_id() const override { return 257; }
  std::optional<std::int64_t> special_id(std::string_view token) const override {
    return token == "<x>" ? std::optional<std::int64_t>(258) : token == "</s>" ? std::optional<std::int64_t>(257) : std::nullopt;
  }
};

const ByteTokenizer kBytes;

Ids bytes_of(const std::string& text) { return kBytes.encode(text, false); }

ServedModel byte_model() {
  ServedModel model;
  model.names = {"tiny", "other"};
  model.tokenizer = &kBytes;
  model.vocab_size = 300;
  model.max_context = 64;
  model.no_chat = "none";
  return model;
}

// Text given out after each token, and at the end.
std::vector<std::string> pieces(const std::string& prompt, const std::string& completion, const std::vector<std::string>& stops, bool* stopped = nullptr) {
  CompletionText text(kBytes, bytes_of(prompt), stops);
  std::vector<std::string> parts;
  for (const std::int64_t id : bytes_of(completion)) {
    if (text.append(id)) break;
    parts.push_back(text.take());
  }
  text.finish();
  parts.push_back(text.take());
  if (stopped) *stopped = text.stopped();
  return parts;
}

std::string joined(const std::vector<std::string>& parts) {
  std::string all;
  for (const std::string& part : parts) all += part;
  return all;
}

TEST(ServeText, CharactersComeWhole) {
  EXPECT_THAT(pieces("a", "b\xC3\xA9" "c", {}), ElementsAre("b", "", "\xC3\xA9", "c", ""));
  EXPECT_THAT(pieces("", "\xF0\x9F\x99\x82", {}), ElementsAre("", "", "", "\xF0\x9F\x99\x82", ""));
  EXPECT_THAT(pieces("\xC3", "\xA9!", {}), ElementsAre("\xC3\xA9", "!", ""));                     // the prompt ends inside a character
  EXPECT_THAT(pieces("\xEF\xBF\xBD", "x", {}), ElementsAre("x", ""));                             // U+FFFD itself in the prompt
  EXPECT_THAT(pieces("a", "\xE6\x97", {}), ElementsAre("", "", "\xEF\xBF\xBD"));                  // and the completion: what is left at the end
  EXPECT_EQ(joined(pieces("a", "x\xFF\xFEy\xEF\xBF\xBDz\xE6", {})), printable("x\xFF\xFEy\xEF\xBF\xBDz\xE6"));
}

TEST(ServeText, LongTextsAreDecodedAsAWhole) {
  std::string text;
  for (int i = 0; i < 400; ++i) text += i % 3 == 0 ? "\xE6\x97\xA5" : i % 3 == 1 ? "ab" : "\xC3\xA9";
  EXPECT_EQ(joined(pieces(text, text, {})), text);
}

TEST(ServeText, StopStringsAreCutOutAndNeverBegun) {
  bool stopped = false;
  EXPECT_THAT(pieces("", "one\n\ntwo", {"\n\n"}, &stopped), ElementsAre("o", "n", "e", "", ""));
  EXPECT_TRUE(stopped);
  EXPECT_THAT(pieces("", "a\nb", {"\n\n"}, &stopped), ElementsAre("a", "", "\nb", ""));  // a beginning that led nowhere
  EXPECT_FALSE(stopped);
  EXPECT_THAT(pieces("", "a\n", {"\n\n"}, &stopped), ElementsAre("a", "", "\n"));
  EXPECT_FALSE(stopped);
  EXPECT_EQ(joined(pieces("", "aaab", {"aab"})), "a");  // overlaps itself
  EXPECT_EQ(joined(pieces("", "xabcd", {"abcd", "bc"})), "xa");
  EXPECT_EQ(joined(pieces("", "xabcd", {"zzz", "abc", "abcd"})), "x");
  EXPECT_EQ(joined(pieces("sto", "p here", {"stop"}, &stopped)), "p here");  // the prompt is no part of it
  EXPECT_FALSE(stopped);
  EXPECT_EQ(joined(pieces("", "stop", {"stop"})), "");
  EXPECT_EQ(joined(pieces("", "1\xE6\x97\xA5 2", {"\xE6\x97\xA5"})), "1");
}

CompletionRequest parse(Json fields, const ServedModel& model = byte_model()) { return parse_completion(fields.dump(), model); }

RequestError refusal(const std::string& body, bool chat = false) {
  try {
    if (chat)
      parse_chat(body, byte_model());
    else
      parse_completion(body, byte_model());
  } catch (const RequestError& error) {
    return error;
  }
  ADD_FAILURE() << "no error for " << body;
  return RequestError(0, "");
}

TEST(ServeProtocol, Prompts) {
  const CompletionRequest text = parse({{"prompt", "hi"}});
  EXPECT_EQ(text.prompts[0].ids, (Ids{256, 'h', 'i'}));
  EXPECT_EQ(text.prompts[0].unseen, 1);
  EXPECT_EQ(text.prompts[0].text, "hi");
  EXPECT_EQ(text.max_tokens, 16);
  EXPECT_EQ(parse({{"prompt", "<s>hi"}}).prompts[0].unseen, 0);  // spelled out: no second one
  EXPECT_EQ(parse({{"prompt", "hi"}, {"add_special_tokens", false}}).prompts[0].ids, (Ids{'h', 'i'}));
  EXPECT_EQ(parse({{"prompt", ""}}).prompts[0].ids, (Ids{256}));
  EXPECT_EQ(parse({{"prompt", ""}, {"add_special_tokens", false}}).prompts[0].ids, (Ids{256}));
  const CompletionRequest ids = parse({{"prompt", {256, 'h', 'i'}}});
  EXPECT_EQ(ids.prompts[0].text, "<s>hi");
  EXPECT_EQ(ids.prompts[0].unseen, 0);
  EXPECT_EQ(parse({{"prompt", {{1, 2}, {3}}}}).prompts[1].ids, (Ids{3}));
  EXPECT_EQ(parse({{"prompt", {"a", "b"}}, {"n", 3}}).choices(), 6);
  EXPECT_THAT(refusal(R"({"prompt": [1, 300]})").what(), HasSubstr("prompt[1] is 300; the vocabulary has the ids 0 to 299"));
  EXPECT_EQ(refusal(R"({"prompt": [18446744073709551615]})").status, 400);
  EXPECT_EQ(refusal(R"({"prompt": [9223372036854775808]})").status, 400);
}

TEST(ServeProtocol, LengthsFitTheContext) {
  const std::string text(60, 'a');
  EXPECT_EQ(parse({{"prompt", text}}).max_tokens, 3);  // the default gives way
  EXPECT_EQ(parse({{"prompt", text}, {"max_tokens", 3}}).max_tokens, 3);
  EXPECT_EQ(refusal(Json{{"prompt", text}, {"max_tokens", 4}}.dump()).code, "context_length_exceeded");
  EXPECT_EQ(parse({{"prompt", text}, {"max_tokens", 100}, {"max_new_tokens", 2}}).max_tokens, 2);
  EXPECT_EQ(refusal(Json{{"prompt", text}, {"max_tokens", INT64_MAX}}.dump()).code, "context_length_exceeded");
  EXPECT_EQ(refusal(Json{{"prompt", std::string(64, 'a')}, {"max_tokens", 0}}.dump()).param, "max_tokens");
}

TEST(ServeProtocol, StopsThatAreSpecialTokensEndByTheirId) {
  const CompletionRequest request = parse({{"prompt", "a"}, {"stop", {"\n", "<x>", "</s>"}}});
  EXPECT_THAT(request.stop_ids, ElementsAre(258, 257));
  EXPECT_THAT(request.stops, ElementsAre("\n", "<x>", "</s>"));
}

TEST(ServeProtocol, SamplingFields) {
  EXPECT_EQ(parse({{"prompt", "a"}, {"do_sample", false}, {"temperature", 0.7}}).temperature, 0);
  EXPECT_EQ(parse({{"prompt", "a"}, {"do_sample", true}, {"temperature", 0.7}}).temperature, 0.7);
  EXPECT_EQ(parse({{"prompt", "a"}, {"top_k", -1}}).top_k, 0);
  EXPECT_EQ(parse({{"prompt", "a"}, {"seed", -1}}).seed, UINT64_MAX);
  EXPECT_FALSE(parse({{"prompt", "a"}}).seed);
  EXPECT_TRUE(parse({{"prompt", "a"}, {"echo", true}, {"logprobs", 1}, {"max_tokens", 1}, {"temperature", 0}}).is_scoring());
  EXPECT_TRUE(parse({{"prompt", "a"}, {"echo", true}, {"logprobs", 0}, {"max_tokens", 0}}).is_scoring());
  EXPECT_FALSE(parse({{"prompt", "a"}, {"echo", true}, {"logprobs", 1}, {"max_tokens", 1}}).is_scoring());
  EXPECT_FALSE(parse({{"prompt", "a"}, {"echo", true}, {"max_tokens", 1}, {"temperature", 0}}).is_scoring());
}

TEST(ServeProtocol, ErrorsAreOpenAIsObject) {
  const RequestError error = refusal(R"({"prompt": "a", "temprature": 1})");
  const Json body = Json::parse(error_body(error));
  EXPECT_EQ(body["error"]["param"], "temprature");
  EXPECT_EQ(body["error"]["type"], "invalid_request_error");
  EXPECT_THAT(body["error"]["message"].get<std::string>(), HasSubstr("did you mean 'temperature'?"));
  EXPECT_TRUE(Json::parse(error_body(RequestError(500, "bytes \xFF"))).is_object());
  EXPECT_EQ(refusal(R"({"messages": [{"role": "user", "content": "a"}]})", true).param, "messages");
  EXPECT_EQ(refusal(R"({"prompt": "a", "model": "x"})").status, 404);
  EXPECT_EQ(parse({{"prompt", "a"}, {"model", "other"}}).n, 1);
}

TEST(ServeRender, TokensWithOneTextKeepTheirValues) {
  const TokenTexts texts(kBytes);
  TokenInfo first, second, third;
  first.id = 0xE6;  // a part of a character, as the others are
  second.id = 0xE6;
  second.logprob = -3.0f;
  second.top = {{0xE7, -0.5f}, {0xE8, -1.0f}, {'a', -2.0f}};
  third.id = 'b';
  third.logprob = -std::numeric_limits<float>::infinity();
  third.top = {{'b', -std::numeric_limits<float>::infinity()}, {'a', -2.0f}};
  const Json json = Json::parse(logprobs_json({first, second, third}, 2, texts).dump());
  EXPECT_TRUE(json["token_logprobs"][0].is_null());
  EXPECT_TRUE(json["top_logprobs"][0].is_null());
  EXPECT_EQ(json["top_logprobs"][1], Json({{"\xEF\xBF\xBD", -3.0}, {"token_id:231", -0.5}, {"token_id:232", -1.0}}));
  EXPECT_EQ(json["token_logprobs"][2], -9999.0);  // JSON has no infinity
  EXPECT_EQ(json["top_logprobs"][2], Json({{"b", -9999.0}, {"a", -2.0}}));
  const Json none = Json::parse(logprobs_json({second}, 0, texts).dump());
  EXPECT_EQ(none["top_logprobs"][0], Json({{"\xEF\xBF\xBD", -3.0}}));
  const Json chat = Json::parse(chat_logprobs_json({second}, 1, texts).dump());
  EXPECT_TRUE(chat["content"][0]["bytes"].is_null());
  EXPECT_EQ(chat["content"][0]["top_logprobs"].size(), 1u);
}

// The embedded model and its own engine.
class Engine : public testing::Test {
 protected:
  Engine()
      : folder_(std::filesystem::path(MIQ_SOURCE_DIR) / "tests/fixtures/tiny-llama"),
        tokenizer_(dataset::load_tokenizer(folder_)),
        model_(open_model(folder_, "auto", at::kCPU)) {
    model_.set_compute_dtype(at::kFloat);
    served_.names = {"tiny"};
    served_.tokenizer = tokenizer_.get();
    served_.vocab_size = model_.architecture().vocab_size;
    served_.max_context = 1024;
  }
  static std::vector<Delta> finish(ServeJob& job) {
    std::vector<Delta> deltas;
    for (Delta delta;;) {
      const ServeJob::State state = job.next(delta, 60s);
      if (state == ServeJob::State::waiting) throw std::runtime_error("the engine does not answer");
      if (state == ServeJob::State::done) return deltas;
      deltas.push_back(std::move(delta));
    }
  }
  CompletionRequest request(Json fields) const { return parse(std::move(fields), served_); }
  Json answer(ServeEngine& engine, Json fields) const {
    const auto job = engine.submit(request(std::move(fields)));
    const std::vector<Delta> deltas = finish(*job);
    return Json::parse(answer_body(job->request(), AnswerHead::make(false, "tiny"), deltas, job->usage(), TokenTexts(*tokenizer_)));
  }
  const c10::InferenceMode inference_;
  std::filesystem::path folder_;
  std::unique_ptr<dataset::Tokenizer> tokenizer_;
  model::LanguageModel model_;
  ServedModel served_;
};

TEST_F(Engine, ScoresAreTheModels) {
  const Ids ids = tokenizer_->encode("Emil has the box. Luis has the rope.", false);
  const at::Tensor logprobs = model_.forward(at::tensor(ids, at::kLong).unsqueeze(0)).squeeze(0).log_softmax(1);
  ServeEngine engine(model_, *tokenizer_, {});
  for (const int max_tokens : {0, 1, 3}) {
    const Json json = answer(engine, {{"prompt", ids}, {"echo", true}, {"logprobs", 4}, {"max_tokens", max_tokens}, {"temperature", 0}, {"ignore_eos", true}});
    const Json& found = json["choices"][0]["logprobs"];
    ASSERT_EQ(found["token_logprobs"].size(), ids.size() + static_cast<size_t>(max_tokens));
    const TokenTexts texts(*tokenizer_);
    for (size_t i = 1; i < ids.size(); ++i) {
      const at::Tensor row = logprobs[static_cast<std::int64_t>(i) - 1];
      EXPECT_NEAR(found["token_logprobs"][i].get<double>(), row[ids[i]].item<double>(), 1e-4);
      const Json& top = found["top_logprobs"][i];
      EXPECT_EQ(top.at(texts.text(ids[i])), found["token_logprobs"][i]);
      double largest = -1e9;
      for (const auto& [text, value] : top.items()) largest = std::max(largest, value.get<double>());
      EXPECT_NEAR(largest, row.max().item<double>(), 1e-4);
      EXPECT_TRUE(top.size() == 4 || top.size() == 5);
    }
    if (max_tokens > 0) {
      EXPECT_NEAR(found["token_logprobs"][ids.size()].get<double>(), logprobs[-1].max().item<double>(), 1e-4);
      EXPECT_EQ(found["tokens"][ids.size()], texts.text(logprobs[-1].argmax().item<std::int64_t>()));
    }
  }
}

TEST_F(Engine, GeneratesAsGenerateDoes) {
  model::GenerateOptions options;
  options.max_new_tokens = 20;
  options.temperature = 1.2;
  options.seed = 5;
  const Ids prompt = tokenizer_->encode("Count:", true);
  const Ids generated = model::generate(model_, prompt, options);
  Ids all = prompt;
  all.insert(all.end(), generated.begin(), generated.end());
  ServeEngine engine(model_, *tokenizer_, {});
  const Json json = answer(engine, {{"prompt", "Count:"}, {"max_tokens", 20}, {"temperature", 1.2}, {"seed", 5}});
  EXPECT_EQ("Count:" + json["choices"][0]["text"].get<std::string>(), tokenizer_->decode(all, true));
}

TEST_F(Engine, EndsAtTokensAndCountsThem) {
  model::GenerateOptions options;
  options.max_new_tokens = 4;
  const Ids prompt = tokenizer_->encode("Count:", true), greedy = model::generate(model_, prompt, options);
  ServeEngine engine(model_, *tokenizer_, {});
  CompletionRequest wish = request({{"prompt", "Count:"}, {"max_tokens", 4}, {"temperature", 0}, {"logprobs", 1}});
  const auto last = static_cast<size_t>(std::find_if(greedy.begin() + 1, greedy.end(), [&](std::int64_t id) { return id != greedy[0]; }) - greedy.begin());
  ASSERT_LT(last, greedy.size());
  wish.stop_ids = {greedy[last]};
  const auto job = engine.submit(wish);
  const std::vector<Delta> deltas = finish(*job);
  std::vector<TokenInfo> tokens;
  std::string text;
  for (const Delta& delta : deltas) {
    tokens.insert(tokens.end(), delta.tokens.begin(), delta.tokens.end());
    text += delta.text;
  }
  ASSERT_EQ(tokens.size(), last + 1);  // the one that ended it too, though its text is not there
  EXPECT_EQ(tokens[last].id, greedy[last]);
  EXPECT_EQ(deltas.back().finish, "stop");
  EXPECT_EQ(job->usage().completion_tokens, static_cast<std::int64_t>(last) + 1);
  EXPECT_EQ(tokens[last].offset, count_code_points(text));
}

TEST_F(Engine, ManyScoringRequestsInOneGoAreThemselves) {
  EngineOptions options;
  options.batch_tokens = 60;
  ServeEngine engine(model_, *tokenizer_, options);
  const auto long_one = engine.submit(request({{"prompt", "Count:"}, {"max_tokens", 200}, {"ignore_eos", true}}));  // meanwhile the others gather
  std::vector<Json> wishes;
  for (int i = 0; i < 12; ++i)
    wishes.push_back({{"prompt", {"Count: " + std::to_string(i), "Emil has " + std::to_string(i * i)}}, {"echo", true}, {"logprobs", i % 3}, {"max_tokens", i % 2}, {"temperature", 0}});
  std::vector<std::shared_ptr<ServeJob>> jobs;
  for (const Json& wish : wishes) jobs.push_back(engine.submit(request(wish)));
  EXPECT_EQ(engine.jobs(), 13);
  finish(*long_one);
  const TokenTexts texts(*tokenizer_);
  for (size_t i = 0; i < jobs.size(); ++i) {
    const std::vector<Delta> deltas = finish(*jobs[i]);
    const Json together = Json::parse(answer_body(jobs[i]->request(), {}, deltas, jobs[i]->usage(), texts));
    const Json alone = answer(engine, wishes[i]);
    EXPECT_EQ(together["usage"], alone["usage"]);
    for (size_t c = 0; c < 2; ++c) {
      EXPECT_EQ(together["choices"][c]["text"], alone["choices"][c]["text"]);
      const Json &a = together["choices"][c]["logprobs"]["token_logprobs"], &b = alone["choices"][c]["logprobs"]["token_logprobs"];
      ASSERT_EQ(a.size(), b.size());
      for (size_t t = 1; t < a.size(); ++t) EXPECT_NEAR(a[t].get<double>(), b[t].get<double>(), 1e-4);
    }
  }
}

TEST_F(Engine, AFullQueueAndLostClients) {
  EngineOptions options;
  options.max_queue = 2;
  ServeEngine engine(model_, *tokenizer_, options);
  const Json wish = {{"prompt", "Count:"}, {"max_tokens", 1000}, {"ignore_eos", true}, {"n", 100}};
  const auto running = engine.submit(request(wish)), waiting = engine.submit(request(wish));
  const auto status = [&] {
    try {
      engine.submit(request({{"prompt", "a"}, {"max_tokens", 1}}));
      return 200;
    } catch (const RequestError& error) {
      return error.status;
    }
  };
  EXPECT_EQ(status(), 429);
  waiting->cancel();
  EXPECT_EQ(status(), 200);
  running->cancel();
  const auto end = std::chrono::steady_clock::now() + 30s;
  while (engine.jobs() > 0 && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(5ms);
  EXPECT_EQ(engine.jobs(), 0);
  engine.refuse_new();
  EXPECT_EQ(status(), 503);
}

TEST_F(Engine, AnEndWithRequestsAtWork) {
  std::shared_ptr<ServeJob> running, waiting;
  {
    ServeEngine engine(model_, *tokenizer_, {});
    const Json wish = {{"prompt", "Count:"}, {"max_tokens", 1000}, {"ignore_eos", true}, {"n", 100}};
    running = engine.submit(request(wish));
    waiting = engine.submit(request(wish));
    Delta delta;
    EXPECT_EQ(running->next(delta, 60s), ServeJob::State::delta);
  }
  EXPECT_THROW(finish(*running), RequestError);
  EXPECT_THROW(finish(*waiting), RequestError);
}

TEST_F(Engine, LogitsThatAreNoNumbersAreAnErrorOfTheRequestAlone) {
  model_.replace_ends(model_.embedding_VH().clone(), at::full_like(model_.final_norm_H(), NAN), model_.head_VH().clone());
  ServeEngine engine(model_, *tokenizer_, {});
  for (const Json& wish : {Json{{"prompt", "a b"}, {"max_tokens", 3}}, Json{{"prompt", "a b"}, {"max_tokens", 3}, {"logprobs", 1}},
                           Json{{"prompt", "a b"}, {"max_tokens", 1}, {"logprobs", 1}, {"echo", true}, {"temperature", 0}}}) {
    try {
      answer(engine, wish);
      ADD_FAILURE() << wish;
    } catch (const RequestError& error) {
      EXPECT_EQ(error.status, 500);
      EXPECT_THAT(error.what(), HasSubstr("not numbers"));
    }
  }
}

TEST(ServeThreads, TurnAwayWhatIsTooMuch) {
  ServerState state;
  std::atomic<int> served{0}, turned_away{0};
  std::atomic<bool> go{false};
  {
    ConnectionThreads threads(2, 3, state);
    for (int i = 0; i < 20; ++i) {
      threads.enqueue([&](bool turn_away) {
        if (turn_away) return void(++turned_away);
        while (!go) std::this_thread::sleep_for(1ms);
        ++served;
      });
      if (i < 2) std::this_thread::sleep_for(50ms);  // both threads are at work
    }
    EXPECT_TRUE(state.crowded);
    EXPECT_EQ(turned_away, 15);
    go = true;
  }
  EXPECT_EQ(served, 5);
  EXPECT_FALSE(state.crowded);
}

}  // namespace
}  // namespace miq::executor
