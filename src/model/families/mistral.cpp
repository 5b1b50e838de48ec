// Mistral 7B v0.1 (a sliding window in every layer), v0.2, v0.3 and Nemo (explicit head_dim).
#include "../families.h"

namespace miq::model {

Architecture family_mistral(const ConfigJson& config) {
  Architecture a = read_common(config);
  // null: no window; no such key: MistralConfig's default.
  const bool stated = config.states("sliding_window");
  if (!stated || config.has("sliding_window"))
    a.sliding_window = layer_windows(config, a.num_layers, config.size("sliding_window", 4096));
  return a;
}

}  // namespace miq::model
