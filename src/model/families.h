// The families' entry points and what their files share.
#pragma once

#include "config_json.h"
#include "miq/model/architecture.h"

namespace miq::model {

/// What all LLaMA-like families state alike: sizes, norm, rope, head, token ids. Features that would
/// change the function and that the decoder lacks are refused by name. `partial_rotary`: the family's own
/// share of a head's dimensions that are rotated; where it is 1, a config.json that says otherwise is refused.
Architecture read_common(const ConfigJson& config, double partial_rotary = 1);

/// Each layer's window: `window` from layer `full_layers` on, or as `layer_types` says where it is given.
std::vector<std::int64_t> layer_windows(const ConfigJson& config, std::int64_t num_layers, std::int64_t window,
                                        std::int64_t full_layers = 0);

/// Sizes of a mixture of experts: `count_key` experts of `intermediate_size`, num_experts_per_tok for a token.
Experts read_experts(const ConfigJson& config, const std::string& count_key, std::int64_t intermediate_size);

#define MIQ_FAMILY(name) Architecture family_##name(const ConfigJson& config);
#include "families.def"
#undef MIQ_FAMILY

}  // namespace miq::model
