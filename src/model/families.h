// The families' entry points and what their files share.
#pragma once

#include "config_json.h"
#include "miq/model/architecture.h"

namespace miq::model {

/// What all LLaMA-like families state alike: sizes, norm, rope, head, token ids. Features that would
/// change the function and that the decoder lacks are refused by name.
Architecture read_common(const ConfigJson& config);

/// Each layer's window: `window` from layer `full_layers` on, or as `layer_types` says where it is given.
std::vector<std::int64_t> layer_windows(const ConfigJson& config, std::int64_t num_layers, std::int64_t window,
                                        std::int64_t full_layers = 0);

#define MIQ_FAMILY(name) Architecture family_##name(const ConfigJson& config);
#include "families.def"
#undef MIQ_FAMILY

}  // namespace miq::model
