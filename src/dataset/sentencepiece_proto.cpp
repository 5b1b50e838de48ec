#include "sentencepiece_proto.h"

#include <cmath>
#include <cstring>

#include "miq/core/error.h"

namespace miq::dataset {
namespace {

constexpr size_t kMaxPieces = size_t{1} << 24;
enum WireType : std::uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Field {
  std::uint32_t number = 0, type = 0;
  std::uint64_t value = 0;  // of varints and fixed ones
  std::string_view bytes;
};

// The fields of one message, front to back.
class WireReader {
 public:
  WireReader(std::string_view rest, const std::string& where) : rest_(rest), where_(where) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    field = {static_cast<std::uint32_t>(key >> 3), static_cast<std::uint32_t>(key & 7), 0, {}};
    switch (field.type) {
      case kVarint:
        field.value = varint();
        break;
      case kFixed64:
        field.value = fixed<std::uint64_t>();
        break;
      case kFixed32:
        field.value = fixed<std::uint32_t>();
        break;
      case kBytes:
        field.bytes = take(varint());
        break;
      default:
        fail("unknown wire type " + std::to_string(field.type));
    }
    if (field.number == 0) fail("field number 0");
    return true;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::io, "malformed sentencepiece model: " + what, where_, "copy the file anew");
  }

 private:
  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) fail("it ends inside a field");
    const std::string_view part = rest_.substr(0, static_cast<size_t>(count));
    rest_.remove_prefix(static_cast<size_t>(count));
    return part;
  }
  template <class T>
  T fixed() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number longer than 64 bits");
  }

  std::string_view rest_;
  const std::string& where_;
};

SentencePiece read_piece(std::string_view message, const std::string& where) {
  WireReader reader(message, where);
  SentencePiece piece;
  for (Field field; reader.next(field);) {
    if (field.number == 1 && field.type == kBytes) piece.text = field.bytes;
    if (field.number == 2 && field.type == kFixed32) {
      const auto bits = static_cast<std::uint32_t>(field.value);
      std::memcpy(&piece.score, &bits, sizeof bits);
    }
    if (field.number == 3 && field.type == kVarint) {
      if (field.value < 1 || field.value > 6) reader.fail("piece type " + std::to_string(field.value));
      piece.type = static_cast<PieceType>(field.value);
    }
  }
  if (piece.text.empty()) reader.fail("an empty piece");
  if (std::isnan(piece.score)) reader.fail("a score that is not a number");
  return piece;
}

// Every unit of the trie that a text can lead to must lie in it, and every value in the strings behind
// it: the library looks at neither. Unit layout: Darts-clone (label, leaf flag, offset to the children).
void check_charsmap(std::string_view map, const WireReader& reader) {
  if (map.empty()) return;
  std::uint32_t trie_bytes = 0;
  if (map.size() <= sizeof trie_bytes) reader.fail("a character map of " + std::to_string(map.size()) + " bytes");
  std::memcpy(&trie_bytes, map.data(), sizeof trie_bytes);
  if (trie_bytes % 4 != 0 || trie_bytes < 1024 || trie_bytes >= map.size() - sizeof trie_bytes)
    reader.fail("a character map whose trie does not fit");
  const size_t units = trie_bytes / 4, strings = map.size() - sizeof trie_bytes - trie_bytes;
  const auto unit = [&](size_t at) {
    std::uint32_t value;
    std::memcpy(&value, map.data() + sizeof trie_bytes + 4 * at, sizeof value);
    return value;
  };
  std::vector<bool> seen(units);
  std::vector<size_t> waiting = {0};
  seen[0] = true;
  while (!waiting.empty()) {
    const size_t at = waiting.back();
    waiting.pop_back();
    const std::uint32_t value = unit(at);
    const size_t base = at ^ (static_cast<size_t>(value >> 10) << ((value & (1u << 9)) >> 6));
    if ((base | 0xFF) >= units) reader.fail("a character map that leads out of its trie");
    if ((value >> 8 & 1) && (unit(base) & 0x7FFFFFFF) >= strings)
      reader.fail("a character map that leads out of its strings");
    for (size_t label = 0; label < 256; ++label) {
      const size_t child = base ^ label;
      if ((unit(child) & (1u << 31 | 0xFF)) == label && !seen[child]) {
        seen[child] = true;
        waiting.push_back(child);
      }
    }
  }
}

void check_normalizer(std::string_view message, const std::string& where) {
  WireReader reader(message, where);
  for (Field field; reader.next(field);)
    if (field.number == 2 && field.type == kBytes) check_charsmap(field.bytes, reader);
}

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void append_number(std::string& out, std::uint32_t number, std::int64_t value) {
  append_varint(out, number << 3 | kVarint);
  append_varint(out, static_cast<std::uint64_t>(value));
}

void append_bytes(std::string& out, std::uint32_t number, std::string_view bytes) {
  append_varint(out, number << 3 | kBytes);
  append_varint(out, bytes.size());
  out += bytes;
}

}  // namespace

std::vector<SentencePiece> read_model_proto(std::string_view proto, const std::string& where) {
  WireReader reader(proto, where);
  std::vector<SentencePiece> pieces;
  for (Field field; reader.next(field);) {
    if (field.number == 1 && field.type == kBytes) {
      if (pieces.size() == kMaxPieces) reader.fail("more than 2^24 pieces");
      pieces.push_back(read_piece(field.bytes, where));
    }
    if ((field.number == 3 || field.number == 5) && field.type == kBytes) check_normalizer(field.bytes, where);
  }
  if (pieces.empty()) reader.fail("no pieces");
  return pieces;
}

std::string write_model_proto(const std::vector<SentencePiece>& pieces, const ModelProtoOptions& options) {
  std::string proto, message;
  bool bytes = false;
  for (const SentencePiece& piece : pieces) {
    message.clear();
    append_bytes(message, 1, piece.text);
    append_varint(message, 2 << 3 | kFixed32);
    message.append(reinterpret_cast<const char*>(&piece.score), sizeof piece.score);
    append_number(message, 3, static_cast<std::int64_t>(piece.type));
    append_bytes(proto, 1, message);
    bytes = bytes || piece.type == PieceType::byte;
  }
  std::string trainer, normalizer;
  append_number(trainer, 3, 2);  // model_type: BPE
  append_number(trainer, 35, bytes);
  const auto special = [&](std::uint32_t id_field, std::uint32_t text_field, std::int64_t id) {
    append_number(trainer, id_field, id);
    append_bytes(trainer, text_field, id >= 0 ? pieces.at(static_cast<size_t>(id)).text : std::string());
  };
  special(40, 45, options.unknown);
  special(41, 46, options.bos);
  special(42, 47, options.eos);
  append_number(normalizer, 3, options.dummy_prefix);
  append_number(normalizer, 4, options.remove_extra_whitespaces);
  append_bytes(proto, 2, trainer);
  append_bytes(proto, 3, normalizer);
  return proto;
}

}  // namespace miq::dataset
