// Digests of data, for telling whether it is still what was written.
#pragma once

#include <string>
#include <string_view>

namespace miq {

/// SHA-256 (FIPS 180-4), lower-case hexadecimal.
std::string sha256(std::string_view data);

}  // namespace miq
