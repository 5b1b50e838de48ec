// Many texts through a model, together: each distinct beginning once, no padding, the blocks one after another.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "miq/core/progress.h"
#include "miq/model/language_model.h"
#include "text_tree.h"

namespace miq::evaluator {

/// A token whose logits are wanted.
struct WantedRow {
  std::int64_t node, position;  ///< in the tree; position: from the beginning of the text
};

/// Logits float32 [rows, V] of the wanted rows with these indices.
using SeeLogits = std::function<void(const std::vector<size_t>& wanted, const at::Tensor& logits_RV)>;

struct PassOptions {
  std::int64_t batch_tokens = 0;                     ///< 0: by the memory budget
  std::string label;                                 ///< of the progress line; none without it
  std::vector<model::TextCache>* caches = nullptr;   ///< of every layer: what the texts hold stays there (texts are nodes), and all go in one pass
};

/// Runs the tree of `texts` and shows the logits of the wanted rows, each once, in any order. As many nodes at a time as their
/// residual streams fit the memory budget; a model whose blocks are not held is read once for each such pass.
void run_texts(model::LanguageModel& model, const std::vector<std::vector<std::int64_t>>& texts, const TextTree& tree, const std::vector<WantedRow>& wanted,
               const PassOptions& options, const SeeLogits& see);

/// One more token for each of the segments, whose texts are held in the caches: logits [segments, V] float32 behind them.
at::Tensor run_step(model::LanguageModel& model, const std::vector<std::int64_t>& ids, const std::vector<model::Segment>& segments,
                    std::vector<model::TextCache>& caches);

}  // namespace miq::evaluator
