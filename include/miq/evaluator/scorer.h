// What a model is asked in evaluation: log-likelihoods and greedy continuations, for any number of requests at once.
// Texts that begin alike are run once as far as they agree; nothing is padded; a model whose blocks are not held is read
// once per pass.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "miq/dataset/tokenizer.h"
#include "miq/model/language_model.h"

namespace miq::evaluator {

/// The last `scored` of `tokens` are scored, each after all before it. scored < tokens.size().
struct ScoreRequest {
  std::vector<std::int64_t> tokens;
  std::int64_t scored = 0;
  std::int64_t left_out = 0;  ///< tokens on the left that the model has no room for
  bool whole = true;          ///< none of them belongs to the continuation
};

struct TokenScore {
  std::int64_t id;
  float logprob;
};

struct Score {
  double loglikelihood = 0;                  ///< sum of natural logarithms
  bool greedy = true;                        ///< each scored token is the likeliest there
  std::vector<float> token_logprobs;         ///< of the scored tokens; only if asked for
  std::vector<std::vector<TokenScore>> top;  ///< the likeliest tokens there, best first; only if asked for
};

struct ScoreOptions {
  std::int64_t batch_tokens = 0;  ///< run through a block at once; 0 = by the memory budget. No result depends on it
  bool token_logprobs = false;
  std::int64_t top = 0;           ///< alternatives for each scored token
  std::string label;              ///< of the progress line; none without it
};

/// Scores in the order of the requests. @throws Error{config} for ids outside the vocabulary.
std::vector<Score> loglikelihoods(model::LanguageModel& model, const std::vector<ScoreRequest>& requests, const ScoreOptions& options = {});

/// Logits of the token that follows each text at `wanted` ids, float32 [texts, wanted].
at::Tensor next_logits(model::LanguageModel& model, const std::vector<std::vector<std::int64_t>>& texts, const std::vector<std::int64_t>& wanted,
                       const ScoreOptions& options = {});

struct GreedyOptions {
  std::int64_t max_new_tokens = 256;
  std::int64_t batch_tokens = 0;
  bool stop_at_eos = true;
  std::string label;
  /// Called with the new tokens of text `i` after each one; true ends it.
  std::function<bool(size_t i, const std::vector<std::int64_t>& generated)> stop;
};

/// Greedy continuations of the prompts (none empty), without the EOS that ends them.
std::vector<std::vector<std::int64_t>> generate_greedily(model::LanguageModel& model, const std::vector<std::vector<std::int64_t>>& prompts,
                                                         const GreedyOptions& options);

/// Tokens of a context and its continuation as lm-evaluation-harness makes them (0.4.13, TemplateLM._encode_pair): whitespace at the
/// context's end goes to the continuation; both are encoded as one text and cut at the context's number of tokens; an empty context is
/// the BOS token (EOS where there is none), as is one of whitespace alone that has no token. Cut on the left to `max_length` + 1 tokens, of which the last
/// only is predicted. `scored` is 0 where the continuation adds no token to its context, which the harness refuses.
ScoreRequest encode_pair(const dataset::Tokenizer& tokenizer, const std::string& context, const std::string& continuation, std::int64_t max_length);

/// encode_pair of each (context, continuation), on all threads.
std::vector<ScoreRequest> encode_pairs(const dataset::Tokenizer& tokenizer, const std::vector<std::pair<std::string, std::string>>& pairs, std::int64_t max_length);

/// The windows of a whole text (0.4.13, loglikelihood_rolling): every token is scored once, with at least one token before it. Sum their
/// scores. None for a text without a token; the BOS that a tokenizer adds is one, and is scored too.
std::vector<ScoreRequest> encode_rolling(const dataset::Tokenizer& tokenizer, const std::string& text, std::int64_t max_length);

/// tokenizer.encode with its BOS, unless the text begins with the BOS token's own text (EOS where there is none).
std::vector<std::int64_t> encode_context(const dataset::Tokenizer& tokenizer, const std::string& text);

}  // namespace miq::evaluator
