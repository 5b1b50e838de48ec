// Archives, the kind before PyTorch 1.6, and bare pickles, which are put into an archive.
#include "../core/archives.h"
#include "fuzz.h"
#include "miq/core/torch_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const bool bare = size > 2 && data[0] == 0x80 && data[1] == 4;  // no older file has protocol 4
  return miq::fuzz::answer(data, size, [&](std::string_view input) {
    if (!bare) return miq::fuzz::read_all<miq::TorchFile>(input);
    miq::fuzz::read_all<miq::TorchFile>(
        miq::test::make_torch_file(std::string(input), std::vector<std::string>(6, std::string(64, '\1'))));
  });
}
