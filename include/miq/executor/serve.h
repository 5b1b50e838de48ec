// `miq serve`: a model behind the OpenAI completions protocol over HTTP.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "miq/dataset/chat.h"
#include "miq/dataset/tokenizer.h"
#include "miq/model/language_model.h"

namespace miq::executor {

struct ServeOptions {
  std::string host = "127.0.0.1";
  int port = 8000;                        ///< 0: a free one
  std::vector<std::string> names;         ///< that requests may call the model by, the first of them in answers; not empty
  std::string api_key;                    ///< "": none is asked for
  std::int64_t max_queue = 64;            ///< requests that wait or run; one more is answered 429
  std::int64_t max_body = 4 << 20;        ///< bytes of a request's body
  std::int64_t max_context = 0;           ///< tokens of prompt and completion; 0: what the model was trained on
  double timeout = 300;                   ///< seconds from a request's arrival to its last token
  std::optional<dataset::ChatKind> chat;  ///< the conversations' template; none: chat requests are refused
  std::string no_chat;                    ///< why there is none, for the answer
};

/// Answers HTTP until `interrupts()`, asked 20 times a second, is 1: then new requests get 503 and running ones finish;
/// 2 or more ends these as well. `listening` is called once with the port. @throws Error{io} when the address cannot be bound.
void serve(model::LanguageModel& model, const dataset::Tokenizer& tokenizer, const ServeOptions& options,
           const std::function<void(int port)>& listening, const std::function<int()>& interrupts);

}  // namespace miq::executor
