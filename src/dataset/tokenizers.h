// The kinds of tokenizers, for load_tokenizer.
#pragma once

#include <nlohmann/json.hpp>

#include "added_tokens.h"
#include "miq/dataset/tokenizer.h"
#include "tokenizer_parts.h"

namespace miq::dataset {

/// A BPE with what stands around it: added tokens -> normalizer -> pre-tokenizer -> BPE -> frame, and back.
struct BpePipeline {
  BpeModel bpe;
  Normalizer normalize;
  PreTokenizer pre_tokenize;
  Decoder decode;
  SpecialFrame frame;
  AddedTokens added;
  std::optional<std::int64_t> bos, eos;
};
std::unique_ptr<Tokenizer> make_pipeline_tokenizer(BpePipeline pipeline);

/// From a parsed tokenizer.json; `config`: tokenizer_config.json or an empty object.
std::unique_ptr<Tokenizer> make_json_tokenizer(const nlohmann::json& description, const nlohmann::json& config,
                                               const std::string& where);

/// From a sentencepiece model's bytes (`proto`), by the rules of a family: Hugging Face's LlamaTokenizer,
/// the authors' BaichuanTokenizer, and their ChatGLMTokenizer (`roles`: with ChatGLM3's role tokens).
std::unique_ptr<Tokenizer> make_llama_tokenizer(std::string proto, const nlohmann::json& config,
                                                const std::string& where);
std::unique_ptr<Tokenizer> make_baichuan_tokenizer(std::string proto, const nlohmann::json& config,
                                                   const std::string& where);
std::unique_ptr<Tokenizer> make_chatglm_tokenizer(std::string proto, const std::string& where, bool roles);

/// Whether `text` starts as a tiktoken file does: a token in base64, a space, its rank.
bool is_tiktoken(std::string_view text);
/// From a tiktoken file's text; the number of ranks tells the family (LLaMA-3, GLM-4, Qwen), whose pattern
/// and special tokens stand in a table. @throws Error{io} malformed, Error{unsupported} for another number.
std::unique_ptr<Tokenizer> make_tiktoken_tokenizer(const std::string& text, const std::string& where);

/// From a GGUF file's metadata: tokenizer.ggml.model "llama" (sentencepiece) or "gpt2" (byte-level BPE).
/// @throws Error{io} malformed, Error{unsupported} for another model or an unknown tokenizer.ggml.pre.
std::unique_ptr<Tokenizer> make_gguf_tokenizer(const nlohmann::json& metadata, const std::string& where);
/// The same tokenizer as files of a checkpoint, name -> content, with the metadata's chat template. @throws likewise.
std::map<std::string, std::string> describe_gguf_tokenizer(const nlohmann::json& metadata, const std::string& where);

/// GPT-2's older layout, vocab.json and merges.txt, told as a tokenizer.json.
nlohmann::json describe_vocab_and_merges(const std::filesystem::path& folder, const nlohmann::json& config);
/// A JSON file that may be absent: an empty object then. @throws Error{io} for anything but an object.
nlohmann::json read_optional_object(const std::filesystem::path& path);
/// The text of a checkpoint's chat template; "" when it has none.
std::string chat_template_text(const std::filesystem::path& folder);

/// A token's text in tokenizer_config.json: a string or an object with `content`; "" when absent.
std::string config_token(const nlohmann::json& config, const char* key);

}  // namespace miq::dataset
