// Byte-pair encoding of one word: merges in order of rank, leftmost first.
// Source: arXiv 1508.07909; Hugging Face tokenizers models/bpe (behaviour).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace miq::dataset {

struct BpeModel {
  std::unordered_map<std::string, std::int32_t> vocab;
  std::vector<std::string> pieces;  ///< by id; "" where there is none
  struct Merge {
    std::int32_t rank, id;
  };
  std::unordered_map<std::uint64_t, Merge> merges;  ///< key: left id << 32 | right id
  std::int32_t unknown = -1;                        ///< -1: characters out of the vocabulary are dropped
  bool byte_fallback = false, fuse_unknown = false, ignore_merges = false;

  /// Appends the ids of `word` (valid UTF-8) to `ids`.
  void encode(std::string_view word, std::vector<std::int64_t>& ids) const;

 private:
  std::vector<std::int32_t> characters(std::string_view word) const;
};

}  // namespace miq::dataset
