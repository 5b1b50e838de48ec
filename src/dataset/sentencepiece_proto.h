// Sentencepiece's model file, a protocol buffer: what the library leaves unchecked, and writing one.
// Layout: google/sentencepiece, src/sentencepiece_model.proto; the character map is a Darts-clone trie.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace miq::dataset {

/// As in the file's enumeration, and in a GGUF file's token_type.
enum class PieceType : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct SentencePiece {
  std::string text;
  float score = 0;
  PieceType type = PieceType::normal;
};

/// The pieces of a serialized ModelProto, by id, after checks of what would make the library read
/// outside its memory: lengths, types, scores, the tries of both character maps.
/// @throws Error{io} naming `where`.
std::vector<SentencePiece> read_model_proto(std::string_view proto, const std::string& where);

struct ModelProtoOptions {
  std::int64_t unknown = -1, bos = -1, eos = -1;  ///< ids; -1: none
  bool dummy_prefix = true;                       ///< a space in front of the text
  bool remove_extra_whitespaces = false;
};

/// A BPE model of these pieces, as the library's trainer would have written it (no character map).
std::string write_model_proto(const std::vector<SentencePiece>& pieces, const ModelProtoOptions& options);

}  // namespace miq::dataset
