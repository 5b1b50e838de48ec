// What running a block takes beside its weights.
#pragma once

#include "miq/model/architecture.h"

namespace miq::model {

/// Width of what the MLP holds of one token: of the experts that it goes through together, where there are some.
std::int64_t mlp_width(const Architecture& architecture);

/// Bytes that one token's activations take, in float32, while a block is run over it.
std::int64_t activation_bytes_per_token(const Architecture& architecture);

}  // namespace miq::model
