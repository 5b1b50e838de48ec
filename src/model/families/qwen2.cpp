// Qwen2 and Qwen2.5: biases on q, k, v; a window only in the upper layers, and only if it is asked for.
#include "../families.h"

namespace miq::model {

Architecture family_qwen2(const ConfigJson& config) {
  Architecture a = read_common(config);
  a.qkv_bias = true;
  const bool null_window = config.states("sliding_window") && !config.has("sliding_window");
  if (config.flag("use_sliding_window", false) && !null_window) {
    // max_window_layers counts the lower layers with full attention; 0 is a legal value.
    const nlohmann::json layers = config.states("max_window_layers") ? config.raw("max_window_layers") : nlohmann::json(28);
    if (!layers.is_number_unsigned() || layers.get<std::uint64_t>() > INT32_MAX)
      config.fail("max_window_layers", "must be a count of layers, not " + layers.dump());
    a.sliding_window =
        layer_windows(config, a.num_layers, config.size("sliding_window", 4096), layers.get<std::int64_t>());
  }
  return a;
}

}  // namespace miq::model
