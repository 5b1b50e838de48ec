// Perplexity of token windows.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "miq/model/language_model.h"

namespace miq {
class FieldVisitor;
}

namespace miq::evaluator {

/// gptq: full windows only, exp(mean over windows of the mean loss of their seqlen - 1 targets).
/// mi: also the last partial window; per-window mean loss weighted by its number of tokens.
enum class Protocol { gptq, mi };

struct PerplexityConfig {
  std::string corpus = "wikitext2";
  std::string split = "test";
  Protocol protocol = Protocol::gptq;
  std::int64_t seqlen = 2048;
  std::int64_t windows = 0;  ///< the first so many; 0 = all
};

struct Perplexity {
  double value = 0;
  std::int64_t windows = 0;
  std::int64_t tokens = 0;  ///< predicted ones (gptq: windows * (seqlen - 1))
  double seconds = 0;
};

/// How many windows a stream of so many tokens has, at most config.windows.
/// @throws Error{config} when it is shorter than one.
std::int64_t num_windows(std::int64_t tokens, const PerplexityConfig& config);

/// How far a model's next-token distributions are from another model's, over the same tokens.
struct Divergence {
  std::int64_t tokens = 0;
  double kl = 0;    ///< mean of sum p (log p - log q) in nats, p the reference's
  double top1 = 0;  ///< share of tokens at which both find the same one likeliest
};

/// The first distributions that a model gives in a perplexity(), kept to compare another model's with.
class ReferenceDistributions {
 public:
  explicit ReferenceDistributions(std::int64_t most_bytes) : bytes_left_(most_bytes) {}
  void keep(const at::Tensor& logits_RV);     ///< as many of the rows as there is room for, in float32
  void compare(const at::Tensor& logits_RV);  ///< with the next of the kept rows, as many as are left
  Divergence divergence() const;              ///< of what was compared
  const std::vector<at::Tensor>& kept() const { return kept_; }         ///< log-probabilities [rows, V], part by part
  void restore(std::vector<at::Tensor> kept) { kept_ = std::move(kept); }  ///< what another kept

 private:
  std::int64_t bytes_left_;
  std::vector<at::Tensor> kept_;  // log-probabilities
  size_t part_ = 0;               // the next to compare with
  std::int64_t row_ = 0;
  std::int64_t tokens_ = 0, same_ = 0;
  double kl_sum_ = 0;
};

/// Scores the token stream ids [N] int64. Windows go through the model layer by layer, several at a
/// time, so that a model whose blocks are not held is read once.
/// @throws Error{config} when the stream is shorter than one window.
/// `see`: shown the logits of every predicted position, [rows, V] float32, in the order of the text.
Perplexity perplexity(model::LanguageModel& model, const at::Tensor& ids, const PerplexityConfig& config,
                      const std::function<void(const at::Tensor& logits_RV)>& see = {});

/// The keys of an element of `evaluation.perplexity`.
void visit_fields(FieldVisitor& visitor, PerplexityConfig& config);

}  // namespace miq::evaluator
