// LLaMA 1, 2, 3, 3.1, 3.2 and what shares their config.json (SmolLM2, Yi, TinyLlama, ...).
#include "../families.h"

namespace miq::model {

Architecture family_llama(const ConfigJson& config) {
  Architecture a = read_common(config);
  a.qkv_bias = a.o_bias = config.flag("attention_bias", false);
  a.mlp_bias = config.flag("mlp_bias", false);
  return a;
}

}  // namespace miq::model
