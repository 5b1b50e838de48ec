// The steps of a tokenizer.json pipeline, each built from its JSON description.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "bpe.h"

namespace miq::dataset {

/// text -> text
using Normalizer = std::function<std::string(const std::string&)>;
/// pieces -> pieces, on valid UTF-8; `at_start`: the first piece begins the whole text
using PreTokenizer = std::function<std::vector<std::string>(std::vector<std::string>, bool at_start)>;
/// token texts -> token texts; joined at the end
using Decoder = std::function<std::vector<std::string>(std::vector<std::string>)>;

/// Each throws Error{unsupported} naming an unknown component, Error{io} for a malformed one.
/// A null description gives the identity.
Normalizer make_normalizer(const nlohmann::json& description, const std::string& where);
PreTokenizer make_pre_tokenizer(const nlohmann::json& description, const std::string& where);
Decoder make_decoder(const nlohmann::json& description, const std::string& where);

struct SpecialFrame {
  std::vector<std::int64_t> before, after;  ///< ids put around a text
};
SpecialFrame make_frame(const nlohmann::json& post_processor, const std::string& where);

BpeModel make_bpe(const nlohmann::json& model, const std::string& where);

/// Bytes as GPT-2's printable characters, one each: the alphabet of byte-level vocabularies.
std::string byte_level_text(std::string_view bytes);

/// Error{io} for a description that is not well-formed; Error{unsupported} for a component by name.
[[noreturn]] void malformed(const std::string& what, const std::string& where);
[[noreturn]] void unknown_part(const std::string& kind, const std::string& type, const std::string& where);

/// A required or optional member of a JSON object, checked. @throws Error{io}
const nlohmann::json& member(const nlohmann::json& object, const char* key, const std::string& where);
std::string text_member(const nlohmann::json& object, const char* key, const std::string& where);
bool flag_member(const nlohmann::json& object, const char* key, bool fallback);

}  // namespace miq::dataset
