// GLM-4 9B in transformers' layout: separate q, k, v, fused gate,up, rotation as in ChatGLM.
#include "../families.h"

namespace miq::model {

Architecture family_glm(const ConfigJson& config) {
  Architecture a = read_common(config, 0.5);
  a.rope.interleaved = true;
  a.qkv_bias = config.flag("attention_bias", false);
  a.names.gate_up = "mlp.gate_up_proj";
  return a;
}

}  // namespace miq::model
