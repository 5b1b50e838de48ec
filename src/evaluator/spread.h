// A task's documents on several ranks.
#pragma once

#include <string>
#include <vector>

#include "miq/dataset/task.h"
#include "miq/dataset/tokenizer.h"
#include "miq/evaluator/metrics.h"

namespace miq::evaluator {

/// Where to cut the documents, which stay in order, into `parts` of about equal work: part p is [cuts[p], cuts[p + 1]). Work is tokens that no
/// text before has in common (what begins like its neighbour is run once), and for each generated text its most new tokens. A cut
/// between documents that share a beginning costs that beginning once more, so that it goes beside them where balance allows.
std::vector<size_t> spread(const std::vector<const dataset::TaskDocument*>& documents, const dataset::Tokenizer& tokenizer, std::int64_t new_tokens, int parts);

/// Refuses ranks that have other documents or ask them otherwise. @throws Error{config}.
void check_same_documents(const std::string& task, const std::vector<const dataset::TaskDocument*>& documents);

/// All ranks' answers, to the bit, in the order of ranks.
std::vector<Answer> gather_answers(const std::vector<Answer>& own);

}  // namespace miq::evaluator
