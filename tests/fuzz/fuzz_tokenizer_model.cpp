// A tokenizer.model: tiktoken's ranks, or a sentencepiece model by the rules that the first byte picks.
#include "fuzz_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return miq::fuzz::answer(data, size, [](std::string_view input) {
    if (input.empty()) return;
    const std::string content(input.substr(1));
    const nlohmann::json config = nlohmann::json::object();
    miq::fuzz::try_tokenizer([&]() -> std::unique_ptr<miq::dataset::Tokenizer> {
      if (miq::dataset::is_tiktoken(content)) return miq::dataset::make_tiktoken_tokenizer(content, "fuzzed");
      switch (input[0] & 3) {
        case 0: return miq::dataset::make_llama_tokenizer(content, config, "fuzzed");
        case 1: return miq::dataset::make_baichuan_tokenizer(content, config, "fuzzed");
        default: return miq::dataset::make_chatglm_tokenizer(content, "fuzzed", (input[0] & 1) != 0);
      }
    });
  });
}
