#include "text_pass.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "limits.h"
#include "miq/core/memory.h"
#include "miq/model/reordered_weights.h"

namespace miq::evaluator {
namespace {

// Fewer rows would be multiplied by other kernels, whose sums differ in the last bit, and up to 8 with packed codes as they
// lie, whose sums differ by more: what is in a batch with a token must not matter.
constexpr std::int64_t kLeastRows = 16;

// A step of generation has one row for each text: there the kernels of few rows are what makes it fast.
constexpr std::int64_t kLeastRowsOfStep = 8;

// From so many on, another order of the weights costs less than it saves, and so does memory that is kept.
constexpr std::int64_t kManyTokens = 1024;

// Segments that go through a block at once.
struct Batch {
  std::vector<model::Segment> segments;
  std::vector<std::int64_t> ids;
  std::vector<std::int64_t> finished;  // texts that nothing of this pass continues
  std::vector<std::int64_t> rows;      // that are wanted, ascending
  at::Tensor hidden_NH;                // behind the last block: of the wanted rows alone
};

at::Tensor embed(const model::LanguageModel& model, std::vector<std::int64_t> ids, std::int64_t least_rows) {
  ids.resize(std::max(ids.size(), static_cast<size_t>(least_rows)), 0);
  return model.embed(at::tensor(ids, at::kLong).unsqueeze(0)).squeeze(0);
}

at::Tensor logits_of(const model::LanguageModel& model, const at::Tensor& hidden_RH, std::int64_t least_rows) {
  const std::int64_t rows = hidden_RH.size(0);
  if (rows >= least_rows) return model.logits(hidden_RH);
  return model.logits(at::cat({hidden_RH, hidden_RH.new_zeros({least_rows - rows, hidden_RH.size(1)})})).narrow(0, 0, rows);
}

class Pass {
 public:
  Pass(model::LanguageModel& model, const std::vector<std::vector<std::int64_t>>& texts, const TextTree& tree, const PassOptions& options, std::int64_t at_once)
      : model_(model), texts_(texts), tree_(tree), options_(options), at_once_(at_once) {}

  // Takes a node, in parts if it is long.
  void add(std::int64_t node) {
    const TextNode& n = tree_.nodes[static_cast<size_t>(node)];
    taken_.insert(node);
    const auto& ids = texts_[static_cast<size_t>(n.text)];
    for (std::int64_t begin = n.begin; begin < n.end;) {
      if (batches_.empty() || static_cast<std::int64_t>(batches_.back().ids.size()) >= at_once_) batches_.emplace_back();
      Batch& batch = batches_.back();
      const std::int64_t room = at_once_ - static_cast<std::int64_t>(batch.ids.size()), tokens = std::min(room, n.end - begin);
      places_[node].push_back({batches_.size() - 1, static_cast<std::int64_t>(batch.ids.size()), begin});
      batch.segments.push_back({node, n.parent, tokens});
      batch.ids.insert(batch.ids.end(), ids.begin() + begin, ids.begin() + begin + tokens);
      begin += tokens;
      tokens_ += tokens;
    }
    longest_ = std::max(longest_, n.end);
  }
  bool has(std::int64_t node) const { return taken_.count(node) > 0; }
  std::int64_t tokens() const { return tokens_; }
  bool has_shown() const { return has_shown_; }

  void run(const std::vector<WantedRow>& wanted, const std::vector<size_t>& own, const SeeLogits& see, Progress* progress) {
    find_finished();
    find_rows(wanted, own);
    for (Batch& batch : batches_) batch.hidden_NH = embed(model_, batch.ids, kLeastRows);
    const model::RopeTable& rope = model_.rope(longest_);
    std::int64_t layer = 0;
    model_.for_each_block([&](model::Block& block) {
      model::TextCache own_cache;
      model::TextCache& cache = options_.caches != nullptr ? (*options_.caches)[static_cast<size_t>(layer)] : own_cache;
      std::optional<model::ReorderedWeights> reordered;
      if (tokens_ >= kManyTokens && model_.memory_budget() == 0) reordered.emplace(block);
      const bool last = layer + 1 == model_.architecture().num_layers;
      for (Batch& batch : batches_) {
        batch.hidden_NH = block.forward(std::move(batch.hidden_NH), model_.compute_dtype(), rope, batch.segments, cache, last ? needed(batch) : at::Tensor(), kLeastRows);
        if (options_.caches != nullptr) continue;
        for (const std::int64_t text : batch.finished) cache.release(text);
      }
      ++layer;
      const std::int64_t layers = model_.architecture().num_layers;
      if (progress != nullptr) progress->advance(tokens_ * layer / layers - tokens_ * (layer - 1) / layers);
    });
    show(wanted, own, see);
  }

 private:
  struct Part {
    size_t batch;
    std::int64_t row, position;
  };

  // The batch behind which a text is needed no more: that of its last child, or its own.
  void find_finished() {
    std::map<std::int64_t, size_t> last;
    for (size_t b = 0; b < batches_.size(); ++b)
      for (const model::Segment& segment : batches_[b].segments) {
        last[segment.text] = b;
        if (segment.parent >= 0) last[segment.parent] = b;
      }
    for (const auto& [text, batch] : last) batches_[batch].finished.push_back(text);
  }

  // The batch that runs a row, and the row in it.
  std::pair<size_t, std::int64_t> place_of(const WantedRow& row) const {
    const auto& parts = places_.at(row.node);
    auto place = parts.end() - 1;
    while (place->position > row.position) --place;
    return {place->batch, place->row + row.position - place->position};
  }

  void find_rows(const std::vector<WantedRow>& wanted, const std::vector<size_t>& own) {
    for (const size_t index : own) {
      const auto [batch, row] = place_of(wanted[index]);
      batches_[batch].rows.push_back(row);
    }
    for (Batch& batch : batches_) std::sort(batch.rows.begin(), batch.rows.end());
  }

  // As an index; other rows fill it up to kLeastRows.
  at::Tensor needed(const Batch& batch) const {
    std::vector<std::int64_t> rows = batch.rows;
    rows.resize(std::max(rows.size(), static_cast<size_t>(kLeastRows)), 0);
    return at::tensor(rows, at::kLong).to(model_.device());
  }

  void show(const std::vector<WantedRow>& wanted, const std::vector<size_t>& own, const SeeLogits& see) {
    const auto rows_at_once = static_cast<size_t>(std::max(logit_rows(model_), kLeastRows));
    for (size_t begin = 0; begin < own.size(); begin += rows_at_once) {
      const std::vector<size_t> part(own.begin() + static_cast<std::ptrdiff_t>(begin), own.begin() + static_cast<std::ptrdiff_t>(std::min(begin + rows_at_once, own.size())));
      std::vector<at::Tensor> rows;
      for (const size_t index : part) {
        const auto [batch, row] = place_of(wanted[index]);
        const auto& known = batches_[batch].rows;
        rows.push_back(batches_[batch].hidden_NH[std::lower_bound(known.begin(), known.end(), row) - known.begin()]);
      }
      const at::Tensor logits_RV = logits_of(model_, at::stack(rows), kLeastRows);
      has_shown_ = true;
      see(part, logits_RV);
    }
  }

  model::LanguageModel& model_;
  const std::vector<std::vector<std::int64_t>>& texts_;
  const TextTree& tree_;
  const PassOptions& options_;
  std::int64_t at_once_, tokens_ = 0, longest_ = 0;
  bool has_shown_ = false;
  std::vector<Batch> batches_;
  std::map<std::int64_t, std::vector<Part>> places_;  // of nodes
  std::set<std::int64_t> taken_;
};

}  // namespace

void run_texts(model::LanguageModel& model, const std::vector<std::vector<std::int64_t>>& texts, const TextTree& tree, const std::vector<WantedRow>& wanted,
               const PassOptions& options, const SeeLogits& see) {
  std::vector<std::vector<size_t>> rows_of(tree.nodes.size());
  for (size_t w = 0; w < wanted.size(); ++w) rows_of[static_cast<size_t>(wanted[w].node)].push_back(w);
  const std::int64_t most_tokens = options.caches != nullptr ? INT64_MAX : std::max<std::int64_t>(1, hidden_bytes(model) / (model.architecture().hidden_size * 4));
  std::int64_t all_tokens = 0;
  for (const TextNode& node : tree.nodes) all_tokens += node.end - node.begin;
  std::optional<RetainedMemory> retained;
  if (all_tokens >= kManyTokens && model.memory_budget() == 0) retained.emplace();
  std::optional<Progress> progress;
  if (!options.label.empty()) progress.emplace(options.label, all_tokens, "token");
  std::int64_t at_once = options.batch_tokens > 0 ? options.batch_tokens : batch_tokens(model);
  for (size_t n = 0; n < tree.nodes.size();) {
    const size_t first = n;
    std::string problem;
    std::optional<Pass> pass(std::in_place, model, texts, tree, options, at_once);
    std::vector<size_t> own;
    for (; n < tree.nodes.size() && (pass->tokens() == 0 || pass->tokens() < most_tokens); ++n) {
      // What an earlier pass had of this node's beginning is run again.
      std::vector<std::int64_t> missing;
      for (std::int64_t p = tree.nodes[n].parent; p >= 0 && !pass->has(p); p = tree.nodes[static_cast<size_t>(p)].parent) missing.push_back(p);
      for (auto p = missing.rbegin(); p != missing.rend(); ++p) pass->add(*p);
      pass->add(static_cast<std::int64_t>(n));
      own.insert(own.end(), rows_of[n].begin(), rows_of[n].end());
    }
    try {
      pass->run(wanted, own, see, progress ? &*progress : nullptr);
    } catch (const c10::OutOfMemoryError& error) {
      // What was shown, or stands in caches that are kept, cannot be done again.
      if (pass->has_shown() || options.caches != nullptr) throw;
      problem = error.what_without_backtrace();
    }
    if (problem.empty()) continue;
    const std::int64_t tokens = pass->tokens();
    pass.reset();  // with what it held on the GPU
    at_once = halved(model, std::min(at_once, tokens), kLeastRows, "tokens", problem);
    n = first;
  }
}

at::Tensor run_step(model::LanguageModel& model, const std::vector<std::int64_t>& ids, const std::vector<model::Segment>& segments,
                    std::vector<model::TextCache>& caches) {
  at::Tensor hidden_NH = embed(model, ids, kLeastRowsOfStep);
  std::int64_t longest = 0;
  for (const model::Segment& segment : segments)
    longest = std::max(longest, std::max(caches.front().length(segment.text), segment.parent >= 0 ? caches.front().length(segment.parent) : 0) + segment.tokens);
  const model::RopeTable& rope = model.rope(longest);
  size_t layer = 0;
  model.for_each_block([&](model::Block& block) { hidden_NH = block.forward(std::move(hidden_NH), model.compute_dtype(), rope, segments, caches[layer++]); });
  return logits_of(model, hidden_NH.narrow(0, 0, static_cast<std::int64_t>(ids.size())), kLeastRowsOfStep);
}

}  // namespace miq::evaluator
