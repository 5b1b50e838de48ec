// Mixtral: Mistral with a mixture of experts in every layer.
#include "../families.h"

namespace miq::model {

Architecture family_mixtral(const ConfigJson& config) {
  Architecture a = read_common(config);
  if (config.has("sliding_window")) a.sliding_window = layer_windows(config, a.num_layers, config.size("sliding_window"));
  a.experts = read_experts(config, "num_local_experts", a.intermediate_size);
  a.names.router = "block_sparse_moe.gate";
  a.names.expert = "block_sparse_moe.experts.";
  a.names.expert_gate = "w1";
  a.names.expert_up = "w3";
  a.names.expert_down = "w2";
  return a;
}

}  // namespace miq::model
