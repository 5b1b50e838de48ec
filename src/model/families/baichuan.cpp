// Baichuan 1 and 2. The 7B models rotate, the 13B ones have ALiBi; the second generation normalises the
// rows of its head (NormHead). Nothing in config.json says so outright: the rules below fit all
// published files. Source: baichuan-inc's modeling_baichuan.py of each model.
#include "../families.h"

namespace miq::model {

Architecture family_baichuan(const ConfigJson& config) {
  const bool seven_b = config.first_text("architectures") == "BaiChuanForCausalLM" || config.has("max_position_embeddings");
  Architecture a = read_common(seven_b ? config : config.with_keys({{"max_position_embeddings", "model_max_length"}}));
  a.names.qkv = "self_attn.W_pack";
  if (!seven_b) a.positions = Positions::alibi;
  constexpr std::int64_t kBaichuan2Vocab = 125696;
  // norm_head is our own key: an export whose head cannot be normalised any more says so.
  a.normalised_head = config.flag("norm_head", a.vocab_size == kBaichuan2Vocab ||
                                                   config.text("tokenizer_class", "") == "BaichuanTokenizer");
  return a;
}

}  // namespace miq::model
