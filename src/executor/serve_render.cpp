// Answers of the completions protocol as JSON and as server-sent events.
#include <chrono>
#include <cmath>
#include <random>

#include "serve_protocol.h"
#include "serve_text.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

// JSON has no infinity. -9999 is what vLLM writes as well.
double finite(float logprob) { return std::isfinite(logprob) ? logprob : -9999.0; }

bool is_whole(const std::string& text) { return text.find("\xEF\xBF\xBD") == std::string::npos; }

Json bytes_of(const std::string& text) {
  if (!is_whole(text)) return nullptr;  // part of a character: its bytes are not known
  Json bytes = Json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

const char* object_name(bool chat, bool event) { return chat ? (event ? "chat.completion.chunk" : "chat.completion") : "text_completion"; }

Json begin(const CompletionRequest& request, const AnswerHead& head, bool event) {
  return {{"id", head.id}, {"object", object_name(request.chat, event)}, {"created", head.created}, {"model", head.model}};
}

Json usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

Json logprobs_of(const CompletionRequest& request, const std::vector<TokenInfo>& tokens, const TokenTexts& texts) {
  if (request.logprobs < 0) return nullptr;
  return request.chat ? chat_logprobs_json(tokens, request.logprobs, texts) : logprobs_json(tokens, request.logprobs, texts);
}

Json finish_of(const Delta& delta) { return delta.finish.empty() ? Json() : Json(delta.finish); }

std::string event(const Json& value) { return "data: " + dump(value) + "\n\n"; }

Json model_entry(const std::string& name, const ServedModel& model, std::int64_t created) {
  return {{"id", name}, {"object", "model"}, {"created", created}, {"owned_by", "miq"}, {"max_model_len", model.max_context}};
}

}  // namespace

std::string error_body(const RequestError& error) {
  const char* const type = error.status == 401   ? "authentication_error"
                           : error.status == 404 ? "not_found_error"
                           : error.status == 429 ? "rate_limit_error"
                           : error.status >= 500 ? "server_error"
                                                 : "invalid_request_error";
  const auto or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  return dump({{"error", {{"message", error.what()}, {"type", type}, {"param", or_null(error.param)}, {"code", or_null(error.code)}}}});
}

TokenTexts::TokenTexts(const dataset::Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  anchor_ = tokenizer.encode("a", /*special=*/false);
  anchor_bytes_ = tokenizer.decode(anchor_, /*skip_special=*/false).size();
}

std::string TokenTexts::text(std::int64_t id) const {
  std::vector<std::int64_t> ids = anchor_;
  ids.push_back(id);
  const std::string all = tokenizer_.decode(ids, /*skip_special=*/false);
  return all.substr(std::min(anchor_bytes_, all.size()));
}

AnswerHead AnswerHead::make(bool chat, const std::string& model) {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  char id[40];
  std::snprintf(id, sizeof id, "%s-%016llx", chat ? "chatcmpl" : "cmpl", static_cast<unsigned long long>(random()));
  return {id, model, std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count()};
}

Json logprobs_json(const std::vector<TokenInfo>& tokens, std::int64_t alternatives, const TokenTexts& texts) {
  Json names = Json::array(), logprobs = Json::array(), tops = Json::array(), offsets = Json::array();
  for (const TokenInfo& token : tokens) {
    const std::string name = texts.text(token.id);
    names.push_back(name);
    offsets.push_back(token.offset);
    logprobs.push_back(token.logprob ? Json(finite(*token.logprob)) : Json());
    if (!token.logprob) {
      tops.push_back(nullptr);
      continue;
    }
    Json top = Json::object();
    const size_t count = std::min(token.top.size(), static_cast<size_t>(alternatives));
    std::vector<std::string> taken = {name};  // the token's own text is its own
    const auto contains = [&](const std::string& key) { return std::find(taken.begin(), taken.end(), key) != taken.end(); };
    for (size_t i = 0; i < count; ++i) {
      const evaluator::TokenScore& score = token.top[i];
      std::string key = score.id == token.id ? name : texts.text(score.id);
      if (score.id != token.id) {
        if (contains(key)) key = "token_id:" + std::to_string(score.id);
        taken.push_back(key);
      }
      top.emplace(key, finite(score.logprob));
    }
    top[name] = finite(*token.logprob);
    tops.push_back(std::move(top));
  }
  return {{"tokens", names}, {"token_logprobs", logprobs}, {"top_logprobs", tops}, {"text_offset", offsets}};
}

Json chat_logprobs_json(const std::vector<TokenInfo>& tokens, std::int64_t alternatives, const TokenTexts& texts) {
  Json content = Json::array();
  const auto entry = [&](std::int64_t id, float logprob) {
    const std::string text = texts.text(id);
    return Json{{"token", text}, {"logprob", finite(logprob)}, {"bytes", bytes_of(text)}};
  };
  for (const TokenInfo& token : tokens) {
    Json one = entry(token.id, token.logprob.value_or(0)), top = Json::array();
    for (size_t i = 0; i < std::min(token.top.size(), static_cast<size_t>(alternatives)); ++i) top.push_back(entry(token.top[i].id, token.top[i].logprob));
    one["top_logprobs"] = std::move(top);
    content.push_back(std::move(one));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

std::string answer_body(const CompletionRequest& request, const AnswerHead& head, const std::vector<Delta>& deltas, const Usage& usage,
                        const TokenTexts& texts) {
  std::vector<Delta> choices(static_cast<size_t>(request.choices()));
  for (const Delta& delta : deltas) {
    Delta& choice = choices[static_cast<size_t>(delta.choice)];
    choice.text += delta.text;
    choice.tokens.insert(choice.tokens.end(), delta.tokens.begin(), delta.tokens.end());
    if (!delta.finish.empty()) choice.finish = delta.finish;
  }
  Json answer = begin(request, head, /*event=*/false), list = Json::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    Json choice = {{"index", i}};
    if (request.chat)
      choice["message"] = {{"role", "assistant"}, {"content", choices[i].text}, {"refusal", nullptr}};
    else
      choice["text"] = choices[i].text;
    choice["logprobs"] = logprobs_of(request, choices[i].tokens, texts);
    choice["finish_reason"] = finish_of(choices[i]);
    list.push_back(std::move(choice));
  }
  answer["choices"] = std::move(list);
  answer["usage"] = usage_json(usage);
  return dump(answer);
}

std::string answer_event(const CompletionRequest& request, const AnswerHead& head, const Delta& delta, bool first, const TokenTexts& texts) {
  std::string events;
  const auto add = [&](const Json& choice) {
    Json value = begin(request, head, /*event=*/true);
    value["choices"] = Json::array({choice});
    if (request.include_usage) value["usage"] = nullptr;
    events += event(value);
  };
  Json choice = {{"index", delta.choice}};
  if (request.chat && first)
    add({{"index", delta.choice}, {"delta", {{"role", "assistant"}, {"content", ""}}}, {"logprobs", nullptr}, {"finish_reason", nullptr}});
  if (request.chat)
    choice["delta"] = delta.text.empty() ? Json::object() : Json{{"content", delta.text}};
  else
    choice["text"] = delta.text;
  choice["logprobs"] = logprobs_of(request, delta.tokens, texts);
  choice["finish_reason"] = finish_of(delta);
  add(choice);
  return events;
}

std::string usage_event(const CompletionRequest& request, const AnswerHead& head, const Usage& usage) {
  Json value = begin(request, head, /*event=*/true);
  value["choices"] = Json::array();
  value["usage"] = usage_json(usage);
  return event(value);
}

std::string models_body(const ServedModel& model, std::int64_t created) {
  return dump({{"object", "list"}, {"data", Json::array({model_entry(model.names[0], model, created)})}});
}

std::string model_body(const std::string& name, const ServedModel& model, std::int64_t created) {
  if (std::find(model.names.begin(), model.names.end(), name) == model.names.end())
    throw RequestError(404, "the model '" + name + "' is not served here; '" + model.names[0] + "' is", "model", "model_not_found");
  return dump(model_entry(name, model, created));
}

}  // namespace miq::executor
