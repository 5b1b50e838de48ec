// What tokenizer.ggml.pre means: llama.cpp's names for how a text is cut into words before a byte-level BPE.
// Source: llama.cpp llama-vocab.cpp (behaviour only).
#pragma once

#include <vector>

#include "split_patterns.h"

namespace miq::dataset {

struct GgufPreTokenizer {
  const char* names;                  ///< separated by spaces; the first is the one that is written
  std::vector<const char*> patterns;  ///< one after the other, each splitting what the former left
  bool nfc, adds_bos, ignore_merges;
};

inline const std::vector<GgufPreTokenizer>& gguf_pre_tokenizers() {
  static const std::vector<GgufPreTokenizer> table = {
      {"default", {R"([\p{P}\$\+<=>\^~\|]+)", kSplitGpt2, R"(\p{N}+)", R"([0-9][0-9][0-9])"}, false, false, false},
      {"gpt-2 gpt2 phi-2 mpt olmo jais", {kSplitGpt2}, false, false, false},
      {"smollm starcoder refact command-r codeshell exaone", {R"(\p{N})", kSplitGpt2}, false, false, false},
      {"llama-bpe llama3 llama-v3 falcon3", {kSplitLlama3}, false, true, true},
      {"chatglm-bpe glm4", {kSplitLlama3}, false, false, true},
      {"smaug-bpe dbrx", {kSplitLlama3}, false, false, false},
      {"qwen2 deepseek-r1-qwen", {kSplitQwen}, true, false, false},
      {"tekken", {kSplitTekken}, false, true, true},
  };
  return table;
}

}  // namespace miq::dataset
