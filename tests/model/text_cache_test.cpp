// Texts that share beginnings, run in one row: the same hidden states as each text alone, in any batching.
#include "miq/model/text_cache.h"

#include "miq/core/device.h"
#include "miq/core/random.h"
#include "miq/model/reordered_weights.h"
#include "support.h"
#include "support/tiny_models.h"

namespace miq::model::test {
namespace {

// A tree of texts: `ids` behind those of the parent.
struct Node {
  std::int64_t parent;
  std::vector<std::int64_t> ids;
};

std::vector<Node> tree(std::uint64_t seed, const std::vector<std::pair<std::int64_t, std::int64_t>>& parent_and_tokens) {
  PythonRandom random(seed);
  std::vector<Node> nodes;
  for (const auto& [parent, tokens] : parent_and_tokens) {
    nodes.push_back({parent, {}});
    for (std::int64_t t = 0; t < tokens; ++t) nodes.back().ids.push_back(random.randint(0, 95));
  }
  return nodes;
}

std::vector<std::int64_t> whole_text(const std::vector<Node>& nodes, size_t index) {
  std::vector<std::int64_t> ids = nodes[index].ids;
  for (std::int64_t p = nodes[index].parent; p >= 0; p = nodes[static_cast<size_t>(p)].parent) {
    const auto& before = nodes[static_cast<size_t>(p)].ids;
    ids.insert(ids.begin(), before.begin(), before.end());
  }
  return ids;
}

// Hidden states behind the last block of each node's own tokens, `batch` segments at a time; nodes of more than
// `cut` tokens go in parts.
std::vector<at::Tensor> run_tree(LanguageModel& model, const std::vector<Node>& nodes, size_t batch, std::int64_t cut, bool reorder = false) {
  std::vector<Segment> segments;
  std::vector<at::Tensor> inputs;
  for (size_t n = 0; n < nodes.size(); ++n)
    for (std::int64_t begin = 0; begin < static_cast<std::int64_t>(nodes[n].ids.size()); begin += cut) {
      const std::int64_t tokens = std::min(cut, static_cast<std::int64_t>(nodes[n].ids.size()) - begin);
      segments.push_back({static_cast<std::int64_t>(n), nodes[n].parent, tokens});
      inputs.push_back(model.embed(at::tensor(nodes[n].ids, at::kLong).unsqueeze(0)).squeeze(0).narrow(0, begin, tokens));
    }
  const RopeTable& rope = model.rope(512);
  model.for_each_block([&](Block& block) {
    TextCache cache;
    std::optional<ReorderedWeights> reordered;
    if (reorder) reordered.emplace(block);
    for (size_t s = 0; s < segments.size(); s += batch) {
      const size_t end = std::min(segments.size(), s + batch);
      std::vector<at::Tensor> rows(inputs.begin() + static_cast<std::ptrdiff_t>(s), inputs.begin() + static_cast<std::ptrdiff_t>(end));
      std::int64_t tokens = 0;
      for (const at::Tensor& row : rows) tokens += row.size(0);
      if (tokens < 8) rows.push_back(at::zeros({8 - tokens, rows[0].size(1)}));
      const at::Tensor out = block.forward(at::cat(rows), model.compute_dtype(), rope, {segments.begin() + static_cast<std::ptrdiff_t>(s), segments.begin() + static_cast<std::ptrdiff_t>(end)}, cache);
      std::int64_t at = 0;
      for (size_t i = s; i < end; ++i) {
        inputs[i] = out.narrow(0, at, segments[i].tokens).clone();
        at += segments[i].tokens;
      }
    }
  });
  std::vector<std::vector<at::Tensor>> parts(nodes.size());
  for (size_t s = 0; s < segments.size(); ++s) parts[static_cast<size_t>(segments[s].text)].push_back(inputs[s]);
  std::vector<at::Tensor> result;
  for (const auto& own : parts) result.push_back(at::cat(own));
  return result;
}

// Where attention is our own kernel (elsewhere it is LibTorch's, whose rows may depend on each other in the last bit).
bool has_tiles(at::ScalarType dtype) {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && (dtype == at::kFloat || (dtype == at::kBFloat16 && has_fast_bfloat16(at::kCPU)));
#else
  return false;
#endif
}

class TextCacheOfEveryFamily : public testing::TestWithParam<std::string> {};

TEST_P(TextCacheOfEveryFamily, TextsInOneRowAreAsAlone) {
  nlohmann::json config = miq::test::tiny_configs().at(GetParam());
  for (const char* key : {"max_position_embeddings", "model_max_length", "seq_length"})
    if (config.contains(key)) config[key] = 512;
  miq::test::TempFolder folder;
  miq::test::write_tiny_model(folder.path(), config);
  // Pages end within a parent, at its end and within a child; a grandchild; siblings; a one-token text.
  const std::vector<Node> nodes = tree(7, {{-1, 100}, {0, 28}, {1, 5}, {0, 40}, {3, 130}, {-1, 1}, {5, 9}, {0, 1}, {4, 3}, {1, 1}});
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    LanguageModel model = open_model(folder.path(), dtype);
    const std::vector<at::Tensor> whole = run_tree(model, nodes, 100, 1000), single = run_tree(model, nodes, 1, 1000), cut = run_tree(model, nodes, 3, 37),
                                  reordered = run_tree(model, nodes, 100, 1000, /*reorder=*/true);
    for (size_t n = 0; n < nodes.size(); ++n) {
      const std::vector<std::int64_t> ids = whole_text(nodes, n);
      const at::Tensor expected = hidden_states(model, at::tensor(ids, at::kLong).unsqueeze(0)).back()[0].slice(0, static_cast<std::int64_t>(ids.size() - nodes[n].ids.size()));
      const double scale = expected.abs().max().item<double>();
      EXPECT_LT((whole[n] - expected).abs().max().item<double>(), (dtype == at::kFloat ? 2e-5 : 6e-2) * scale) << "text " << n << " " << c10::toString(dtype);
      const bool routed = config.contains("num_local_experts") || config.contains("num_experts");  // experts see few rows, which other kernels multiply
      if (!routed && has_tiles(dtype)) {
        EXPECT_TRUE(at::equal(whole[n], single[n])) << "text " << n << " alone, " << c10::toString(dtype);
        EXPECT_TRUE(at::equal(whole[n], cut[n])) << "text " << n << " in parts, " << c10::toString(dtype);
        EXPECT_TRUE(at::equal(whole[n], reordered[n])) << "text " << n << " by reordered weights, " << c10::toString(dtype);
      }
    }
  }
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& [name, config] : miq::test::tiny_configs()) all.push_back(name);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Families, TextCacheOfEveryFamily, testing::ValuesIn(names()), [](const auto& info) { return info.param; });

TEST(TextCache, ATextMayNotGoOnFromOneThatIsNotHeld) {
  TextCache cache;
  const at::Tensor x = at::zeros({8, 2, 16});
  const auto [kind, text] = error_of([&] { cache.attend(x, x, x, {{1, 0, 8}}, {}); });
  EXPECT_EQ(kind, ErrorKind::internal);
}

TEST(TextCache, ReleasedTextsAreForgottenButTheirChildrenGoOn) {
  const at::Tensor x = at::randn({150, 2, 16});
  TextCache cache, other;
  cache.attend(x, x, x, {{0, -1, 150}}, {});
  other.attend(x, x, x, {{0, -1, 150}}, {});
  const at::Tensor y = at::randn({8, 2, 16});
  cache.attend(y, y, y, {{1, 0, 8}}, {});
  cache.release(0);
  EXPECT_EQ(cache.length(0), 0);
  EXPECT_EQ(cache.length(1), 158);
  const at::Tensor expected = other.attend(at::cat({y, y}), at::cat({y, y}), at::cat({y, y}), {{1, 0, 8}, {1, 0, 8}}, {});
  EXPECT_TRUE(at::equal(cache.attend(y, y, y, {{1, 0, 8}}, {}), expected.narrow(0, 8, 8)));
}

}  // namespace
}  // namespace miq::model::test
