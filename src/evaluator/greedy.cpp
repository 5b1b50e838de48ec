// Greedy continuations of many prompts together: what prompts have in common is run and held once.
#include <algorithm>
#include <map>
#include <numeric>
#include <optional>

#include "limits.h"
#include "miq/core/error.h"
#include "miq/evaluator/scorer.h"
#include "text_pass.h"

namespace miq::evaluator {
namespace {

using Texts = std::vector<std::vector<std::int64_t>>;

// Bytes of the keys and values of a token, in all layers.
std::int64_t cache_bytes_per_token(const model::LanguageModel& model) {
  const model::Architecture& a = model.architecture();
  return 2 * a.kv_size() * a.num_layers * static_cast<std::int64_t>(c10::elementSize(model.compute_dtype()));
}

// A prompt that is being continued.
struct Active {
  size_t prompt;
  model::Segment segment;
  std::int64_t next;  // the token that follows what is held
};

struct Generator {
  model::LanguageModel& model;
  const Texts& prompts;
  const GreedyOptions& options;
  std::vector<std::vector<std::int64_t>> generated;
  std::vector<std::int64_t> ends;  // ids that end a text
  std::optional<Progress> progress;

  // Takes the next token of a prompt; false where the text ends.
  bool take(size_t prompt, std::int64_t id) {
    if (std::find(ends.begin(), ends.end(), id) != ends.end()) return false;
    std::vector<std::int64_t>& own = generated[prompt];
    own.push_back(id);
    const bool stopped = options.stop && options.stop(prompt, own);
    return !stopped && static_cast<std::int64_t>(own.size()) < options.max_new_tokens;
  }

  // Prompts of one wave, all different.
  void run(const std::vector<size_t>& wave) {
    Texts texts;
    for (const size_t prompt : wave) texts.push_back(prompts[prompt]);
    const TextTree tree = make_text_tree(texts, kMinShared);
    std::vector<WantedRow> wanted;
    for (size_t t = 0; t < texts.size(); ++t) wanted.push_back({tree.last_node[t], static_cast<std::int64_t>(texts[t].size()) - 1});
    std::vector<model::TextCache> caches(static_cast<size_t>(model.architecture().num_layers));
    std::vector<Active> active;
    run_texts(model, texts, tree, wanted, {options.batch_tokens, "", &caches}, [&](const std::vector<size_t>& part, const at::Tensor& logits_RV) {
      const at::Tensor best = logits_RV.argmax(1).cpu();
      for (size_t i = 0; i < part.size(); ++i) {
        const std::int64_t id = best.const_data_ptr<std::int64_t>()[i], node = tree.last_node[part[i]];
        if (!take(wave[part[i]], id)) continue;
        // A text that others go on from stays as it is.
        const bool alone = tree.nodes[static_cast<size_t>(node)].children == 0;
        const auto own = static_cast<std::int64_t>(tree.nodes.size() + part[i]);
        active.push_back({wave[part[i]], alone ? model::Segment{node, -1, 1} : model::Segment{own, node, 1}, id});
      }
    });
    std::sort(active.begin(), active.end(), [](const Active& a, const Active& b) { return a.prompt < b.prompt; });
    while (!active.empty()) {
      std::vector<std::int64_t> ids;
      std::vector<model::Segment> segments;
      for (const Active& text : active) {
        ids.push_back(text.next);
        segments.push_back(text.segment);
      }
      const at::Tensor best = run_step(model, ids, segments, caches).argmax(1).cpu();
      std::vector<Active> still;
      for (size_t i = 0; i < active.size(); ++i) {
        active[i].next = best.const_data_ptr<std::int64_t>()[i];
        if (take(active[i].prompt, active[i].next)) {
          still.push_back(active[i]);
          continue;
        }
        for (model::TextCache& cache : caches) cache.release(active[i].segment.text);
      }
      active = std::move(still);
    }
    if (progress) progress->advance(static_cast<std::int64_t>(wave.size()));
  }
};

}  // namespace

std::vector<std::vector<std::int64_t>> generate_greedily(model::LanguageModel& model, const Texts& prompts, const GreedyOptions& options) {
  for (const auto& prompt : prompts)
    if (prompt.empty()) throw Error(ErrorKind::config, "a prompt is empty and the tokenizer adds no BOS token", "", "give a prompt");
  Generator generator{model, prompts, options, std::vector<std::vector<std::int64_t>>(prompts.size()), {}, {}};
  if (options.stop_at_eos) generator.ends = model.architecture().eos_token_ids;
  if (options.max_new_tokens <= 0) return generator.generated;
  std::vector<size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return prompts[a] < prompts[b]; });
  // A prompt that several requests have is continued once, unless each has a stop of its own.
  std::vector<size_t> different;
  std::map<size_t, size_t> same_as;
  for (const size_t prompt : order)
    if (!options.stop && !different.empty() && prompts[different.back()] == prompts[prompt])
      same_as[prompt] = different.back();
    else
      different.push_back(prompt);
  if (!options.label.empty()) generator.progress.emplace(options.label, static_cast<std::int64_t>(different.size()), "text");
  // As many at a time as their keys and values fit.
  const std::int64_t room = std::max<std::int64_t>(1, hidden_bytes(model) / cache_bytes_per_token(model));
  for (size_t begin = 0; begin < different.size();) {
    std::vector<size_t> wave;
    std::int64_t tokens = 0;
    for (; begin < different.size(); ++begin) {
      const auto& prompt = prompts[different[begin]];
      std::int64_t shared = 0;
      if (!wave.empty()) {
        const auto& before = prompts[wave.back()];
        shared = std::mismatch(before.begin(), before.end(), prompt.begin(), prompt.end()).first - before.begin();
      }
      const std::int64_t own = static_cast<std::int64_t>(prompt.size()) - shared + options.max_new_tokens + model::TextCache::kPageTokens;  // pages are not full
      if (!wave.empty() && tokens + own > room) break;
      tokens += own;
      wave.push_back(different[begin]);
    }
    generator.run(wave);
  }
  for (const auto& [prompt, twin] : same_as) generator.generated[prompt] = generator.generated[twin];
  return std::move(generator.generated);
}

}  // namespace miq::evaluator
