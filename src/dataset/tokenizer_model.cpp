// The vocabulary, the merges and the frame of special tokens, from their JSON descriptions.
#include "miq/core/error.h"
#include "tokenizer_parts.h"

namespace miq::dataset {

using Json = nlohmann::json;

void malformed(const std::string& what, const std::string& where) {
  throw Error(ErrorKind::io, "malformed tokenizer file: " + what, where);
}

void unknown_part(const std::string& kind, const std::string& type, const std::string& where) {
  throw Error(ErrorKind::unsupported, "unknown " + kind + " '" + type + "' in the tokenizer", where);
}

const Json& member(const Json& object, const char* key, const std::string& where) {
  if (!object.is_object() || !object.contains(key)) malformed(std::string("'") + key + "' is missing", where);
  return object[key];
}

std::string text_member(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key, where);
  if (!value.is_string()) malformed(std::string("'") + key + "' is not text", where);
  return value.get<std::string>();
}

bool flag_member(const Json& object, const char* key, bool fallback) {
  return object.contains(key) && object[key].is_boolean() ? object[key].get<bool>() : fallback;
}

SpecialFrame make_frame(const Json& post_processor, const std::string& where) {
  SpecialFrame frame;
  if (post_processor.is_null()) return frame;
  const std::string type = text_member(post_processor, "type", where);
  if (type == "ByteLevel") return frame;  // it only moves offsets
  if (type == "Sequence") {
    const Json& list = member(post_processor, "processors", where);
    if (!list.is_array()) malformed("a Sequence without its list", where);
    for (const Json& item : list) {
      const SpecialFrame part = make_frame(item, where);
      frame.before.insert(frame.before.begin(), part.before.begin(), part.before.end());
      frame.after.insert(frame.after.end(), part.after.begin(), part.after.end());
    }
    return frame;
  }
  if (type != "TemplateProcessing") unknown_part("post-processor", type, where);
  const Json& specials = member(post_processor, "special_tokens", where);
  bool behind = false;
  for (const Json& item : member(post_processor, "single", where)) {
    if (item.contains("Sequence")) {
      behind = true;
      continue;
    }
    const std::string name = text_member(member(item, "SpecialToken", where), "id", where);
    for (const Json& id : member(member(specials, name.c_str(), where), "ids", where)) {
      if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > INT32_MAX)
        malformed("a template's id is not a token id", where);
      (behind ? frame.after : frame.before).push_back(id.get<std::int64_t>());
    }
  }
  return frame;
}

BpeModel make_bpe(const Json& model, const std::string& where) {
  constexpr std::int64_t kMaxId = 1 << 24;
  const std::string type = model.is_object() && !model.contains("type") ? "BPE" : text_member(model, "type", where);
  if (type != "BPE") unknown_part("tokenizer model", type, where);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (model.contains(key) && model[key].is_string() && !model[key].get<std::string>().empty()) unknown_part("BPE option", key, where);
  BpeModel bpe;
  const Json& vocab = member(model, "vocab", where);
  if (!vocab.is_object()) malformed("the vocabulary is not an object", where);
  for (const auto& [piece, id] : vocab.items()) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() >= kMaxId)
      malformed("the id of '" + piece + "' is not a token id", where);
    const auto index = id.get<size_t>();
    if (index >= bpe.pieces.size()) bpe.pieces.resize(index + 1);
    if (!bpe.pieces[index].empty()) malformed("'" + piece + "' and '" + bpe.pieces[index] + "' have the same id", where);
    bpe.pieces[index] = piece;
    bpe.vocab.emplace(piece, static_cast<std::int32_t>(index));
  }
  const Json& merges = member(model, "merges", where);
  if (!merges.is_array()) malformed("the merges are not a list", where);
  std::int32_t rank = 0;
  for (const Json& merge : merges) {
    std::string left, right;
    if (merge.is_string()) {
      const auto text = merge.get<std::string>();
      const size_t space = text.find(' ');
      if (space == std::string::npos) malformed("merge " + merge.dump() + " is not a pair", where);
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else {
      malformed("merge " + std::to_string(rank) + " is not a pair", where);
    }
    const auto a = bpe.vocab.find(left), b = bpe.vocab.find(right), both = bpe.vocab.find(left + right);
    if (a == bpe.vocab.end() || b == bpe.vocab.end() || both == bpe.vocab.end())
      malformed("merge '" + left + " " + right + "' is out of the vocabulary", where);
    bpe.merges.emplace(static_cast<std::uint64_t>(static_cast<std::uint32_t>(a->second)) << 32 | static_cast<std::uint32_t>(b->second),
                       BpeModel::Merge{rank++, both->second});
  }
  if (model.contains("unk_token") && model["unk_token"].is_string())
    if (const auto found = bpe.vocab.find(model["unk_token"].get<std::string>()); found != bpe.vocab.end()) bpe.unknown = found->second;
  bpe.byte_fallback = flag_member(model, "byte_fallback", false);
  bpe.fuse_unknown = flag_member(model, "fuse_unk", false);
  bpe.ignore_merges = flag_member(model, "ignore_merges", false);
  return bpe;
}

}  // namespace miq::dataset
