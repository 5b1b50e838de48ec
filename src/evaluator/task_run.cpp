#include "miq/evaluator/task_run.h"

#include <algorithm>
#include <cmath>

#include "metric_table.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/process_group.h"
#include "miq/evaluator/perplexity.h"
#include "miq/evaluator/scorer.h"
#include "spread.h"

namespace miq::evaluator {
namespace {

using dataset::Shape;
using dataset::TaskDocument;
using Ids = std::vector<std::int64_t>;

// What asking needs, and the documents in one row: this rank's, and those of all.
struct Run {
  model::LanguageModel& model;
  const dataset::Tokenizer& tokenizer;
  const dataset::Task& task;
  const TaskRunOptions& options;
  std::vector<const TaskDocument*> documents, all_documents;
  std::int64_t max_length;
  ScoreOptions score_options;
};

[[noreturn]] void refuse(const Run& run, const TaskDocument& document, const std::string& what, const std::string& fix) {
  throw Error(ErrorKind::config, what, place_of(run.task, document), fix);
}

std::string shortened(const std::string& text) { return "'" + text.substr(0, 60) + (text.size() > 60 ? "..." : "") + "'"; }

// Whether the text had to be cut.
bool cut_left(Ids& ids, std::int64_t length) {
  if (static_cast<std::int64_t>(ids.size()) <= length) return false;
  ids.erase(ids.begin(), ids.end() - length);
  return true;
}

// A cut is no secret: what is left of a few-shot prompt may have lost its first shots.
void tell_cut(const Run& run, std::int64_t cut, size_t of, std::int64_t length) {
  if (cut == 0) return;
  log_warning(run.task.name + ": " + std::to_string(cut) + " of " + std::to_string(of) + " texts are longer than the " + std::to_string(length) +
              " tokens that the model has room for; their beginnings are left out");
}

std::vector<Answer> choose(const Run& run) {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const TaskDocument* const document : run.documents)
    for (const dataset::TaskRequest& request : document->requests) pairs.emplace_back(request.context, request.continuation);
  const std::vector<ScoreRequest> requests = encode_pairs(run.tokenizer, pairs, run.max_length);
  std::int64_t cut = 0;
  size_t next = 0;
  for (const TaskDocument* const document : run.documents)
    for (const dataset::TaskRequest& asked : document->requests) {
      const ScoreRequest& request = requests[next++];
      // No token has probability 1, and less than all of them too much: either would be the prediction.
      if (request.scored == 0)
        refuse(run, *document, "the continuation " + shortened(asked.continuation) + " adds no token to its context", "mend the row, or give a target_delimiter before the choices");
      if (!request.whole)
        refuse(run, *document, "the continuation " + shortened(asked.continuation) + " is longer than the " + std::to_string(run.max_length) + " tokens that the model has room for",
               "leave the row out, or take a model of a longer context");
      cut += request.left_out > 0;
    }
  tell_cut(run, cut, requests.size(), run.max_length);
  const std::vector<Score> scores = loglikelihoods(run.model, requests, run.score_options);
  std::vector<Answer> answers(run.documents.size());
  next = 0;
  for (size_t d = 0; d < answers.size(); ++d)
    for (size_t r = 0; r < run.documents[d]->requests.size(); ++r) answers[d].loglikelihoods.push_back(scores[next++].loglikelihood);
  return answers;
}

// Logits of the choices' own tokens, behind one context (MI-optimize).
std::vector<Answer> read_letters(const Run& run) {
  std::vector<Answer> answers(run.documents.size());
  std::map<std::string, std::int64_t> ids;
  std::vector<std::int64_t> wanted;
  std::map<std::int64_t, std::int64_t> column_of;
  std::vector<Ids> texts;
  std::int64_t cut = 0;
  for (const TaskDocument* const document : run.documents) {
    texts.push_back(encode_context(run.tokenizer, document->requests.at(0).context));
    if (texts.back().empty()) refuse(run, *document, "the prompt has no token", "mend the row, or the prompt");
    cut += cut_left(texts.back(), run.max_length);
  }
  for (const TaskDocument* const document : run.all_documents)  // the same product of the head on every rank
    for (const std::string& choice : document->choices) {
      if (ids.count(choice) > 0) continue;
      const Ids encoded = run.tokenizer.encode(choice, /*special=*/true);
      if (encoded.empty()) refuse(run, *document, "the tokenizer has no token for the choice " + shortened(choice), "mend the row, or the choices");
      ids[choice] = encoded.back();
      if (column_of.try_emplace(encoded.back(), static_cast<std::int64_t>(wanted.size())).second) wanted.push_back(encoded.back());
    }
  tell_cut(run, cut, texts.size(), run.max_length);
  const at::Tensor logits = next_logits(run.model, texts, wanted, run.score_options);
  for (size_t d = 0; d < answers.size(); ++d)
    for (const std::string& choice : run.documents[d]->choices)
      answers[d].loglikelihoods.push_back(logits[static_cast<std::int64_t>(d)][column_of.at(ids.at(choice))].item<double>());
  return answers;
}

// The task's stop strings, and behind them the EOS token's own text, which a model may also spell.
std::vector<std::string> stops_of(const Run& run) {
  std::vector<std::string> stops = run.task.until;
  if (const auto eos = run.tokenizer.eos_id()) {
    const std::string text = run.tokenizer.decode({*eos}, /*skip_special=*/false);
    if (!text.empty()) stops.push_back(text);
  }
  return stops;
}

std::string cut_at_stops(std::string text, const std::vector<std::string>& stops) {
  for (const std::string& stop : stops)
    if (const size_t at = text.find(stop); at != std::string::npos) text.resize(at);
  return text;
}

std::vector<Answer> write_texts(const Run& run) {
  if (run.task.chat && !run.options.chat)
    throw Error(ErrorKind::unsupported, "the task asks a chat model, and the checkpoint has no chat template", run.task.name);
  const std::int64_t room = run.max_length - run.task.max_new_tokens;
  if (room <= 0)
    throw Error(ErrorKind::config, "the task asks for " + std::to_string(run.task.max_new_tokens) + " new tokens, and the model has room for " + std::to_string(run.max_length) + " in all",
                run.task.file, "lower generation.max_new_tokens, or take a model of a longer context");
  std::vector<Ids> prompts;
  std::int64_t cut = 0;
  for (const TaskDocument* const document : run.documents) {
    const std::string& context = document->requests.at(0).context;
    prompts.push_back(run.task.chat ? dataset::encode_chat(run.tokenizer, *run.options.chat, {{"user", context}}, /*add_generation_prompt=*/true)
                                    : encode_context(run.tokenizer, context));
    if (prompts.back().empty()) refuse(run, *document, "the prompt has no token", "mend the row, or the prompt");
    cut += cut_left(prompts.back(), room);
  }
  tell_cut(run, cut, prompts.size(), room);
  GreedyOptions options;
  options.max_new_tokens = run.task.max_new_tokens;
  options.batch_tokens = run.options.batch_tokens;
  options.label = run.score_options.label;
  const Ids chat_ends = run.task.chat ? dataset::chat_stop_ids(run.tokenizer, *run.options.chat) : Ids();
  const std::vector<std::string> stops = stops_of(run);
  size_t longest = 0;
  for (const std::string& stop : stops) longest = std::max(longest, stop.size());
  if (longest > 0 || !chat_ends.empty())
    options.stop = [&](size_t, const Ids& generated) {
      if (std::find(chat_ends.begin(), chat_ends.end(), generated.back()) != chat_ends.end()) return true;
      // A stop string ends in the newest token, so that it lies in the last few (a token is a byte at least). It may be a special token's.
      const auto tail = std::min<std::ptrdiff_t>(static_cast<std::ptrdiff_t>(longest) + 4, static_cast<std::ptrdiff_t>(generated.size()));
      const std::string text = run.tokenizer.decode(Ids(generated.end() - tail, generated.end()), /*skip_special=*/false);
      return std::any_of(stops.begin(), stops.end(), [&](const std::string& stop) { return text.find(stop) != std::string::npos; });
    };
  std::vector<Ids> texts = generate_greedily(run.model, prompts, options);
  std::vector<Answer> answers(run.documents.size());
  for (size_t d = 0; d < answers.size(); ++d) {
    if (!texts[d].empty() && std::find(chat_ends.begin(), chat_ends.end(), texts[d].back()) != chat_ends.end()) texts[d].pop_back();
    answers[d].texts.push_back(cut_at_stops(run.tokenizer.decode(texts[d], /*skip_special=*/true), stops));
  }
  return answers;
}

// Each document whole, its windows rolling over it.
std::vector<Answer> roll(const Run& run) {
  std::vector<ScoreRequest> windows;
  std::vector<size_t> document_of;
  for (size_t d = 0; d < run.documents.size(); ++d)
    for (ScoreRequest& window : encode_rolling(run.tokenizer, run.documents[d]->requests.at(0).continuation, run.max_length)) {
      windows.push_back(std::move(window));
      document_of.push_back(d);
    }
  const std::vector<Score> scores = loglikelihoods(run.model, windows, run.score_options);
  std::vector<Answer> answers(run.documents.size());
  for (Answer& answer : answers) answer.loglikelihoods = {0.0};
  for (size_t w = 0; w < windows.size(); ++w) {
    answers[document_of[w]].loglikelihoods[0] += scores[w].loglikelihood;
    answers[document_of[w]].tokens += windows[w].scored;
  }
  return answers;
}

// Windows of equal length over the one text there is, each alone.
std::vector<Answer> read_windows(const Run& run) {
  std::vector<Answer> answers;
  for (const TaskDocument* const document : run.documents) {
    PerplexityConfig config;
    config.corpus = run.task.name;
    config.split = run.task.split;
    config.protocol = run.task.last_partial ? Protocol::mi : Protocol::gptq;
    config.seqlen = run.task.window;
    config.windows = run.task.max_windows;
    const at::Tensor ids = at::tensor(run.tokenizer.encode(document->requests.at(0).continuation, /*special=*/true), at::kLong);
    if (ids.size(0) < (run.task.last_partial ? 2 : run.task.window))
      throw Error(ErrorKind::config, "the text has " + std::to_string(ids.size(0)) + " tokens, not one window of " + std::to_string(run.task.window), "task " + run.task.name,
                  "take more documents (limit), or a task file with a smaller window");
    const Perplexity found = perplexity(run.model, ids, config);
    Answer answer;
    answer.loglikelihoods = {-std::log(found.value) * static_cast<double>(found.tokens)};
    answer.tokens = found.tokens;
    answers.push_back(std::move(answer));
  }
  return answers;
}

}  // namespace

void check_metrics(const dataset::Task& task, const std::vector<dataset::TaskSubject>& subjects) {
  for (const dataset::TaskSubject& subject : subjects)
    for (const TaskDocument& document : subject.documents) {
      Answer answer;
      if (task.shape == Shape::generate) answer.texts = {""};
      else answer.loglikelihoods.assign(task.shape == Shape::perplexity ? 1 : document.choices.size(), -1.0);
      score_document(task, subject, document, answer);
    }
}

std::vector<Record> run_task(model::LanguageModel& model, const dataset::Tokenizer& tokenizer, const dataset::Task& task,
                             const std::vector<dataset::TaskSubject>& subjects, const TaskRunOptions& options) {
  Run run{model, tokenizer, task, options, {}, {}, model.architecture().max_position_embeddings, {}};
  run.score_options.batch_tokens = options.batch_tokens;
  run.score_options.label = task.name;
  for (const dataset::TaskSubject& subject : subjects)
    for (const TaskDocument& document : subject.documents) run.all_documents.push_back(&document);
  check_same_documents(task.name, run.all_documents);
  const bool windows = task.shape == Shape::perplexity && !task.rolling;  // perplexity() spreads them itself
  run.documents = run.all_documents;
  if (process_group::world_size() > 1 && !windows) {
    const std::vector<size_t> cuts = spread(run.all_documents, tokenizer, task.shape == Shape::generate ? task.max_new_tokens : 0, process_group::world_size());
    const auto part = static_cast<size_t>(process_group::rank());
    const auto begin = run.all_documents.begin();
    run.documents.assign(begin + static_cast<std::ptrdiff_t>(cuts[part]), begin + static_cast<std::ptrdiff_t>(cuts[part + 1]));
  }
  std::vector<Answer> answers;
  if (!run.documents.empty()) {
    switch (task.shape) {
      case Shape::choice:
      case Shape::context_choice: answers = choose(run); break;
      case Shape::letter_logits: answers = read_letters(run); break;
      case Shape::generate: answers = write_texts(run); break;
      case Shape::perplexity: answers = windows ? read_windows(run) : roll(run); break;
    }
  }
  if (process_group::world_size() > 1 && !windows) answers = gather_answers(answers);
  std::vector<Record> records;
  for (const dataset::TaskSubject& subject : subjects)
    for (const TaskDocument& document : subject.documents) records.push_back(score_document(task, subject, document, answers[records.size()]));
  return records;
}

}  // namespace miq::evaluator
