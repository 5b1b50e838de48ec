// How much goes through a model at once: enough for full matrix speed, within its memory budget.
#pragma once

#include <algorithm>

#include "miq/model/footprint.h"
#include "miq/model/language_model.h"

namespace miq::evaluator {

/// Tokens that go through a block at once.
inline std::int64_t batch_tokens(const model::LanguageModel& model) {
  constexpr std::int64_t kUsual = 2048;  // what a block makes of more leaves the caches of a CPU
  const std::int64_t token_bytes = activation_bytes_per_token(model.architecture());
  return model.memory_budget() > 0 ? std::clamp<std::int64_t>(model.memory_budget() / 8 / token_bytes, 1, kUsual) : kUsual;
}
/// Residual streams of texts that go through the blocks together.
inline std::int64_t hidden_bytes(const model::LanguageModel& model) {
  constexpr std::int64_t kUsual = std::int64_t{1} << 30;
  return model.memory_budget() > 0 ? std::min(kUsual, model.memory_budget() / 4) : kUsual;
}
/// Rows of logits made at once; two copies of them are in use.
inline std::int64_t logit_rows(const model::LanguageModel& model) {
  constexpr std::int64_t kUsual = 512;
  const std::int64_t row_bytes = model.architecture().vocab_size * 4;
  return model.memory_budget() > 0 ? std::clamp<std::int64_t>(model.memory_budget() / 16 / row_bytes, 1, kUsual) : kUsual;
}

}  // namespace miq::evaluator
