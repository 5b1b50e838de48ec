// What the fuzz targets share: bytes go in, and only a clear error of the file or a result may come out.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string_view>

#include "miq/core/error.h"
#include "miq/core/mapped_file.h"

namespace miq::fuzz {

/// Runs `use` on the input. Error{io, unsupported, config} are answers; anything else thrown ends the process.
template <class Use>
int answer(const std::uint8_t* data, std::size_t size, Use use) {
  try {
    use(std::string_view(reinterpret_cast<const char*>(data), size));
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::internal || error.kind() == ErrorKind::numeric) {
      std::cerr << error.what() << '\n';
      std::abort();
    }
  }
  return 0;
}

/// Reads a tensor's every byte, up to a MiB of them.
inline void touch(const at::Tensor& tensor) {
  const auto* const bytes = static_cast<const unsigned char*>(tensor.const_data_ptr());
  const std::size_t size = std::min<std::size_t>(tensor.is_contiguous() ? tensor.nbytes() : 0, 1 << 20);
  volatile unsigned char sum = 0;
  for (std::size_t i = 0; i < size; ++i) sum = static_cast<unsigned char>(sum + bytes[i]);
}

/// Opens the input as `File` and reads its first hundred tensors.
template <class File>
void read_all(std::string_view input) {
  const File file = File::open(MappedFile::copy(input, "fuzzed"));
  int left = 100;
  for (const auto& [name, spec] : file.specs()) {
    if (left-- == 0) break;
    touch(file.tensor(name));
  }
}

}  // namespace miq::fuzz
