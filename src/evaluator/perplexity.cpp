#include "miq/evaluator/perplexity.h"

#include <chrono>
#include <cmath>
#include <cstring>

#include "limits.h"
#include "miq/core/error.h"
#include "miq/core/process_group.h"
#include "miq/core/progress.h"

namespace miq::evaluator {
namespace {

using SeeLogits = std::function<void(const at::Tensor& logits_RV, std::int64_t row)>;

// Sum of -log p(next token) over one window: hidden [T, H], ids [T]. `row`: its first prediction among all of the text.
double window_loss(const model::LanguageModel& model, const at::Tensor& hidden_TH, const at::Tensor& ids_T, std::int64_t row, const SeeLogits& see) {
  const std::int64_t targets = ids_T.size(0) - 1;
  const std::int64_t at_once = logit_rows(model);
  double loss = 0;
  for (std::int64_t begin = 0; begin < targets; begin += at_once) {
    const std::int64_t rows = std::min(at_once, targets - begin);
    const at::Tensor logits = model.logits(hidden_TH.narrow(0, begin, rows));
    if (see) see(logits, row + begin);
    const at::Tensor next = ids_T.narrow(0, begin + 1, rows).to(logits.device());
    const at::Tensor chosen = logits.gather(1, next.unsqueeze(1)).squeeze(1);
    loss += (logits.logsumexp(1) - chosen).sum(at::kDouble).item<double>();
  }
  return loss;
}

struct Window {
  std::int64_t begin, length;
  std::int64_t row;  // predictions in the windows before it
};

std::vector<Window> cut_windows(std::int64_t tokens, const PerplexityConfig& config) {
  std::vector<Window> windows;
  std::int64_t row = 0;
  for (std::int64_t at = 0; at < tokens; at += config.seqlen) {
    const std::int64_t length = std::min(config.seqlen, tokens - at);
    // A window of one token has nothing to predict.
    if (length < (config.protocol == Protocol::gptq ? config.seqlen : 2)) break;
    windows.push_back({at, length, row});
    row += length - 1;
    if (config.windows > 0 && static_cast<std::int64_t>(windows.size()) == config.windows) break;
  }
  return windows;
}

// Mean losses of `windows`, which go through one block together before the next is touched: a model
// whose blocks are not held is read once for all of them. at_once: tokens; less where a GPU had no room for so many.
std::vector<double> mean_losses(model::LanguageModel& model, const at::Tensor& ids, const std::vector<Window>& windows,
                                std::int64_t& at_once, const SeeLogits& see, Progress& progress) {
  struct Batch {
    size_t begin, end;  // of windows, all of one length
    at::Tensor hidden;
  };
  std::vector<Batch> batches;
  std::int64_t longest = 0;
  for (size_t w = 0; w < windows.size();) {
    const auto per_batch = static_cast<size_t>(std::max<std::int64_t>(1, at_once / windows[w].length));
    Batch batch{w, w, {}};
    std::vector<at::Tensor> rows;
    for (; batch.end < windows.size() && batch.end - w < per_batch && windows[batch.end].length == windows[w].length; ++batch.end)
      rows.push_back(ids.narrow(0, windows[batch.end].begin, windows[batch.end].length));
    batch.hidden = model.embed(at::stack(rows));
    longest = std::max(longest, windows[w].length);
    w = batch.end;
    batches.push_back(std::move(batch));
  }
  const model::RopeTable& rope = model.rope(longest);
  model.for_each_block([&](model::Block& block) {
    for (size_t b = 0; b < batches.size();) {
      std::string problem;
      try {
        batches[b].hidden = block.forward(batches[b].hidden, model.compute_dtype(), rope);
        ++b;
      } catch (const c10::OutOfMemoryError& error) {
        problem = error.what_without_backtrace();
      }
      if (problem.empty()) continue;
      Batch& batch = batches[b];
      const auto count = static_cast<std::int64_t>(batch.end - batch.begin), length = batch.hidden.size(1);
      const std::int64_t half = halved(model, count * length, length, "tokens", problem) / length;
      Batch rest{batch.begin + static_cast<size_t>(half), batch.end, batch.hidden.narrow(0, half, count - half)};
      batch = {batch.begin, rest.begin, batch.hidden.narrow(0, 0, half)};
      at_once = half * length;
      batches.insert(batches.begin() + static_cast<std::ptrdiff_t>(b) + 1, std::move(rest));
    }
    progress.advance();
  });
  std::vector<double> losses;
  for (Batch& batch : batches) {
    for (size_t w = batch.begin; w < batch.end; ++w) {
      const at::Tensor tokens = ids.narrow(0, windows[w].begin, windows[w].length);
      const double loss = window_loss(model, batch.hidden[static_cast<std::int64_t>(w - batch.begin)], tokens, windows[w].row, see);
      losses.push_back(loss / static_cast<double>(windows[w].length - 1));
    }
    batch.hidden = at::Tensor();
  }
  progress.advance();
  return losses;
}

// Of all ranks, in the order of the text: summed so, the figure is that of one process to the bit.
std::vector<double> all_losses(const std::vector<double>& own) {
  std::vector<double> losses;
  for (const std::string& part : process_group::all_gather(std::string(reinterpret_cast<const char*>(own.data()), own.size() * sizeof(double)))) {
    const size_t before = losses.size();
    losses.resize(before + part.size() / sizeof(double));
    std::memcpy(losses.data() + before, part.data(), part.size());
  }
  return losses;
}

}  // namespace

std::int64_t num_windows(std::int64_t tokens, const PerplexityConfig& config) {
  const size_t windows = cut_windows(tokens, config).size();
  if (windows == 0)
    throw Error(ErrorKind::config, "the corpus has " + std::to_string(tokens) + " tokens, not one window of " + std::to_string(config.seqlen),
                "evaluation.perplexity (" + config.corpus + " " + config.split + ")", "lower seqlen");
  return static_cast<std::int64_t>(windows);
}

Perplexity perplexity(model::LanguageModel& model, const at::Tensor& ids, const PerplexityConfig& config, const SeeLogits& see) {
  const auto start = std::chrono::steady_clock::now();
  num_windows(ids.size(0), config);  // there is one
  const std::vector<Window> windows = cut_windows(ids.size(0), config);
  // This rank's windows, as many at a time as their residual streams fit into hidden_bytes().
  const auto own = process_group::own_part(static_cast<std::int64_t>(windows.size()));
  const std::int64_t window_bytes = config.seqlen * model.architecture().hidden_size * 4;
  const std::int64_t group = std::max<std::int64_t>(1, hidden_bytes(model) / window_bytes);
  Progress progress("perplexity " + config.corpus, (own.second - own.first + group - 1) / group * (model.architecture().num_layers + 1), "block");
  std::vector<double> losses;
  std::int64_t at_once = batch_tokens(model);
  for (std::int64_t begin = own.first; begin < own.second; begin += group) {
    const std::vector<Window> part(windows.begin() + begin, windows.begin() + std::min(begin + group, own.second));
    const std::vector<double> found = mean_losses(model, ids, part, at_once, see, progress);
    losses.insert(losses.end(), found.begin(), found.end());
  }
  losses = all_losses(losses);
  Perplexity result;
  double loss_sum = 0, weight_sum = 0;
  for (size_t w = 0; w < windows.size(); ++w) {
    loss_sum += losses[w] * static_cast<double>(windows[w].length);
    weight_sum += static_cast<double>(windows[w].length);
    result.tokens += windows[w].length - 1;
  }
  result.value = std::exp(loss_sum / weight_sum);
  result.windows = static_cast<std::int64_t>(windows.size());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace miq::evaluator
