// Qwen3 (dense): RMSNorm on each head's query and key before the rotation; head_dim stated.
#include "../families.h"

namespace miq::model {

Architecture family_qwen3(const ConfigJson& config) {
  Architecture a = family_qwen2(config);
  a.qkv_bias = a.o_bias = config.flag("attention_bias", false);
  a.qk_norm = true;
  if (!config.has("head_dim")) a.head_dim = 128;  // Qwen3Config's default, whatever hidden_size is
  return a;
}

}  // namespace miq::model
