#include "text_tree.h"

#include <algorithm>
#include <numeric>

namespace miq::evaluator {
namespace {

using Texts = std::vector<std::vector<std::int64_t>>;

struct Builder {
  const Texts& texts;
  std::int64_t min_shared;
  std::vector<std::int64_t> order;  // texts, sorted
  TextTree tree;

  const std::vector<std::int64_t>& text(std::int64_t at) const { return texts[static_cast<size_t>(order[static_cast<size_t>(at)])]; }

  std::int64_t add(std::int64_t parent, std::int64_t at, std::int64_t begin, std::int64_t end) {
    if (parent >= 0) ++tree.nodes[static_cast<size_t>(parent)].children;
    tree.nodes.push_back({parent, order[static_cast<size_t>(at)], begin, end, 0});
    return static_cast<std::int64_t>(tree.nodes.size()) - 1;
  }

  // Sorted texts low .. high - 1 agree in their first `known` tokens, of which `parent` holds `start`.
  void build(std::int64_t low, std::int64_t high, std::int64_t start, std::int64_t known, std::int64_t parent) {
    for (std::int64_t i = low; i < high;) {
      const std::vector<std::int64_t>& first = text(i);
      const auto length = static_cast<std::int64_t>(first.size());
      std::int64_t same = i + 1;  // equal texts
      while (same < high && text(same) == first) ++same;
      std::int64_t next = same;   // texts that agree in one more token
      while (next < high && known < length && text(next)[static_cast<size_t>(known)] == first[static_cast<size_t>(known)]) ++next;
      if (next == same) {  // nobody else goes this way
        const std::int64_t node = length > start ? add(parent, i, start, length) : parent;
        for (std::int64_t t = i; t < same; ++t) tree.last_node[static_cast<size_t>(order[static_cast<size_t>(t)])] = node;
        i = same;
        continue;
      }
      const std::vector<std::int64_t>& last = text(next - 1);
      const auto common = static_cast<std::int64_t>(std::mismatch(first.begin(), first.end(), last.begin(), last.end()).first - first.begin());
      if (common - start >= min_shared) {
        const std::int64_t node = add(parent, i, start, common);
        for (; i < next && static_cast<std::int64_t>(text(i).size()) == common; ++i)
          tree.last_node[static_cast<size_t>(order[static_cast<size_t>(i)])] = node;
        build(i, next, common, common, node);
      } else {
        // Each goes its own way from `start`; those that agree further meet again below.
        std::int64_t from = i;
        for (; from < next && static_cast<std::int64_t>(text(from).size()) == common; ++from) {}
        if (from > i) {
          const std::int64_t node = add(parent, i, start, common);
          for (std::int64_t t = i; t < from; ++t) tree.last_node[static_cast<size_t>(order[static_cast<size_t>(t)])] = node;
        }
        build(from, next, start, common, parent);
      }
      i = next;
    }
  }
};

}  // namespace

std::int64_t TextTree::node_at(std::int64_t text, std::int64_t position) const {
  std::int64_t node = last_node[static_cast<size_t>(text)];
  while (nodes[static_cast<size_t>(node)].begin > position) node = nodes[static_cast<size_t>(node)].parent;
  return node;
}

TextTree make_text_tree(const Texts& texts, std::int64_t min_shared) {
  Builder builder{texts, min_shared, std::vector<std::int64_t>(texts.size()), {}};
  std::iota(builder.order.begin(), builder.order.end(), 0);
  std::sort(builder.order.begin(), builder.order.end(), [&](std::int64_t a, std::int64_t b) { return texts[static_cast<size_t>(a)] < texts[static_cast<size_t>(b)]; });
  builder.tree.last_node.resize(texts.size());
  builder.build(0, static_cast<std::int64_t>(texts.size()), 0, 0, -1);
  return std::move(builder.tree);
}

}  // namespace miq::evaluator
