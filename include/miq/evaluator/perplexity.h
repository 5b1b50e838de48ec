// Perplexity of token windows.
#pragma once

#include <cstdint>
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

/// Scores the token stream ids [N] int64. Windows go through the model layer by layer, several at a
/// time, so that a model whose blocks are not held is read once.
/// @throws Error{config} when the stream is shorter than one window.
Perplexity perplexity(model::LanguageModel& model, const at::Tensor& ids, const PerplexityConfig& config);

/// The keys of an element of `evaluation.perplexity`.
void visit_fields(FieldVisitor& visitor, PerplexityConfig& config);

}  // namespace miq::evaluator
