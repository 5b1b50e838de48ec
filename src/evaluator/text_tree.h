// The texts of many requests as a tree: what they have in common at the beginning stands once.
#pragma once

#include <cstdint>
#include <vector>

namespace miq::evaluator {

struct TextNode {
  std::int64_t parent = -1;           ///< stands before this one; -1: at the beginning
  std::int64_t text = 0;              ///< one of the texts that have these tokens ...
  std::int64_t begin = 0, end = 0;    ///< ... at [begin, end)
  std::int64_t children = 0;
};

/// Nodes in an order in which children follow their parents closely (depth first).
struct TextTree {
  std::vector<TextNode> nodes;
  std::vector<std::int64_t> last_node;  ///< of each text: the node that ends where it ends
  /// The node of `text` that holds its token `position`.
  std::int64_t node_at(std::int64_t text, std::int64_t position) const;
};

/// Shared beginnings shorter than this cost more to keep apart than to run again.
constexpr std::int64_t kMinShared = 8;

/// Texts (none empty) that agree in at least `min_shared` further tokens share a node for them; fewer are not worth a node.
TextTree make_text_tree(const std::vector<std::vector<std::int64_t>>& texts, std::int64_t min_shared);

}  // namespace miq::evaluator
