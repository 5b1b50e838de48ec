// The sentencepiece library behind a checked door: what the families that use it share.
#pragma once

#include <sentencepiece_processor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "added_tokens.h"
#include "sentencepiece_proto.h"

namespace miq::dataset {

inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  ///< U+2581, a space in pieces

class SentencePieceModel {
 public:
  /// From a serialized ModelProto. `no_dummy_prefix`: no space in front of a text, whatever the file says.
  /// @throws Error{io} for one that is not well-formed, naming `where`.
  SentencePieceModel(std::string proto, const std::string& where, bool no_dummy_prefix = false);

  /// Appends the ids of `text`; each byte that is not UTF-8 counts as a U+FFFD.
  void encode(std::string_view text, std::vector<std::int64_t>& ids) const;
  /// Pieces to text; texts that are no pieces stay as they are.
  std::string decode(const std::vector<std::string>& pieces) const;

  std::int64_t size() const { return size_; }
  bool has(std::int64_t id) const { return id >= 0 && id < size_; }
  const std::string& piece(std::int64_t id) const { return processor_.IdToPiece(static_cast<int>(id)); }
  std::optional<std::int64_t> unknown_id() const { return known(processor_.unk_id()); }
  std::optional<std::int64_t> bos_id() const { return known(processor_.bos_id()); }
  std::optional<std::int64_t> eos_id() const { return known(processor_.eos_id()); }
  /// The id of a piece that is neither ordinary text nor a byte; nothing for others.
  std::optional<std::int64_t> special_id(std::string_view text) const;
  /// The unknown, BOS and EOS pieces as tokens to cut out of a text.
  AddedTokens special_tokens() const;

 private:
  static std::optional<std::int64_t> known(int id) { return id >= 0 ? std::optional<std::int64_t>(id) : std::nullopt; }

  sentencepiece::SentencePieceProcessor processor_;
  std::string where_;
  std::vector<std::pair<std::string, std::int64_t>> specials_;
  std::int64_t size_ = 0;
};

}  // namespace miq::dataset
