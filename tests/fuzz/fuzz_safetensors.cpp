#include "fuzz.h"
#include "miq/core/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return miq::fuzz::answer(data, size, miq::fuzz::read_all<miq::SafetensorsFile>);
}
