// Tokens that are cut out of the text before the model sees it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace miq::dataset {

struct AddedToken {
  std::string content;
  std::int64_t id = 0;
  bool special = true, lstrip = false, rstrip = false, single_word = false, normalized = false;
};

/// Finds added tokens in a text: leftmost first, the longest of those that start together.
class AddedTokens {
 public:
  void add(AddedToken token);
  const std::vector<AddedToken>& all() const { return tokens_; }
  const AddedToken* by_id(std::int64_t id) const;
  const AddedToken* by_content(std::string_view content) const;

  struct Piece {
    std::string_view text;
    const AddedToken* token;  ///< null for ordinary text
  };
  /// Cuts `text` at the tokens whose `normalized` flag equals `normalized`.
  std::vector<Piece> split(std::string_view text, bool normalized) const;

 private:
  std::vector<AddedToken> tokens_;
  std::map<std::int64_t, size_t> index_of_id_;
  std::map<unsigned char, std::vector<size_t>> by_first_byte_;  // longest first
};

}  // namespace miq::dataset
