// GLM-4-0414: as GLM-4, with norms also behind attention and MLP, before their sum with the residual.
#include "../families.h"

namespace miq::model {

Architecture family_glm4(const ConfigJson& config) {
  Architecture a = family_glm(config);
  a.names.attention_out_norm = "post_self_attn_layernorm";
  a.names.mlp_out_norm = "post_mlp_layernorm";
  return a;
}

}  // namespace miq::model
