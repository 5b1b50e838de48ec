// Keys and values of many texts that begin alike, for one layer. Shapes: N tokens of all texts, K kv heads, D head_dim.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "miq/model/attention_mask.h"

namespace miq::model {

/// Tokens of one text in a row of tokens: those behind the segment before it. A text that holds nothing yet goes on where
/// `parent` ends (-1: it starts at position 0); one that does goes on where it ended. Parents stand before their children.
struct Segment {
  std::int64_t text = 0, parent = -1, tokens = 0;
};

/// What the texts of a layer hold. A text shares its beginning with its parent: in pages of some tokens, of which only one that
/// is not full is copied. Texts are named by any numbers of the caller's.
class TextCache {
 public:
  static constexpr std::int64_t kPageTokens = 128;  ///< of a page that is full

  /// Attention of the segments' tokens to themselves and all before them in their texts, which take up their keys and values:
  /// query [N, heads, D], key and value [N, K, D], rotated, unit stride in D. Returns [N, heads * D]; rows behind the last
  /// segment are 0. A row does not depend on what else is in the batch.
  at::Tensor attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::vector<Segment>& segments, const AttentionMask& mask);

  std::int64_t length(std::int64_t text) const;  ///< tokens held; 0 of an unknown text
  void release(std::int64_t text) { texts_.erase(text); }

  using Page = at::Tensor;  ///< [K, 2, elements]: packed keys and values of some tokens

 private:
  struct Text {
    std::int64_t length = 0;
    std::vector<Page> pages;
    at::Tensor key, value;  // [1, K, length, D] where the kernel that takes pages does not run
  };
  struct Job;
  Text& open(const Segment& segment, Page* unfinished);
  std::vector<Job> make_room(const std::vector<Segment>& segments, const at::TensorOptions& options, std::int64_t kv_heads, std::int64_t dim);
  template <class T>
  void attend_paged(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::vector<Job>& jobs, const AttentionMask& mask, T* out);
  void attend_plain(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::vector<Segment>& segments, const AttentionMask& mask,
                    at::Tensor& out);
  std::map<std::int64_t, Text> texts_;
};

/// Position of each of `tokens` tokens in a row of segments; those behind the last segment stand at 0.
std::vector<std::int64_t> positions_of(const TextCache& cache, const std::vector<Segment>& segments, std::int64_t tokens);

}  // namespace miq::model
