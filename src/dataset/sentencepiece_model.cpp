#include "sentencepiece_model.h"

#include "miq/core/error.h"

namespace miq::dataset {
namespace {

// In a protocol buffer a repeated field's message is merged into the first: appending
// normalizer_spec { add_dummy_prefix: false } overrides what the file says.
constexpr std::string_view kNoDummyPrefix("\x1a\x02\x18\x00", 4);

}  // namespace

SentencePieceModel::SentencePieceModel(std::string proto, const std::string& where, bool no_dummy_prefix)
    : where_(where) {
  const std::vector<SentencePiece> pieces = read_model_proto(proto, where);
  for (size_t id = 0; id < pieces.size(); ++id)
    if (pieces[id].type != PieceType::normal && pieces[id].type != PieceType::byte)
      specials_.emplace_back(pieces[id].text, static_cast<std::int64_t>(id));
  if (no_dummy_prefix) proto += kNoDummyPrefix;
  std::string problem;
  try {
    const auto status = processor_.LoadFromSerializedProto(proto);
    if (!status.ok()) problem = status.ToString();
  } catch (const std::exception& error) {  // of the trie it builds
    problem = error.what();
  }
  if (!problem.empty())
    throw Error(ErrorKind::io, "malformed sentencepiece model: " + problem, where, "copy the file anew");
  size_ = processor_.GetPieceSize();
}

void SentencePieceModel::encode(std::string_view text, std::vector<std::int64_t>& ids) const {
  std::vector<int> encoded;
  const auto status = processor_.Encode(absl::string_view(text.data(), text.size()), &encoded);
  if (!status.ok()) throw Error(ErrorKind::io, "sentencepiece: " + status.ToString(), where_);
  ids.insert(ids.end(), encoded.begin(), encoded.end());
}

std::string SentencePieceModel::decode(const std::vector<std::string>& pieces) const {
  std::string text;
  const auto status = processor_.Decode(pieces, &text);
  if (!status.ok()) throw Error(ErrorKind::io, "sentencepiece: " + status.ToString(), where_);
  return text;
}

std::optional<std::int64_t> SentencePieceModel::special_id(std::string_view text) const {
  for (const auto& [piece, id] : specials_)
    if (piece == text) return id;
  return std::nullopt;
}

AddedTokens SentencePieceModel::special_tokens() const {
  AddedTokens tokens;
  for (const auto& id : {unknown_id(), bos_id(), eos_id()})
    if (id) tokens.add({piece(*id), *id});
  return tokens;
}

}  // namespace miq::dataset
