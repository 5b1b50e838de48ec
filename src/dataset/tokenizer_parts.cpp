#include "tokenizer_parts.h"

#include <utf8proc.h>

#include <array>
#include <cstdlib>

#include "miq/core/error.h"
#include "regex.h"
#include "split_patterns.h"
#include "utf8.h"

namespace miq::dataset {
namespace {

using Json = nlohmann::json;

std::string replace_all(const std::string& text, const std::string& from, const std::string& to) {
  if (from.empty()) return text;
  std::string out;
  size_t at = 0;
  for (size_t hit; (hit = text.find(from, at)) != std::string::npos; at = hit + from.size()) {
    out.append(text, at, hit - at);
    out += to;
  }
  return out.append(text, at, std::string::npos);
}

// A {"String": ...} or {"Regex": ...} pattern as a function that finds its matches.
std::function<std::vector<std::pair<size_t, size_t>>(std::string_view)> make_pattern(const Json& pattern, const std::string& where) {
  if (pattern.is_object() && pattern.contains("Regex")) {
    return [regex = Regex(text_member(pattern, "Regex", where), where)](std::string_view text) { return regex.matches(text); };
  }
  return [wanted = text_member(pattern, "String", where)](std::string_view text) {
    std::vector<std::pair<size_t, size_t>> found;
    if (wanted.empty()) return found;
    for (size_t at = 0; (at = text.find(wanted, at)) != std::string_view::npos; at += wanted.size())
      found.emplace_back(at, at + wanted.size());
    return found;
  };
}

std::string nfc(const std::string& text, bool compatible) {
  utf8proc_uint8_t* result = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
  const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                   static_cast<utf8proc_ssize_t>(text.size()), &result, options);
  if (length < 0) return text;
  std::string out(reinterpret_cast<char*>(result), static_cast<size_t>(length));
  std::free(result);
  return out;
}

// GPT-2's printable stand-ins for bytes: printable Latin-1 as it is, the other bytes from U+0100 on.
const std::array<std::string, 256>& byte_characters() {
  static const std::array<std::string, 256> table = [] {
    std::array<std::string, 256> made;
    std::uint32_t next = 256;
    for (std::uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      append_utf8(made[b], printable ? b : next++);
    }
    return made;
  }();
  return table;
}

const std::unordered_map<std::string, char>& character_bytes() {
  static const std::unordered_map<std::string, char> table = [] {
    std::unordered_map<std::string, char> made;
    for (int b = 0; b < 256; ++b) made[byte_characters()[static_cast<size_t>(b)]] = static_cast<char>(b);
    return made;
  }();
  return table;
}

// Splits each piece at the spans `find` gives; `behavior` says where the matches go.
PreTokenizer make_split(std::function<std::vector<std::pair<size_t, size_t>>(std::string_view)> find,
                        const std::string& behavior, const std::string& where) {
  if (behavior != "Isolated" && behavior != "Removed" && behavior != "MergedWithPrevious" && behavior != "MergedWithNext")
    unknown_part("split behavior", behavior, where);
  return [find = std::move(find), behavior](std::vector<std::string> pieces, bool) {
    std::vector<std::string> out;
    for (const std::string& piece : pieces) {
      size_t at = 0;
      std::string carried;  // a match that joins the piece behind it
      const auto emit = [&](std::string part) {
        part = carried + part;
        carried.clear();
        if (!part.empty()) out.push_back(std::move(part));
      };
      for (const auto& [begin, end] : find(piece)) {
        std::string gap = piece.substr(at, begin - at), match = piece.substr(begin, end - begin);
        at = end;
        if (behavior == "MergedWithPrevious") {
          emit(gap + match);
        } else {
          emit(std::move(gap));
          if (behavior == "Isolated") emit(std::move(match));
          if (behavior == "MergedWithNext") carried = std::move(match);
        }
      }
      emit(piece.substr(at));
    }
    return out;
  };
}

PreTokenizer make_digits(bool individual) {
  return make_split(
      [individual](std::string_view text) {
        std::vector<std::pair<size_t, size_t>> found;
        for (size_t at = 0; at < text.size();) {
          const auto [code, bytes] = utf8_at(text, at);
          if (is_number(code)) {
            if (!individual && !found.empty() && found.back().second == at)
              found.back().second += bytes;
            else
              found.emplace_back(at, at + bytes);
          }
          at += bytes;
        }
        return found;
      },
      "Isolated", "");
}

PreTokenizer make_byte_level(const Json& description, const std::string& where) {
  PreTokenizer split;
  if (flag_member(description, "use_regex", true))
    split = make_split([regex = Regex(kSplitGpt2, where)](std::string_view t) { return regex.matches(t); }, "Isolated", where);
  return [split, prefix = flag_member(description, "add_prefix_space", true)](std::vector<std::string> pieces, bool at_start) {
    if (prefix)
      for (std::string& piece : pieces)
        if (!piece.empty() && piece[0] != ' ') piece.insert(0, 1, ' ');
    if (split) pieces = split(std::move(pieces), at_start);
    for (std::string& piece : pieces) piece = byte_level_text(piece);
    return pieces;
  };
}

std::string prepend_scheme(const Json& description) {
  if (description.contains("prepend_scheme") && description["prepend_scheme"].is_string())
    return description["prepend_scheme"].get<std::string>();
  return flag_member(description, "add_prefix_space", true) ? "always" : "never";
}

// Spaces become `replacement`, which also stands before the text; split = a piece per word.
PreTokenizer make_metaspace(const Json& description, const std::string& where) {
  const std::string mark = text_member(description, "replacement", where), scheme = prepend_scheme(description);
  if (scheme != "always" && scheme != "never" && scheme != "first") unknown_part("prepend_scheme", scheme, where);
  PreTokenizer split;
  if (flag_member(description, "split", true))
    split = make_split(make_pattern(Json{{"String", mark}}, where), "MergedWithNext", where);
  return [=](std::vector<std::string> pieces, bool at_start) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      pieces[i] = replace_all(pieces[i], " ", mark);
      const bool prefixed = scheme == "always" || (scheme == "first" && i == 0 && at_start);
      if (prefixed && pieces[i].compare(0, mark.size(), mark) != 0) pieces[i] = mark + pieces[i];
    }
    return split ? split(std::move(pieces), at_start) : pieces;
  };
}

template <class Part>
std::vector<Part> make_sequence(const Json& list, Part (*make)(const Json&, const std::string&), const std::string& where) {
  if (!list.is_array()) malformed("a Sequence without its list", where);
  std::vector<Part> parts;
  for (const Json& item : list) parts.push_back(make(item, where));
  return parts;
}

std::string decode_bytes(const std::vector<std::string>& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) {
    std::string mapped;
    for (size_t at = 0; at < token.size();) {
      const size_t length = utf8_at(token, at).bytes;
      const auto found = character_bytes().find(token.substr(at, length));
      if (found == character_bytes().end()) {
        mapped = token;  // not of this alphabet: an added token, taken as it is
        break;
      }
      mapped += found->second;
      at += length;
    }
    bytes += mapped;
  }
  return valid_utf8(bytes);
}

// Runs of <0xAB> tokens become their bytes, or a U+FFFD each when they are not UTF-8.
std::vector<std::string> decode_byte_fallback(const std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string run;
  const auto flush = [&] {
    if (run.empty()) return;
    if (is_valid_utf8(run))
      out.push_back(run);
    else
      for (size_t i = 0; i < run.size(); ++i) out.emplace_back("\xEF\xBF\xBD");
    run.clear();
  };
  for (const std::string& token : tokens) {
    char* end = nullptr;
    const bool shaped = token.size() == 6 && token.compare(0, 3, "<0x") == 0 && token[5] == '>';
    const long value = shaped ? std::strtol(token.c_str() + 3, &end, 16) : 0;
    if (shaped && end == token.c_str() + 5) {
      run += static_cast<char>(value);
    } else {
      flush();
      out.push_back(token);
    }
  }
  flush();
  return out;
}

std::vector<std::string> strip(std::vector<std::string> tokens, const std::string& content, std::int64_t start, std::int64_t stop) {
  for (std::string& token : tokens) {
    for (std::int64_t i = 0; i < start && !content.empty() && token.compare(0, content.size(), content) == 0; ++i)
      token.erase(0, content.size());
    for (std::int64_t i = 0; i < stop && !content.empty() && token.size() >= content.size() &&
                             token.compare(token.size() - content.size(), content.size(), content) == 0; ++i)
      token.erase(token.size() - content.size());
  }
  return tokens;
}

}  // namespace

std::string byte_level_text(std::string_view bytes) {
  std::string mapped;
  for (const char c : bytes) mapped += byte_characters()[static_cast<unsigned char>(c)];
  return mapped;
}

Normalizer make_normalizer(const Json& description, const std::string& where) {
  if (description.is_null()) return [](const std::string& text) { return text; };
  const std::string type = text_member(description, "type", where);
  if (type == "NFC" || type == "NFKC") return [compatible = type == "NFKC"](const std::string& text) { return nfc(text, compatible); };
  if (type == "Prepend")
    return [prefix = text_member(description, "prepend", where)](const std::string& text) { return text.empty() ? text : prefix + text; };
  if (type == "Replace") {
    return [find = make_pattern(member(description, "pattern", where), where),
            content = text_member(description, "content", where)](const std::string& text) {
      std::string out;
      size_t at = 0;
      for (const auto& [begin, end] : find(text)) {
        out.append(text, at, begin - at).append(content);
        at = end;
      }
      return out.append(text, at, std::string::npos);
    };
  }
  if (type == "Sequence") {
    return [parts = make_sequence<Normalizer>(member(description, "normalizers", where), make_normalizer, where)](std::string text) {
      for (const Normalizer& part : parts) text = part(text);
      return text;
    };
  }
  unknown_part("normalizer", type, where);
}

PreTokenizer make_pre_tokenizer(const Json& description, const std::string& where) {
  if (description.is_null()) return [](std::vector<std::string> pieces, bool) { return pieces; };
  const std::string type = text_member(description, "type", where);
  if (type == "ByteLevel") return make_byte_level(description, where);
  if (type == "Digits") return make_digits(flag_member(description, "individual_digits", false));
  if (type == "Metaspace") return make_metaspace(description, where);
  if (type == "Split") {
    if (flag_member(description, "invert", false)) unknown_part("Split option", "invert", where);
    return make_split(make_pattern(member(description, "pattern", where), where), text_member(description, "behavior", where), where);
  }
  if (type == "Sequence") {
    return [parts = make_sequence<PreTokenizer>(member(description, "pretokenizers", where), make_pre_tokenizer, where)](
               std::vector<std::string> pieces, bool at_start) {
      for (const PreTokenizer& part : parts) pieces = part(std::move(pieces), at_start);
      return pieces;
    };
  }
  unknown_part("pre-tokenizer", type, where);
}

Decoder make_decoder(const Json& description, const std::string& where) {
  if (description.is_null()) {
    return [](std::vector<std::string> tokens) {  // as tokenizers does: joined by spaces
      for (size_t i = 1; i < tokens.size(); ++i) tokens[i].insert(0, 1, ' ');
      return tokens;
    };
  }
  const std::string type = text_member(description, "type", where);
  if (type == "ByteLevel") return [](std::vector<std::string> tokens) { return std::vector<std::string>{decode_bytes(tokens)}; };
  if (type == "ByteFallback") return [](std::vector<std::string> tokens) { return decode_byte_fallback(tokens); };
  if (type == "Fuse") {
    return [](std::vector<std::string> tokens) {
      std::string all;
      for (const std::string& token : tokens) all += token;
      return std::vector<std::string>{all};
    };
  }
  if (type == "Replace") {
    const Json& pattern = member(description, "pattern", where);
    return [from = text_member(pattern, "String", where), to = text_member(description, "content", where)](std::vector<std::string> tokens) {
      for (std::string& token : tokens) token = replace_all(token, from, to);
      return tokens;
    };
  }
  if (type == "Strip") {
    const auto count = [&](const char* key) { return description.value(key, Json(0)).is_number_integer() ? description.value(key, 0) : 0; };
    return [content = text_member(description, "content", where), start = count("start"), stop = count("stop")](
               std::vector<std::string> tokens) { return strip(std::move(tokens), content, start, stop); };
  }
  if (type == "Metaspace") {
    return [mark = text_member(description, "replacement", where), scheme = prepend_scheme(description)](std::vector<std::string> tokens) {
      for (size_t i = 0; i < tokens.size(); ++i) {
        if (i == 0 && scheme != "never" && tokens[i].compare(0, mark.size(), mark) == 0) tokens[i].erase(0, mark.size());
        tokens[i] = replace_all(tokens[i], mark, " ");
      }
      return tokens;
    };
  }
  if (type == "Sequence") {
    return [parts = make_sequence<Decoder>(member(description, "decoders", where), make_decoder, where)](std::vector<std::string> tokens) {
      for (const Decoder& part : parts) tokens = part(std::move(tokens));
      return tokens;
    };
  }
  unknown_part("decoder", type, where);
}

}  // namespace miq::dataset
