// OpenAI's completions protocol as data: requests read from JSON and checked, answers written as JSON. No sockets, no model.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "miq/dataset/chat.h"
#include "miq/dataset/tokenizer.h"
#include "miq/evaluator/scorer.h"

namespace miq::executor {

/// What a request is answered with instead of a completion: an HTTP status and OpenAI's error object.
struct RequestError : std::runtime_error {
  RequestError(int status_, const std::string& message, std::string param_ = "", std::string code_ = "")
      : std::runtime_error(message), status(status_), param(std::move(param_)), code(std::move(code_)) {}
  int status;
  std::string param, code;  ///< the field that is wrong; a word for programs
};

/// {"error": {message, type, param, code}}.
std::string error_body(const RequestError& error);

/// What a request is checked against.
struct ServedModel {
  std::vector<std::string> names;
  const dataset::Tokenizer* tokenizer = nullptr;
  std::int64_t vocab_size = 0, max_context = 0;
  std::optional<dataset::ChatKind> chat;
  std::string no_chat;
};

struct Prompt {
  std::vector<std::int64_t> ids;  ///< not empty
  std::string text;               ///< what echo gives back: the text as it came, or the ids decoded
  std::int64_t unseen = 0;        ///< ids in front that are no part of the text: a BOS that the tokenizer added
};

struct CompletionRequest {
  bool chat = false, stream = false, include_usage = false, echo = false;
  std::vector<Prompt> prompts;
  std::int64_t n = 1, max_tokens = 16;
  std::int64_t logprobs = -1;  ///< alternatives for each token; -1: no log-probabilities at all
  double temperature = 1, top_p = 1;
  std::int64_t top_k = 0;
  std::optional<std::uint64_t> seed;
  bool ignore_eos = false;
  std::vector<std::string> stops;
  std::vector<std::int64_t> stop_ids;

  std::int64_t choices() const { return n * static_cast<std::int64_t>(prompts.size()); }
  bool scores_prompts() const { return echo && logprobs >= 0; }
  /// Whether one pass over the prompts answers it: nothing is generated but the one likeliest token.
  bool is_scoring() const { return scores_prompts() && (max_tokens == 0 || (max_tokens == 1 && temperature == 0)); }
};

/// The body of POST /v1/completions or /v1/chat/completions. @throws RequestError 400 or 404 that names the field.
CompletionRequest parse_completion(const std::string& body, const ServedModel& model);
CompletionRequest parse_chat(const std::string& body, const ServedModel& model);

/// A token of an answer, or of an echoed prompt.
struct TokenInfo {
  std::int64_t id = 0;
  std::optional<float> logprob;             ///< none for the first token of a text
  std::vector<evaluator::TokenScore> top;   ///< the likeliest, best first
  std::int64_t offset = 0;                  ///< where it begins, in code points of the choice's text
};

/// A further part of a choice.
struct Delta {
  std::int64_t choice = 0;
  std::string text;
  std::vector<TokenInfo> tokens;  ///< only where log-probabilities are asked for
  std::string finish;             ///< "stop" or "length" with the last part
};

struct Usage {
  std::int64_t prompt_tokens = 0, completion_tokens = 0;
};

/// The texts of single tokens, as they stand behind other text.
class TokenTexts {
 public:
  explicit TokenTexts(const dataset::Tokenizer& tokenizer);
  std::string text(std::int64_t id) const;

 private:
  const dataset::Tokenizer& tokenizer_;
  std::vector<std::int64_t> anchor_;  // a token in front keeps the space that begins a text
  size_t anchor_bytes_ = 0;
};

/// What all parts of an answer say alike.
struct AnswerHead {
  std::string id, model;
  std::int64_t created = 0;
  static AnswerHead make(bool chat, const std::string& model);
};

/// The "logprobs" of a completion: in each map of alternatives the token itself stands under its own text; another with the same
/// text is called token_id:N. -inf is -9999, for JSON has no infinity.
nlohmann::ordered_json logprobs_json(const std::vector<TokenInfo>& tokens, std::int64_t alternatives, const TokenTexts& texts);
/// The same for chats.
nlohmann::ordered_json chat_logprobs_json(const std::vector<TokenInfo>& tokens, std::int64_t alternatives, const TokenTexts& texts);

/// The whole answer from all its parts, in their order.
std::string answer_body(const CompletionRequest& request, const AnswerHead& head, const std::vector<Delta>& deltas, const Usage& usage,
                        const TokenTexts& texts);
/// One server-sent event for a part; the first of a chat's choice is preceded by one that names the role.
std::string answer_event(const CompletionRequest& request, const AnswerHead& head, const Delta& delta, bool first, const TokenTexts& texts);
/// The event with the counts, for include_usage.
std::string usage_event(const CompletionRequest& request, const AnswerHead& head, const Usage& usage);
/// GET /v1/models and one of its entries.
std::string models_body(const ServedModel& model, std::int64_t created);
std::string model_body(const std::string& name, const ServedModel& model, std::int64_t created);

}  // namespace miq::executor
