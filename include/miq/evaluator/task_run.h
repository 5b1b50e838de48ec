// A task from its documents to its records: what the model is asked, and what it answered.
#pragma once

#include "miq/dataset/chat.h"
#include "miq/dataset/task.h"
#include "miq/dataset/tokenizer.h"
#include "miq/evaluator/metrics.h"
#include "miq/model/language_model.h"

namespace miq::evaluator {

struct TaskRunOptions {
  std::int64_t batch_tokens = 0;     ///< run through a block at once; 0 = by the memory budget. No result depends on it
  std::optional<dataset::ChatKind> chat;  ///< of tasks that ask a chat model (task.chat)
};

/// Scores an empty answer to each document, so that a metric that cannot be had of them is told before a model is asked.
/// @throws Error{config} naming the document.
void check_metrics(const dataset::Task& task, const std::vector<dataset::TaskSubject>& subjects);

/// Asks the model every request of the documents and scores the answers, in the order of the documents. Texts longer than the model's
/// context are cut on the left. Of several ranks (core/process_group.h) each asks a part of the documents, and all get all records.
/// @throws Error{config} naming the document for a letter that the tokenizer does not know, Error{unsupported} for a task that asks a chat
/// model without a chat template.
std::vector<Record> run_task(model::LanguageModel& model, const dataset::Tokenizer& tokenizer, const dataset::Task& task,
                             const std::vector<dataset::TaskSubject>& subjects, const TaskRunOptions& options = {});

}  // namespace miq::evaluator
