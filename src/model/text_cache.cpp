#include "miq/model/text_cache.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "attention.h"
#include "attention_tile.h"
#include "miq/core/error.h"

namespace miq::model {

static_assert(TextCache::kPageTokens == kernels::kChunk, "a page is a chunk of keys");

using kernels::kChunk;

std::int64_t TextCache::length(std::int64_t text) const {
  const auto found = texts_.find(text);
  return found == texts_.end() ? 0 : found->second.length;
}

std::vector<std::int64_t> positions_of(const TextCache& cache, const std::vector<Segment>& segments, std::int64_t tokens) {
  std::vector<std::int64_t> positions(static_cast<size_t>(tokens), 0);
  std::map<std::int64_t, std::int64_t> ends;  // of texts that this row makes longer
  const auto end_of = [&](std::int64_t text) {
    const auto found = ends.find(text);
    return found != ends.end() ? found->second : cache.length(text);
  };
  size_t row = 0;
  for (const Segment& segment : segments) {
    std::int64_t position = end_of(segment.text);
    if (position == 0 && segment.parent >= 0) position = end_of(segment.parent);
    for (std::int64_t t = 0; t < segment.tokens; ++t) positions.at(row++) = position++;
    ends[segment.text] = position;
  }
  return positions;
}

// The new tokens of a segment, and the pages they go into.
struct TextCache::Job {
  std::int64_t begin, tokens, first_position;  // begin: row of the first
  std::vector<Page> pages;                     // of the whole text
  Page unfinished;                             // the parent's last page, which is copied; or undefined
};

// The text of a segment; a new one shares its parent's pages. The last of them, where it has room left, is given in `unfinished`.
TextCache::Text& TextCache::open(const Segment& segment, Page* unfinished) {
  Text& text = texts_[segment.text];
  if (text.length > 0 || segment.parent < 0) return text;
  const auto parent = texts_.find(segment.parent);
  if (parent == texts_.end()) throw Error(ErrorKind::internal, "text " + std::to_string(segment.text) + " goes on from one that is not held");
  text = parent->second;
  if (text.length % kChunk != 0 && !text.pages.empty()) {
    *unfinished = text.pages.back();
    text.pages.back() = at::empty_like(*unfinished);
  }
  return text;
}

std::vector<TextCache::Job> TextCache::make_room(const std::vector<Segment>& segments, const at::TensorOptions& options, std::int64_t kv_heads, std::int64_t dim) {
  std::vector<Job> jobs;
  std::int64_t begin = 0;
  for (const Segment& segment : segments) {
    Job job;
    Text& text = open(segment, &job.unfinished);
    job.begin = begin;
    job.tokens = segment.tokens;
    job.first_position = text.length;
    text.length += segment.tokens;
    while (static_cast<std::int64_t>(text.pages.size()) * kChunk < text.length)
      text.pages.push_back(at::empty({kv_heads, 2, kernels::packed_elements(dim)}, options));
    job.pages = text.pages;
    jobs.push_back(std::move(job));
    begin += segment.tokens;
  }
  return jobs;
}

namespace {

// Items in an order that gives each of `threads` equal runs of it about the same cost.
template <class Item, class Cost>
std::vector<Item> dealt(std::vector<Item> items, const Cost& cost, int threads) {
  std::stable_sort(items.begin(), items.end(), [&](const Item& a, const Item& b) { return cost(a) > cost(b); });
  std::vector<Item> order;
  for (int t = 0; t < threads; ++t)
    for (size_t i = static_cast<size_t>(t); i < items.size(); i += static_cast<size_t>(threads)) order.push_back(items[i]);
  return order;
}

}  // namespace

template <class T>
void TextCache::attend_paged(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::vector<Job>& jobs, const AttentionMask& mask, T* out) {
  const std::int64_t heads = query.size(1), kv_heads = key.size(1), dim = query.size(2), group = heads / kv_heads, piece = kernels::packed_elements(dim);
  const auto head_of = [&](const Page& page, std::int64_t head) { return page.mutable_data_ptr<T>() + head * 2 * piece; };
  // A head's pages in the order of the segments: a child copies what its parent wrote.
  at::parallel_for(0, kv_heads, 1, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t head = from; head < to; ++head)
      for (const Job& job : jobs) {
        const T* const keys = key.const_data_ptr<T>() + job.begin * key.stride(0) + head * key.stride(1);
        const T* const values = value.const_data_ptr<T>() + job.begin * value.stride(0) + head * value.stride(1);
        if (job.unfinished.defined()) {
          const T* const source = head_of(job.unfinished, head);
          std::copy(source, source + 2 * piece, head_of(job.pages[static_cast<size_t>(job.first_position / kChunk)], head));
        }
        for (std::int64_t t = 0; t < job.tokens;) {
          const std::int64_t position = job.first_position + t, at = position % kChunk, count = std::min(kChunk - at, job.tokens - t);
          T* const target = head_of(job.pages[static_cast<size_t>(position / kChunk)], head);
          if (at == 0) std::fill(target + piece, target + 2 * piece, T(0));  // values that are not there yet have weight 0, but must be numbers
          kernels::pack_into_chunk(keys + t * key.stride(0), key.stride(0), values + t * value.stride(0), value.stride(0), at, count, dim, target, target + piece);
          t += count;
        }
      }
  });
  struct Tile {
    const Job* job;
    std::int64_t head, begin;
  };
  std::vector<Tile> tiles;
  size_t longest = 0;
  for (const Job& job : jobs) {
    longest = std::max(longest, job.pages.size());
    for (std::int64_t head = 0; head < kv_heads; ++head)
      for (std::int64_t begin = 0; begin < job.tokens * group; begin += kernels::kTile) tiles.push_back({&job, head, begin});
  }
  tiles = dealt(std::move(tiles), [&](const Tile& tile) { return tile.job->first_position + tile.begin / group; }, at::get_num_threads());
  const float* const slopes = mask.alibi_slopes_N.defined() ? mask.alibi_slopes_N.const_data_ptr<float>() : nullptr;
  const std::int64_t width = heads * dim;
  at::parallel_for(0, static_cast<std::int64_t>(tiles.size()), 1, [&](std::int64_t from, std::int64_t to) {
    kernels::TileScratch<T> scratch(dim, static_cast<std::int64_t>(longest));
    std::vector<std::pair<const T*, const T*>> places(longest);
    for (std::int64_t i = from; i < to; ++i) {
      const Tile& tile = tiles[static_cast<size_t>(i)];
      const Job& job = *tile.job;
      for (size_t c = 0; c < job.pages.size(); ++c) {
        const T* const keys = head_of(job.pages[c], tile.head);
        places[c] = {keys, keys + piece};
      }
      const kernels::TileQueries<T> queries{query.const_data_ptr<T>() + job.begin * query.stride(0) + tile.head * group * query.stride(1), query.stride(0),
                                            query.stride(1), out + job.begin * width + tile.head * group * dim, width, dim, job.tokens, group,
                                            job.first_position, dim, mask.window, slopes != nullptr ? slopes + tile.head * group : nullptr};
      kernels::attend_tile(queries, tile.begin, places, scratch);
    }
    kernels::release_tiles<T>();
  });
}

// On any device: a text's keys and values whole, and LibTorch's attention.
void TextCache::attend_plain(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::vector<Segment>& segments, const AttentionMask& mask,
                             at::Tensor& out) {
  std::int64_t begin = 0;
  const auto rows = [&](const at::Tensor& t, std::int64_t tokens) { return t.narrow(0, begin, tokens).transpose(0, 1).unsqueeze(0); };
  for (const Segment& segment : segments) {
    Page none;
    Text& text = open(segment, &none);
    const at::Tensor keys = rows(key, segment.tokens), values = rows(value, segment.tokens);
    text.key = text.length > 0 ? at::cat({text.key, keys}, 2) : keys.contiguous();
    text.value = text.length > 0 ? at::cat({text.value, values}, 2) : values.contiguous();
    text.length += segment.tokens;
    out.narrow(0, begin, segment.tokens).copy_(attention(rows(query, segment.tokens), text.key, text.value, mask).squeeze(0));
    begin += segment.tokens;
  }
}

at::Tensor TextCache::attend(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::vector<Segment>& segments,
                             const AttentionMask& mask) {
  at::Tensor out = at::empty({query.size(0), query.size(1) * query.size(2)}, query.options());
  std::int64_t rows = 0;
  for (const Segment& segment : segments) rows += segment.tokens;
  if (rows < out.size(0)) out.narrow(0, rows, out.size(0) - rows).zero_();
  if (!query.is_cpu() || !kernels::has_attention_tiles(query.scalar_type())) {
    attend_plain(query, key, value, segments, mask, out);
    return out;
  }
  const std::vector<Job> jobs = make_room(segments, query.options(), key.size(1), query.size(2));
  if (query.scalar_type() == at::kFloat)
    attend_paged<float>(query, key, value, jobs, mask, out.mutable_data_ptr<float>());
  else
    attend_paged<at::BFloat16>(query, key, value, jobs, mask, out.mutable_data_ptr<at::BFloat16>());
  return out;
}

}  // namespace miq::model
