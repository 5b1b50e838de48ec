// A tokenizer.json, and a short text there and back.
#include "../../src/dataset/tokenizers.h"
#include "fuzz.h"
#include "miq/core/text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return miq::fuzz::answer(data, size, [](std::string_view input) {
    const nlohmann::json description = miq::parse_json(std::string(input), "fuzzed");
    std::unique_ptr<miq::dataset::Tokenizer> tokenizer;
    try {
      tokenizer = miq::dataset::make_json_tokenizer(description, nlohmann::json::object(), "fuzzed");
    } catch (const nlohmann::json::exception& error) {  // load_tokenizer() says it so
      throw miq::Error(miq::ErrorKind::io, error.what());
    }
    for (const char* text : {"Hello w\xc3\xb6rld,  123\n\tit's <s> \xe2\x96\x81x", "\xff\xc3", ""}) {
      std::vector<std::int64_t> ids = tokenizer->encode(text, true);
      ids.push_back(tokenizer->vocab_size());
      ids.push_back(-1);
      tokenizer->decode(ids, true);
      tokenizer->decode(ids, false);
    }
  });
}
