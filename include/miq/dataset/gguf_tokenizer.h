// A checkpoint's tokenizer as keys of a GGUF file. Source: llama.cpp convert_hf_to_gguf.py, gguf-py's vocab.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "miq/core/gguf_writer.h"

namespace miq::dataset {

struct GgufTokenizerKeys {
  GgufMetadata metadata;
  std::vector<std::string> warnings;  ///< where llama.cpp will tokenize otherwise
};

/// The tokenizer.* keys of the tokenizer in `folder` (or of a .gguf file, whose own are taken): sentencepiece, also as a
/// tokenizer.json with byte fallback ("llama"), or byte-level BPE ("gpt2"); ids up to `vocab_size` (the embedding's rows) are filled up.
/// @throws what load_tokenizer throws; Error{unsupported} for another kind, or more tokens than `vocab_size`.
GgufTokenizerKeys gguf_tokenizer_keys(const std::filesystem::path& folder, std::int64_t vocab_size);

}  // namespace miq::dataset
