// Qwen3 with a mixture of experts in all or some of its layers.
#include "../families.h"

namespace miq::model {

Architecture family_qwen3_moe(const ConfigJson& config) {
  Architecture a = family_qwen3(config);
  a.experts = read_experts(config, config.has("num_experts") ? "num_experts" : "num_local_experts", config.size("moe_intermediate_size"));
  a.experts.normalise = config.flag("norm_topk_prob", false);
  const std::int64_t step = config.size("decoder_sparse_step", 1);
  for (std::int64_t l = 0; l < a.num_layers; ++l) a.experts.sparse_layer.push_back((l + 1) % step == 0);
  if (!config.has("mlp_only_layers")) return a;
  const nlohmann::json& dense = config.raw("mlp_only_layers");
  if (!dense.is_array()) config.fail("mlp_only_layers", "must be a list of layers, not " + dense.dump());
  for (const auto& layer : dense) {
    if (!layer.is_number_integer() || layer.get<std::int64_t>() < 0 || layer.get<std::int64_t>() >= a.num_layers)
      config.fail("mlp_only_layers", "names " + layer.dump() + ", which is not a layer");
    a.experts.sparse_layer[layer.get<size_t>()] = false;
  }
  return a;
}

}  // namespace miq::model
