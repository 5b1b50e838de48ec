// A recipe: ordered rules over layer names; the first rule that matches the whole name wins, the
// recipe's own settings hold for the rest.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "miq/quantizer/linear_problem.h"

namespace miq::quantizer {

/// What one linear gets: a point on the five axes.
struct LayerRecipe {
  std::string preset = "rtn";  ///< where the axes started from; for reports only
  bool keep_float = false;     ///< not quantized at all
  Grid grid;
  Range range;
  Rounding rounding;
};

struct Rule {
  std::string match;      ///< ECMAScript regex over the whole layer name
  LayerRecipe layer;
  std::string where;      ///< file:line:column, for errors
};

struct Recipe {
  std::vector<Rule> rules;
  LayerRecipe otherwise;  ///< layers that no rule matches
};

struct Choice {
  int rule;  ///< index in rules; -1: otherwise
  const LayerRecipe* layer;
};

/// The recipe of each layer. @throws Error{config} when a rule matches none of `layers`.
std::vector<Choice> choose(const Recipe& recipe, const std::vector<std::string>& layers);

/// The preset of that name ("rtn", "gptq"), from the preset table. @throws Error{config} with the
/// nearest name for an unknown one.
LayerRecipe preset(const std::string& name);
std::vector<std::string> preset_names();

/// A row of the preset table.
struct PresetInfo {
  std::string name;
  RangeKind range;
  std::string rounding, paper, summary;
};
const std::vector<PresetInfo>& presets();

/// Why this layer cannot be quantized so, or nullopt. Called for every layer before a weight is read.
std::optional<std::string> why_not(const LayerRecipe& layer, std::int64_t out_features, std::int64_t in_features);

}  // namespace miq::quantizer
