// Contexts and continuations as tokens, as lm-evaluation-harness 0.4.13 makes them.
#include <ATen/Parallel.h>

#include <algorithm>
#include <mutex>

#include "miq/core/error.h"
#include "miq/dataset/python_text.h"
#include "miq/evaluator/scorer.h"

namespace miq::evaluator {
namespace {

using Ids = std::vector<std::int64_t>;

// What stands before a text that has no context: BOS, or EOS where there is none.
std::optional<std::int64_t> find_prefix(const dataset::Tokenizer& tokenizer) {
  const std::optional<std::int64_t> bos = tokenizer.bos_id();
  return bos ? bos : tokenizer.eos_id();
}

std::int64_t prefix_token(const dataset::Tokenizer& tokenizer) {
  if (const auto prefix = find_prefix(tokenizer)) return *prefix;
  throw Error(ErrorKind::unsupported, "a text without a context needs a token before it, and the tokenizer has neither BOS nor EOS");
}

// The last max_length + 1 tokens, of which the last `scored` count.
ScoreRequest cut_left(Ids tokens, std::int64_t scored, std::int64_t max_length) {
  const std::int64_t left_out = std::max<std::int64_t>(0, static_cast<std::int64_t>(tokens.size()) - (max_length + 1));
  tokens.erase(tokens.begin(), tokens.begin() + left_out);
  const std::int64_t room = static_cast<std::int64_t>(tokens.size()) - 1;
  return {std::move(tokens), std::clamp<std::int64_t>(scored, 0, std::max<std::int64_t>(room, 0)), left_out, scored <= room};
}

// A continuation behind nothing; it may bring its first token itself.
ScoreRequest behind_prefix(const dataset::Tokenizer& tokenizer, Ids tokens, std::int64_t max_length) {
  const std::int64_t prefix = prefix_token(tokenizer);
  if (tokens.empty() || tokens.front() != prefix) tokens.insert(tokens.begin(), prefix);
  const auto scored = static_cast<std::int64_t>(tokens.size()) - 1;
  return cut_left(std::move(tokens), scored, max_length);
}

// `context_ids`: of the context without the whitespace at its end, which is `moved`.
ScoreRequest encode_behind(const dataset::Tokenizer& tokenizer, std::string_view stem, const Ids& context_ids, std::string_view moved, const std::string& continuation,
                           std::int64_t max_length) {
  Ids whole = encode_context(tokenizer, std::string(stem) + std::string(moved) + continuation);
  if (context_ids.empty()) return behind_prefix(tokenizer, std::move(whole), max_length);
  const auto cut = static_cast<std::ptrdiff_t>(std::min(context_ids.size(), whole.size()));
  Ids tokens = context_ids;
  tokens.insert(tokens.end(), whole.begin() + cut, whole.end());
  return cut_left(std::move(tokens), static_cast<std::int64_t>(whole.size()) - cut, max_length);
}

ScoreRequest encode_alone(const dataset::Tokenizer& tokenizer, const std::string& continuation, std::int64_t max_length) {
  return behind_prefix(tokenizer, tokenizer.encode(continuation, /*special=*/false), max_length);
}

}  // namespace

Ids encode_context(const dataset::Tokenizer& tokenizer, const std::string& text) {
  bool special = true;
  if (const auto prefix = find_prefix(tokenizer)) {
    const std::string own = tokenizer.decode({*prefix}, /*skip_special=*/false);
    special = own.empty() || text.compare(0, own.size(), own) != 0;
  }
  return tokenizer.encode(text, special);
}

ScoreRequest encode_pair(const dataset::Tokenizer& tokenizer, const std::string& context, const std::string& continuation, std::int64_t max_length) {
  return encode_pairs(tokenizer, {{context, continuation}}, max_length).front();
}

std::vector<ScoreRequest> encode_pairs(const dataset::Tokenizer& tokenizer, const std::vector<std::pair<std::string, std::string>>& pairs, std::int64_t max_length) {
  std::vector<ScoreRequest> requests(pairs.size());
  // An exception may not leave a thread of the pool.
  std::mutex mutex;
  std::exception_ptr failure;
  at::parallel_for(0, static_cast<std::int64_t>(pairs.size()), 16, [&](std::int64_t begin, std::int64_t end) {
    try {
      std::string stem;
      Ids context_ids;  // of `stem`: a document's choices have one context
      bool known = false;
      for (std::int64_t i = begin; i < end; ++i) {
        const auto& [context, continuation] = pairs[static_cast<size_t>(i)];
        if (context.empty()) {
          requests[static_cast<size_t>(i)] = encode_alone(tokenizer, continuation, max_length);
          continue;
        }
        const std::string_view own = dataset::rstrip(context);
        if (!known || stem != own) {
          stem = own;
          context_ids = encode_context(tokenizer, stem);
          known = true;
        }
        requests[static_cast<size_t>(i)] = encode_behind(tokenizer, own, context_ids, std::string_view(context).substr(own.size()), continuation, max_length);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
  return requests;
}

std::vector<ScoreRequest> encode_rolling(const dataset::Tokenizer& tokenizer, const std::string& text, std::int64_t max_length) {
  const Ids tokens = encode_context(tokenizer, text);
  const auto length = static_cast<std::int64_t>(tokens.size());
  std::vector<ScoreRequest> windows;
  if (length == 0) return windows;
  const std::int64_t first = std::min(max_length, length);
  Ids window = {prefix_token(tokenizer)};
  window.insert(window.end(), tokens.begin(), tokens.begin() + first);
  windows.push_back({std::move(window), first});
  for (std::int64_t done = first; done < length;) {
    const std::int64_t count = std::min(max_length, length - done), end = done + count;
    windows.push_back({Ids(tokens.begin() + (end - max_length - 1), tokens.begin() + end), count});
    done = end;
  }
  return windows;
}

}  // namespace miq::evaluator
