// What the tokenizers' targets share.
#pragma once

#include <nlohmann/json.hpp>

#include "../../src/dataset/tokenizers.h"
#include "fuzz.h"

namespace miq::fuzz {

/// Makes a tokenizer, as load_tokenizer() does, and takes a short text there and back.
template <class Make>
void try_tokenizer(Make make) {
  std::unique_ptr<dataset::Tokenizer> tokenizer;
  try {
    tokenizer = make();
  } catch (const nlohmann::json::exception& error) {  // load_tokenizer() makes such an error of it
    throw Error(ErrorKind::io, error.what());
  }
  for (const char* text : {"Hello w\xc3\xb6rld,  123\n\tit's <s> \xe2\x96\x81x", "\xff\xc3", ""}) {
    std::vector<std::int64_t> ids = tokenizer->encode(text, true);
    ids.push_back(tokenizer->vocab_size());
    ids.push_back(-1);
    tokenizer->decode(ids, true);
    tokenizer->decode(ids, false);
  }
}

}  // namespace miq::fuzz
