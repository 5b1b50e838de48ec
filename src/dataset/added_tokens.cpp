#include "added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "utf8.h"

namespace miq::dataset {
namespace {

bool is_word_character(std::uint32_t code) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NO) || category == UTF8PROC_CATEGORY_PC;
}

size_t start_of_character_before(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

}  // namespace

void AddedTokens::add(AddedToken token) {
  if (token.content.empty()) return;
  const size_t index = tokens_.size();
  index_of_id_[token.id] = index;
  auto& same_start = by_first_byte_[static_cast<unsigned char>(token.content[0])];
  tokens_.push_back(std::move(token));
  same_start.push_back(index);
  std::stable_sort(same_start.begin(), same_start.end(), [&](size_t a, size_t b) {
    return tokens_[a].content.size() > tokens_[b].content.size();
  });
}

const AddedToken* AddedTokens::by_id(std::int64_t id) const {
  const auto found = index_of_id_.find(id);
  return found == index_of_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::by_content(std::string_view content) const {
  for (const AddedToken& token : tokens_)
    if (token.content == content) return &token;
  return nullptr;
}

std::vector<AddedTokens::Piece> AddedTokens::split(std::string_view text, bool normalized) const {
  std::vector<Piece> pieces;
  size_t plain_from = 0;
  for (size_t at = 0; at < text.size();) {
    const auto candidates = by_first_byte_.find(static_cast<unsigned char>(text[at]));
    const AddedToken* hit = nullptr;
    if (candidates != by_first_byte_.end()) {
      for (const size_t index : candidates->second) {
        const AddedToken& token = tokens_[index];
        const size_t end = at + token.content.size();
        if (token.normalized != normalized || text.compare(at, token.content.size(), token.content) != 0) continue;
        if (token.single_word &&
            ((at > 0 && is_word_character(utf8_at(text, start_of_character_before(text, at)).code)) ||
             (end < text.size() && is_word_character(utf8_at(text, end).code))))
          continue;
        hit = &token;
        break;
      }
    }
    if (hit == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + hit->content.size();
    while (hit->lstrip && begin > plain_from) {
      const size_t before = start_of_character_before(text, begin);
      if (!is_space(utf8_at(text, before).code)) break;
      begin = before;
    }
    while (hit->rstrip && end < text.size() && is_space(utf8_at(text, end).code)) end += utf8_at(text, end).bytes;
    if (begin > plain_from) pieces.push_back({text.substr(plain_from, begin - plain_from), nullptr});
    pieces.push_back({text.substr(begin, end - begin), hit});
    at = plain_from = end;
  }
  if (plain_from < text.size()) pieces.push_back({text.substr(plain_from), nullptr});
  return pieces;
}

}  // namespace miq::dataset
