#include "miq/evaluator/scorer.h"

#include <map>

#include "miq/core/error.h"
#include "text_pass.h"

namespace miq::evaluator {
namespace {

using Texts = std::vector<std::vector<std::int64_t>>;

void check_ids(const model::LanguageModel& model, const std::vector<std::int64_t>& ids) {
  const std::int64_t vocab = model.architecture().vocab_size;
  for (const std::int64_t id : ids)
    if (id < 0 || id >= vocab)
      throw Error(ErrorKind::config, "token id " + std::to_string(id) + " lies outside the vocabulary of " + std::to_string(vocab), "",
                  "the ids or the tokenizer belong to another model");
}

// Rows of several texts at one place of the tree are one row.
class Rows {
 public:
  explicit Rows(const TextTree& tree) : tree_(tree) {}
  size_t find(std::int64_t text, std::int64_t position) {
    const std::int64_t node = tree_.node_at(text, position);
    const auto [place, is_new] = known_.try_emplace({node, position}, wanted.size());
    if (is_new) wanted.push_back({node, position});
    return place->second;
  }
  std::vector<WantedRow> wanted;

 private:
  const TextTree& tree_;
  std::map<std::pair<std::int64_t, std::int64_t>, size_t> known_;
};

struct Target {
  size_t request;
  std::int64_t place;  // among its scored tokens
  std::int64_t id;
};

}  // namespace

std::vector<Score> loglikelihoods(model::LanguageModel& model, const std::vector<ScoreRequest>& requests, const ScoreOptions& options) {
  std::vector<Score> scores(requests.size());
  Texts texts;
  std::vector<size_t> request_of;
  for (size_t r = 0; r < requests.size(); ++r) {
    const ScoreRequest& request = requests[r];
    const auto length = static_cast<std::int64_t>(request.tokens.size());
    if (request.scored < 0 || (request.scored > 0 && request.scored >= length))
      throw Error(ErrorKind::internal, "a request of " + std::to_string(length) + " tokens cannot have " + std::to_string(request.scored) + " of them scored");
    check_ids(model, request.tokens);
    if (options.token_logprobs) scores[r].token_logprobs.resize(static_cast<size_t>(request.scored));
    if (options.top > 0) scores[r].top.resize(static_cast<size_t>(request.scored));
    if (request.scored == 0) continue;
    texts.emplace_back(request.tokens.begin(), request.tokens.end() - 1);  // the last token is predicted only
    request_of.push_back(r);
  }
  if (texts.empty()) return scores;
  const TextTree tree = make_text_tree(texts, kMinShared);
  Rows rows(tree);
  std::vector<std::vector<Target>> targets;
  for (size_t t = 0; t < texts.size(); ++t) {
    const ScoreRequest& request = requests[request_of[t]];
    const auto length = static_cast<std::int64_t>(request.tokens.size());
    for (std::int64_t place = 0; place < request.scored; ++place) {
      const std::int64_t position = length - request.scored + place;  // of the scored token
      const size_t row = rows.find(static_cast<std::int64_t>(t), position - 1);
      targets.resize(std::max(targets.size(), row + 1));
      targets[row].push_back({request_of[t], place, request.tokens[static_cast<size_t>(position)]});
    }
  }
  std::vector<std::vector<double>> logprobs(requests.size());
  for (size_t r = 0; r < requests.size(); ++r) logprobs[r].resize(static_cast<size_t>(requests[r].scored));
  const auto see = [&](const std::vector<size_t>& part, const at::Tensor& logits_RV) {
    // The harness's own operation: in float32 each of its results is some 7e-6 too large for a vocabulary of 49152, which over the tokens of a
    // long continuation is more than all else that may differ.
    const at::Tensor logprobs_RV = logits_RV.log_softmax(1), best = logits_RV.argmax(1).cpu();
    at::Tensor top_values, top_ids;
    if (options.top > 0) {
      std::tie(top_values, top_ids) = logprobs_RV.topk(std::min(options.top, logprobs_RV.size(1)), 1);
      top_values = top_values.cpu();
      top_ids = top_ids.cpu();
    }
    std::vector<std::int64_t> row_index, ids;
    for (size_t i = 0; i < part.size(); ++i)
      for (const Target& target : targets[part[i]]) {
        row_index.push_back(static_cast<std::int64_t>(i));
        ids.push_back(target.id);
      }
    const auto options_long = at::TensorOptions().dtype(at::kLong).device(logits_RV.device());
    const at::Tensor chosen = logprobs_RV.index({at::tensor(row_index, at::kLong).to(options_long), at::tensor(ids, at::kLong).to(options_long)}).cpu();
    size_t next = 0;
    for (size_t i = 0; i < part.size(); ++i)
      for (const Target& target : targets[part[i]]) {
        const float logprob = chosen.const_data_ptr<float>()[next++];
        Score& score = scores[target.request];
        logprobs[target.request][static_cast<size_t>(target.place)] = logprob;
        score.greedy = score.greedy && best.const_data_ptr<std::int64_t>()[i] == target.id;
        if (options.token_logprobs) score.token_logprobs[static_cast<size_t>(target.place)] = logprob;
        for (std::int64_t k = 0; options.top > 0 && k < top_ids.size(1); ++k)
          score.top[static_cast<size_t>(target.place)].push_back({top_ids[static_cast<std::int64_t>(i)][k].item<std::int64_t>(), top_values[static_cast<std::int64_t>(i)][k].item<float>()});
      }
  };
  run_texts(model, texts, tree, rows.wanted, {options.batch_tokens, options.label, nullptr}, see);
  for (size_t r = 0; r < requests.size(); ++r)
    for (const double logprob : logprobs[r]) scores[r].loglikelihood += logprob;  // in the order of the tokens
  return scores;
}

at::Tensor next_logits(model::LanguageModel& model, const Texts& texts, const std::vector<std::int64_t>& wanted, const ScoreOptions& options) {
  at::Tensor result = at::empty({static_cast<std::int64_t>(texts.size()), static_cast<std::int64_t>(wanted.size())}, at::kFloat);
  if (texts.empty()) return result;
  check_ids(model, wanted);
  for (const auto& text : texts) {
    if (text.empty()) throw Error(ErrorKind::config, "an empty text has no next token: the tokenizer adds no BOS token");
    check_ids(model, text);
  }
  const TextTree tree = make_text_tree(texts, kMinShared);
  Rows rows(tree);
  std::vector<std::vector<std::int64_t>> texts_of;  // of a row
  for (size_t t = 0; t < texts.size(); ++t) {
    const size_t row = rows.find(static_cast<std::int64_t>(t), static_cast<std::int64_t>(texts[t].size()) - 1);
    texts_of.resize(std::max(texts_of.size(), row + 1));
    texts_of[row].push_back(static_cast<std::int64_t>(t));
  }
  const at::Tensor columns = at::tensor(wanted, at::kLong).to(model.device());
  run_texts(model, texts, tree, rows.wanted, {options.batch_tokens, options.label, nullptr}, [&](const std::vector<size_t>& part, const at::Tensor& logits_RV) {
    const at::Tensor values = logits_RV.index_select(1, columns).cpu();
    for (size_t i = 0; i < part.size(); ++i)
      for (const std::int64_t text : texts_of[part[i]]) result[text].copy_(values[static_cast<std::int64_t>(i)]);
  });
  return result;
}

}  // namespace miq::evaluator
