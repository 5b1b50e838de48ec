// Text to token ids and back, from the tokenizer files of a checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace miq::dataset {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  /// UTF-8 text to ids. `special`: with the BOS/EOS this tokenizer adds by default. Literals of
  /// special tokens in the text become those tokens, as Hugging Face's tokenizers do.
  virtual std::vector<std::int64_t> encode(std::string_view text, bool special) const = 0;
  /// Ids to text; bytes that are not UTF-8 become U+FFFD. Ids outside the vocabulary are skipped.
  virtual std::string decode(const std::vector<std::int64_t>& ids, bool skip_special) const = 0;
  virtual std::int64_t vocab_size() const = 0;
  virtual std::optional<std::int64_t> bos_id() const = 0;
  virtual std::optional<std::int64_t> eos_id() const = 0;
  /// The id of a special token by its text, also where encode() takes such a text for ordinary.
  virtual std::optional<std::int64_t> special_id(std::string_view /*token*/) const { return std::nullopt; }
};

/// Chooses by the files in `folder`: tokenizer.json (byte-level BPE or sentencepiece-style BPE),
/// tokenizer.model (sentencepiece with the rules of LLaMA, Baichuan or ChatGLM, or tiktoken's ranks),
/// qwen.tiktoken, vocab.json + merges.txt; tokenizer_config.json and config.json tell the family and BOS rules.
/// A GGUF file, or a folder with one and no such files, carries its own (sentencepiece or byte-level BPE).
/// @throws Error{io} none or malformed, Error{unsupported} for a component it does not know, by name.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder);

/// Where load_tokenizer reads the tokenizer of `path` from a GGUF file's metadata: the files (name -> content) that hold
/// the same one beside a Hugging Face checkpoint, tokenizer.model or tokenizer.json, and tokenizer_config.json with the
/// chat template. Else, and where the metadata have no tokenizer, none. @throws as load_tokenizer.
std::map<std::string, std::string> gguf_tokenizer_files(const std::filesystem::path& path);

}  // namespace miq::dataset
