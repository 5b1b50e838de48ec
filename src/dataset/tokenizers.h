// The kinds of tokenizers, for load_tokenizer.
#pragma once

#include <nlohmann/json.hpp>

#include "miq/dataset/tokenizer.h"

namespace miq::dataset {

/// From a parsed tokenizer.json; `config`: tokenizer_config.json or an empty object.
std::unique_ptr<Tokenizer> make_json_tokenizer(const nlohmann::json& description, const nlohmann::json& config, const std::string& where);

/// From a sentencepiece model file, as Hugging Face's LlamaTokenizer uses it.
std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::filesystem::path& model, const nlohmann::json& config);

/// A token's text in tokenizer_config.json: a string or an object with `content`; "" when absent.
std::string config_token(const nlohmann::json& config, const char* key);

}  // namespace miq::dataset
