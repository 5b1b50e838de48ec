#include "miq/quantizer/recipe.h"

#include <cmath>
#include <regex>

#include "miq/core/error.h"

namespace miq::quantizer {
namespace {

std::regex compile(const Rule& rule) {
  try {
    return std::regex(rule.match, std::regex::ECMAScript | std::regex::optimize);
  } catch (const std::regex_error& error) {
    throw Error(ErrorKind::config, "'" + rule.match + "' is not a regular expression: " + error.what(), rule.where,
                "dots in layer names are written \\.");
  }
}

}  // namespace

std::vector<Choice> choose(const Recipe& recipe, const std::vector<std::string>& layers) {
  std::vector<Choice> choices(layers.size(), Choice{-1, &recipe.otherwise});
  for (size_t r = 0; r < recipe.rules.size(); ++r) {
    const Rule& rule = recipe.rules[r];
    const std::regex pattern = compile(rule);
    bool matched = false;
    for (size_t i = 0; i < layers.size(); ++i) {
      if (!std::regex_match(layers[i], pattern)) continue;
      matched = true;
      if (choices[i].rule < 0) choices[i] = {static_cast<int>(r), &rule.layer};
    }
    if (matched) continue;
    std::string plain = rule.match;  // as a name, to look for what was meant
    plain.erase(std::remove(plain.begin(), plain.end(), '\\'), plain.end());
    const std::string nearest = nearest_name(plain, layers);
    throw Error(ErrorKind::config, "the rule matches no layer: '" + rule.match + "'", rule.where,
                "a rule must match the whole name of a layer, such as " +
                    (!nearest.empty() ? nearest : layers.empty() ? std::string("(none)") : layers.front()));
  }
  return choices;
}

const std::vector<PresetInfo>& presets() {
  static const std::vector<PresetInfo> table = {
#define MIQ_PRESET(name, range, rounding, paper, summary) {#name, RangeKind::range, #rounding, paper, summary},
#include "presets.def"
#undef MIQ_PRESET
  };
  return table;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const PresetInfo& info : presets()) names.push_back(info.name);
  return names;
}

LayerRecipe preset(const std::string& name) {
  for (const PresetInfo& info : presets()) {
    if (info.name != name) continue;
    LayerRecipe layer;
    layer.preset = name;
    layer.range.kind = info.range;
    layer.rounding.kind = info.rounding;
    return layer;
  }
  std::string known;
  for (const std::string& candidate : preset_names()) known += (known.empty() ? "" : ", ") + candidate;
  const std::string nearest = nearest_name(name, preset_names());
  throw Error(ErrorKind::config, "unknown preset '" + name + "'", "",
              (nearest.empty() ? "" : "did you mean " + nearest + "? ") + ("known: " + known));
}

std::optional<std::string> why_not(const LayerRecipe& layer, std::int64_t out_features, std::int64_t in_features) {
  if (layer.keep_float) return std::nullopt;
  if (out_features < 1 || in_features < 1) return std::string("the weight is empty");
  const Grid& grid = layer.grid;
  const Rounding& rounding = layer.rounding;
  const std::vector<std::string> known = rounding_names();
  if (std::find(known.begin(), known.end(), rounding.kind) == known.end())
    return "there is no rounding '" + rounding.kind + "'";
  if (grid.bits < 2 || grid.bits > 8) return "bits must lie in 2 .. 8, not " + std::to_string(grid.bits);
  if (grid.granularity == Granularity::group && grid.group_size < 1) return std::string("group_size must be positive");
  if (rounding.block_size < 1) return std::string("block_size must be positive");
  if (!(rounding.percdamp >= 0) || !std::isfinite(rounding.percdamp)) return std::string("percdamp must not be negative");
  // Each step of the ladder is a Cholesky factorisation.
  if (rounding.damp_auto_increment != 0 && !(rounding.damp_auto_increment >= 1e-3))
    return std::string("damp_auto_increment must be 0 or at least 0.001");
  if (layer.range.kind == RangeKind::mse &&
      (grid.convention == GridConvention::awq || grid.convention == GridConvention::ct))
    return std::string("range mse is defined for the miq and ist grid conventions");
  return std::nullopt;
}

}  // namespace miq::quantizer
