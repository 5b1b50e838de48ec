#include "miq/evaluator/perplexity.h"

#include <chrono>
#include <cmath>

#include "miq/core/config.h"
#include "miq/core/error.h"
#include "miq/core/progress.h"

namespace miq::evaluator {
namespace {

// Tokens that go through a block at once: enough for full matrix speed, small beside a model.
constexpr std::int64_t kBatchTokens = 8192;
// Rows of logits made at once.
constexpr std::int64_t kLogitRows = 512;

// Sum of -log p(next token) over one window: hidden [T, H], ids [T].
double window_loss(const model::LanguageModel& model, const at::Tensor& hidden_TH, const at::Tensor& ids_T) {
  const std::int64_t targets = ids_T.size(0) - 1;
  double loss = 0;
  for (std::int64_t begin = 0; begin < targets; begin += kLogitRows) {
    const std::int64_t rows = std::min(kLogitRows, targets - begin);
    const at::Tensor logits = model.logits(hidden_TH.narrow(0, begin, rows));
    const at::Tensor next = ids_T.narrow(0, begin + 1, rows).to(logits.device());
    const at::Tensor chosen = logits.gather(1, next.unsqueeze(1)).squeeze(1);
    loss += (logits.logsumexp(1) - chosen).sum(at::kDouble).item<double>();
  }
  return loss;
}

struct Window {
  std::int64_t begin, length;
};

std::vector<Window> cut_windows(std::int64_t tokens, const PerplexityConfig& config) {
  std::vector<Window> windows;
  for (std::int64_t at = 0; at < tokens; at += config.seqlen) {
    const std::int64_t length = std::min(config.seqlen, tokens - at);
    // A window of one token has nothing to predict.
    if (length < (config.protocol == Protocol::gptq ? config.seqlen : 2)) break;
    windows.push_back({at, length});
    if (config.windows > 0 && static_cast<std::int64_t>(windows.size()) == config.windows) break;
  }
  return windows;
}

}  // namespace

void visit_fields(FieldVisitor& v, PerplexityConfig& config) {
  v.text("corpus", config.corpus, "wikitext2, ptb, c4, or a path to .txt or .jsonl");
  v.text("split", config.split, "of a named corpus");
  v.choice<Protocol>("protocol", config.protocol, {{"gptq", Protocol::gptq}, {"mi", Protocol::mi}}, "gptq: full windows only");
  v.integer("seqlen", config.seqlen, 2, 1 << 24, "tokens of a window");
  v.integer("windows", config.windows, 0, INT64_MAX, "the first so many; 0 = all");
}

Perplexity perplexity(model::LanguageModel& model, const at::Tensor& ids, const PerplexityConfig& config) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Window> windows = cut_windows(ids.size(0), config);
  if (windows.empty())
    throw Error(ErrorKind::config, "the corpus has " + std::to_string(ids.size(0)) + " tokens, not one window of " + std::to_string(config.seqlen),
                "evaluation.perplexity (" + config.corpus + " " + config.split + ")", "lower seqlen");
  // All windows go through one block before the next is touched; the last, shorter one by itself.
  std::vector<at::Tensor> hidden;
  std::vector<std::pair<size_t, size_t>> batches;
  for (size_t w = 0; w < windows.size();) {
    const size_t per_batch = static_cast<size_t>(std::max<std::int64_t>(1, kBatchTokens / config.seqlen));
    size_t end = w;
    std::vector<at::Tensor> rows;
    while (end < windows.size() && end - w < per_batch && windows[end].length == windows[w].length) {
      rows.push_back(ids.narrow(0, windows[end].begin, windows[end].length));
      ++end;
    }
    hidden.push_back(model.embed(at::stack(rows)));
    batches.emplace_back(w, end);
    w = end;
  }
  const model::RopeTable& rope = model.rope(config.seqlen);
  Progress progress("perplexity " + config.corpus, model.architecture().num_layers + 1, "block");
  model.for_each_block([&](model::Block& block) {
    for (at::Tensor& state : hidden) state = block.forward(state, model.compute_dtype(), rope);
    progress.advance();
  });
  Perplexity result;
  double loss_sum = 0, weight_sum = 0;
  for (size_t b = 0; b < batches.size(); ++b) {
    for (size_t w = batches[b].first; w < batches[b].second; ++w) {
      const Window& window = windows[w];
      const at::Tensor tokens = ids.narrow(0, window.begin, window.length);
      const double mean = window_loss(model, hidden[b][static_cast<std::int64_t>(w - batches[b].first)], tokens) / static_cast<double>(window.length - 1);
      loss_sum += mean * static_cast<double>(window.length);
      weight_sum += static_cast<double>(window.length);
      result.tokens += window.length - 1;
    }
    hidden[b] = at::Tensor();
  }
  progress.advance();
  result.value = std::exp(loss_sum / weight_sum);
  result.windows = static_cast<std::int64_t>(windows.size());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace miq::evaluator
