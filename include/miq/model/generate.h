// Text generation: greedy and sampled.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "miq/model/language_model.h"

namespace miq::model {

struct GenerateOptions {
  std::int64_t max_new_tokens = 64;
  double temperature = 0;  ///< 0: greedy
  std::int64_t top_k = 0;  ///< 0: all
  double top_p = 1;
  std::uint64_t seed = 42;
  bool stop_at_eos = true;
  std::vector<std::int64_t> stop_ids;  ///< tokens that end the text as well
  /// Sees every token, the one that ends the text too, with the logits float32 [V] that it was taken from; true ends the text.
  std::function<bool(std::int64_t id, const at::Tensor& logits_V)> on_step;
};

/// Continues `prompt` (not empty); `on_token` sees each new token as it comes. Returns the new ids,
/// without the EOS or stop token that ended them. Holds the model's blocks if its memory budget allows.
std::vector<std::int64_t> generate(LanguageModel& model, const std::vector<std::int64_t>& prompt,
                                   const GenerateOptions& options,
                                   const std::function<void(std::int64_t)>& on_token = {});

}  // namespace miq::model
