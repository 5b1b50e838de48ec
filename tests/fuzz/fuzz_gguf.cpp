// A GGUF file, its tensors and its tokenizer.
#include "fuzz_tokenizer.h"
#include "miq/core/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return miq::fuzz::answer(data, size, [](std::string_view input) {
    const miq::GgufFile file = miq::GgufFile::open(miq::MappedFile::copy(input, "fuzzed"));
    int left = 100;
    for (const auto& [name, info] : file.tensors()) {
      if (left-- == 0) break;
      if (info.shape.size() > 1 && info.shape[0] > 1) miq::fuzz::touch(file.rows(name, 1, 1));
      miq::fuzz::touch(file.tensor(name));
    }
    miq::fuzz::try_tokenizer([&] { return miq::dataset::make_gguf_tokenizer(file.metadata(), "fuzzed"); });
  });
}
