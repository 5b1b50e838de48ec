// How much goes through a model at once: enough for full matrix speed, within its memory budget.
#pragma once

#include <algorithm>

#include <ATen/Context.h>

#include <string>

#include "miq/core/device_memory.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/model/footprint.h"
#include "miq/model/language_model.h"

namespace miq::evaluator {

/// Tokens that go through a block at once.
inline std::int64_t batch_tokens(const model::LanguageModel& model) {
  constexpr std::int64_t kUsual = 2048;  // what a block makes of more leaves the caches of a CPU
  const std::int64_t token_bytes = activation_bytes_per_token(model.architecture());
  if (!model.device().is_cpu()) return std::clamp<std::int64_t>(device_memory(model.device()).free / 8 / token_bytes, 1, 8 * kUsual);
  return model.memory_budget() > 0 ? std::clamp<std::int64_t>(model.memory_budget() / 8 / token_bytes, 1, kUsual) : kUsual;
}
/// Residual streams of texts that go through the blocks together.
inline std::int64_t hidden_bytes(const model::LanguageModel& model) {
  constexpr std::int64_t kUsual = std::int64_t{1} << 30;
  if (!model.device().is_cpu()) return std::min(kUsual, device_memory(model.device()).free / 8);
  return model.memory_budget() > 0 ? std::min(kUsual, model.memory_budget() / 4) : kUsual;
}
/// Rows of logits made at once; two copies of them are in use.
inline std::int64_t logit_rows(const model::LanguageModel& model) {
  constexpr std::int64_t kUsual = 512;
  const std::int64_t row_bytes = model.architecture().vocab_size * 4;
  if (!model.device().is_cpu()) return std::clamp<std::int64_t>(device_memory(model.device()).free / 8 / row_bytes, 1, kUsual);
  return model.memory_budget() > 0 ? std::clamp<std::int64_t>(model.memory_budget() / 16 / row_bytes, 1, kUsual) : kUsual;
}

/// A GPU had no room for what went through the model at once: half of it may have. Frees what its allocator keeps, and says so.
/// @throws Error{unsupported} where nothing is left to be halved (`count` is `least` already).
inline std::int64_t halved(const model::LanguageModel& model, std::int64_t count, std::int64_t least, const char* unit, const std::string& problem) {
  const std::string device = model.device().str();
  if (count <= least)
    throw Error(ErrorKind::unsupported, device + " has no room for " + std::to_string(count) + " " + unit + " at once: " + problem.substr(0, problem.find('\n')), "evaluation",
                "use a GPU with more memory, or device: cpu");
  const std::int64_t half = std::max(least, count / 2);
  log_warning(device + " has no room for " + std::to_string(count) + " " + unit + " at once: from here on " + std::to_string(half) + " go through the model together");
  empty_device_cache(model.device());
  return half;
}

}  // namespace miq::evaluator
