// Qwen2 and Qwen2.5: biases on q, k, v; a window only in the upper layers, and only if it is asked for.
#include "../families.h"

namespace miq::model {

Architecture family_qwen2(const ConfigJson& config) {
  Architecture a = read_common(config);
  a.qkv_bias = true;
  if (config.flag("use_sliding_window", false) && config.has("sliding_window")) {
    const std::int64_t window = config.size("sliding_window");
    // max_window_layers counts the lower layers with full attention; 0 is a legal value.
    const auto& layers = config.json().value("max_window_layers", nlohmann::json(28));
    if (!layers.is_number_unsigned()) config.fail("max_window_layers", "must be a count of layers");
    for (std::int64_t l = 0; l < a.num_layers; ++l)
      a.sliding_window.push_back(static_cast<std::uint64_t>(l) >= layers.get<std::uint64_t>() ? window : 0);
  }
  return a;
}

}  // namespace miq::model
