// A tokenizer.json.
#include "fuzz_tokenizer.h"
#include "miq/core/text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return miq::fuzz::answer(data, size, [](std::string_view input) {
    const nlohmann::json description = miq::parse_json(std::string(input), "fuzzed");
    miq::fuzz::try_tokenizer(
        [&] { return miq::dataset::make_json_tokenizer(description, nlohmann::json::object(), "fuzzed"); });
  });
}
