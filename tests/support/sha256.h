// SHA-256, for comparing long lists of ids with a recorded digest.
#pragma once

#include <string>
#include <string_view>

namespace miq::test {

/// FIPS 180-4; lower-case hexadecimal.
std::string sha256(std::string_view data);

}  // namespace miq::test
