// Mistral 7B v0.1 (a sliding window in every layer), v0.2, v0.3 and Nemo (explicit head_dim).
#include "../families.h"

namespace miq::model {

Architecture family_mistral(const ConfigJson& config) {
  Architecture a = read_common(config);
  if (config.has("sliding_window"))
    a.sliding_window.assign(static_cast<size_t>(a.num_layers), config.size("sliding_window"));
  return a;
}

}  // namespace miq::model
