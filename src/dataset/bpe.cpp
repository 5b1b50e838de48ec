#include "bpe.h"

#include <cstdio>
#include <queue>

#include "utf8.h"

namespace miq::dataset {
namespace {

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

struct Symbol {
  std::int32_t id;
  std::int32_t previous, next;  // indices; -1 at the ends; id -1 = merged away
};

struct Candidate {
  std::int32_t rank, at, left, right, merged;
  bool operator<(const Candidate& other) const {  // the heap's top: lowest rank, then leftmost
    return rank != other.rank ? rank > other.rank : at > other.at;
  }
};

}  // namespace

std::vector<std::int32_t> BpeModel::characters(std::string_view word) const {
  std::vector<std::int32_t> ids;
  bool after_unknown = false;
  for (size_t at = 0; at < word.size();) {
    const size_t bytes = utf8_at(word, at).bytes;
    const std::string piece(word.substr(at, bytes));
    at += bytes;
    if (const auto found = vocab.find(piece); found != vocab.end()) {
      ids.push_back(found->second);
      after_unknown = false;
      continue;
    }
    if (byte_fallback) {
      std::vector<std::int32_t> as_bytes;
      for (const char c : piece) {
        char name[8];
        std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned char>(c));
        const auto byte = vocab.find(name);
        if (byte == vocab.end()) break;
        as_bytes.push_back(byte->second);
      }
      if (as_bytes.size() == piece.size()) {
        ids.insert(ids.end(), as_bytes.begin(), as_bytes.end());
        after_unknown = false;
        continue;
      }
    }
    if (unknown >= 0 && !(fuse_unknown && after_unknown)) ids.push_back(unknown);
    after_unknown = unknown >= 0;
  }
  return ids;
}

void BpeModel::encode(std::string_view word, std::vector<std::int64_t>& ids) const {
  if (ignore_merges)
    if (const auto whole = vocab.find(std::string(word)); whole != vocab.end()) {
      ids.push_back(whole->second);
      return;
    }
  const std::vector<std::int32_t> start = characters(word);
  std::vector<Symbol> symbols(start.size());
  const auto count = static_cast<std::int32_t>(start.size());
  for (std::int32_t i = 0; i < count; ++i) symbols[i] = {start[i], i - 1, i + 1 < count ? i + 1 : -1};
  std::priority_queue<Candidate> queue;
  const auto consider = [&](std::int32_t at) {
    if (at < 0 || symbols[at].next < 0) return;
    const std::int32_t left = symbols[at].id, right = symbols[symbols[at].next].id;
    if (const auto merge = merges.find(pair_key(left, right)); merge != merges.end())
      queue.push({merge->second.rank, at, left, right, merge->second.id});
  };
  for (std::int32_t i = 0; i + 1 < count; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.at];
    if (left.id != best.left || left.next < 0 || symbols[left.next].id != best.right) continue;  // outdated
    Symbol& right = symbols[left.next];
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = best.at;
    consider(left.previous);
    consider(best.at);
  }
  for (const Symbol& symbol : symbols)
    if (symbol.id >= 0) ids.push_back(symbol.id);
}

}  // namespace miq::dataset
