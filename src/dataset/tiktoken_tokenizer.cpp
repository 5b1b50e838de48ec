// tiktoken's files: lines of a token in base64 and its rank, which is its id; merges go by the rank of what
// they make. Pattern and special tokens stand in the code of the families: meta-llama/llama-models
// (tokenizer.py), THUDM's tokenization_chatglm.py of glm-4-9b, Qwen's tokenization_qwen.py (behaviour only).
#include <array>

#include "miq/core/error.h"
#include "split_patterns.h"
#include "tokenizers.h"
#include "utf8.h"

namespace miq::dataset {
namespace {

constexpr size_t kMaxTokenBytes = 4096, kMaxRanks = size_t{1} << 24;

struct Family {
  const char* name;
  size_t ranks;
  const char* pattern;
  bool nfc = false;
  size_t count;                       // special tokens, behind the ranks
  std::vector<std::string> specials;  // their names in order; what is "" or missing has a number in its name, from 0
  std::string numbered_before = "", numbered_after = "";
  std::vector<std::string> before = {};  // put in front of a text
  std::string bos = "", eos;
};

const std::vector<Family>& families() {
  static const std::vector<Family> table = {
      {.name = "LLaMA-3", .ranks = 128000, .pattern = kSplitLlama3, .count = 256,
       .specials = {"<|begin_of_text|>", "<|end_of_text|>", "", "", "", "", "<|start_header_id|>", "<|end_header_id|>",
                    "", "<|eot_id|>"},
       .numbered_before = "<|reserved_special_token_", .numbered_after = "|>",
       .before = {"<|begin_of_text|>"}, .bos = "<|begin_of_text|>", .eos = "<|end_of_text|>"},
      {.name = "GLM-4", .ranks = 151329, .pattern = kSplitLlama3, .count = 14,
       .specials = {"<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
                    "<|assistant|>", "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>",
                    "<|begin_of_video|>", "<|end_of_video|>"},
       .before = {"[gMASK]", "<sop>"}, .eos = "<|endoftext|>"},
      {.name = "Qwen", .ranks = 151643, .pattern = kSplitQwen, .nfc = true, .count = 208,
       .specials = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"},
       .numbered_before = "<|extra_", .numbered_after = "|>", .eos = "<|endoftext|>"},
  };
  return table;
}

int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

// Nothing when it is not base64, or empty.
std::optional<std::string> decode_base64(std::string_view text) {
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  std::string bytes;
  std::uint32_t held = 0;
  int bits = 0;
  for (const char c : text) {
    const int value = base64_value(c);
    if (value < 0) return std::nullopt;
    held = held << 6 | static_cast<std::uint32_t>(value);
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes += static_cast<char>(held >> bits);
    held &= (1u << bits) - 1;
  }
  if (bytes.empty() || bits == 6) return std::nullopt;
  return bytes;
}

struct Ranked {
  std::string token;
  size_t rank;
};

std::optional<Ranked> parse_line(std::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space > 2 * kMaxTokenBytes) return std::nullopt;
  const std::string_view number = line.substr(space + 1);
  if (number.empty() || number.size() > 8 || number.find_first_not_of("0123456789") != std::string_view::npos)
    return std::nullopt;
  const auto token = decode_base64(line.substr(0, space));
  if (!token || token->size() > kMaxTokenBytes) return std::nullopt;
  return Ranked{*token, std::stoul(std::string(number))};
}

// Every way to make a token of two others is a merge of its rank.
void add_merges(BpeModel& bpe) {
  for (size_t id = 0; id < bpe.pieces.size(); ++id) {
    const std::string& piece = bpe.pieces[id];
    for (size_t cut = 0; cut < piece.size();) {
      cut += utf8_at(piece, cut).bytes;
      if (cut == piece.size()) break;
      const auto left = bpe.vocab.find(piece.substr(0, cut)), right = bpe.vocab.find(piece.substr(cut));
      if (left == bpe.vocab.end() || right == bpe.vocab.end()) continue;
      bpe.merges.emplace(static_cast<std::uint64_t>(static_cast<std::uint32_t>(left->second)) << 32 |
                             static_cast<std::uint32_t>(right->second),
                         BpeModel::Merge{static_cast<std::int32_t>(id), static_cast<std::int32_t>(id)});
    }
  }
}

BpeModel read_ranks(const std::string& text, const std::string& where) {
  BpeModel bpe;
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = std::string_view(text).substr(at, end - at);
    at = end + 1;
    ++number;
    if (line.empty() || line == "\r") continue;
    const auto ranked = parse_line(line);
    if (!ranked) malformed("line " + std::to_string(number) + " is not a token in base64 and its rank", where);
    if (ranked->rank >= kMaxRanks)
      malformed("line " + std::to_string(number) + " has rank " + std::to_string(ranked->rank), where);
    std::string piece = byte_level_text(ranked->token);
    if (ranked->rank >= bpe.pieces.size()) bpe.pieces.resize(ranked->rank + 1);
    if (!bpe.pieces[ranked->rank].empty()) malformed("rank " + std::to_string(ranked->rank) + " comes twice", where);
    if (!bpe.vocab.emplace(piece, static_cast<std::int32_t>(ranked->rank)).second)
      malformed("the token of line " + std::to_string(number) + " comes twice", where);
    bpe.pieces[ranked->rank] = std::move(piece);
  }
  if (bpe.vocab.size() != bpe.pieces.size()) malformed("the ranks have gaps", where);
  for (int byte = 0; byte < 256; ++byte)
    if (!bpe.vocab.count(byte_level_text(std::string(1, static_cast<char>(byte)))))
      malformed("byte " + std::to_string(byte) + " has no rank", where);
  bpe.ignore_merges = true;  // a word that is a token is taken whole
  add_merges(bpe);
  return bpe;
}

const Family& family_of(size_t ranks, const std::string& where) {
  std::string known;
  for (const Family& family : families()) {
    if (family.ranks == ranks) return family;
    known += (known.empty() ? "" : ", ") + std::string(family.name) + " " + std::to_string(family.ranks);
  }
  throw Error(ErrorKind::unsupported, "a tiktoken file of " + std::to_string(ranks) + " ranks is of no known family",
              where, "known: " + known);
}

}  // namespace

bool is_tiktoken(std::string_view text) { return parse_line(text.substr(0, text.find('\n'))).has_value(); }

std::unique_ptr<Tokenizer> make_tiktoken_tokenizer(const std::string& text, const std::string& where) {
  using Json = nlohmann::json;
  BpePipeline pipeline;
  pipeline.bpe = read_ranks(text, where);
  const Family& family = family_of(pipeline.bpe.pieces.size(), where);
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", family.pattern}}}, {"behavior", "Isolated"}};
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  pipeline.normalize = make_normalizer(family.nfc ? Json{{"type", "NFC"}} : Json(), where);
  pipeline.pre_tokenize = make_pre_tokenizer({{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}, where);
  pipeline.decode = make_decoder(bytes, where);
  size_t unnamed = 0;
  for (size_t i = 0; i < family.count; ++i) {
    const bool named = i < family.specials.size() && !family.specials[i].empty();
    const std::string name =
        named ? family.specials[i] : family.numbered_before + std::to_string(unnamed++) + family.numbered_after;
    pipeline.added.add({name, static_cast<std::int64_t>(family.ranks + i)});
  }
  const auto id_of = [&](const std::string& name) { return pipeline.added.by_content(name)->id; };
  for (const std::string& name : family.before) pipeline.frame.before.push_back(id_of(name));
  if (!family.bos.empty()) pipeline.bos = id_of(family.bos);
  pipeline.eos = id_of(family.eos);
  return make_pipeline_tokenizer(std::move(pipeline));
}

}  // namespace miq::dataset
