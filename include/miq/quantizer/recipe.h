// A recipe: ordered rules over layer names; the first rule that matches the whole name wins, the
// recipe's own settings hold for the rest.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "miq/quantizer/transform.h"

namespace miq::quantizer {

/// What one linear gets: a point on the five axes.
struct LayerRecipe {
  std::string preset = "rtn";  ///< where the axes started from, "awq+gptq" for a list; for reports only
  bool keep_float = false;     ///< not quantized at all
  Transform transform;
  Range range;
  Rounding rounding;
  Grid grid;
  Activation activation;
};

struct Rule {
  std::string match;      ///< ECMAScript regex over the whole layer name
  LayerRecipe layer;
  std::string where;      ///< file:line:column, for errors
};

/// Bits by layer under a budget: the sum of the layers' Hessian-weighted errors is made least.
struct Allocation {
  double bits = 0;                 ///< average bits of a code over the linears; 0: no allocation
  std::string choices = "2,3,4,8";
  bool relative = true;            ///< each layer's error relative to tr(W H W^T), its output's energy
};

/// ZeroQuant's layer-by-layer distillation (arXiv 2206.01861 section 4.2).
struct Distillation {
  int steps = 0;                   ///< of Adam for each block; 0: none
  double learning_rate = 1e-5;
  int batch = 1;                   ///< samples of a step
};

struct Recipe {
  std::vector<Rule> rules;
  LayerRecipe otherwise;  ///< layers that no rule matches
  Allocation allocation;
  Distillation distillation;
};

struct Choice {
  int rule;  ///< index in rules; -1: otherwise
  const LayerRecipe* layer;
};

/// The recipe of each layer. @throws Error{config} when a rule matches none of `layers`.
std::vector<Choice> choose(const Recipe& recipe, const std::vector<std::string>& layers);

/// A row of the preset table: `apply` sets the axes that the method is about and leaves the others.
struct PresetInfo {
  std::string name, paper, summary;
  std::vector<std::string> axes;  ///< those it sets: transform, range, rounding, grid, activation
  void (*apply)(LayerRecipe&);
};
const std::vector<PresetInfo>& presets();
std::vector<std::string> preset_names();

/// One preset or several together: transforms first, then the others in their order, over rtn.
/// @throws Error{config} with the nearest name for an unknown one, and for two that both own an axis
/// (two transforms, two roundings).
LayerRecipe preset(const std::vector<std::string>& names);
inline LayerRecipe preset(const std::string& name) { return preset(std::vector<std::string>{name}); }

void visit_fields(FieldVisitor& visitor, Allocation& allocation);
void visit_fields(FieldVisitor& visitor, Distillation& distillation);

/// The choice on each axis in one line: "awq, awq_clip, nearest, int4 g128".
std::string composition(const LayerRecipe& layer);

/// Whether the result's groups will not be runs of columns (QuantizedLinear::group_of_column).
bool makes_group_of_column(const LayerRecipe& layer);

/// Which statistics of its input the layer reads.
StatisticsNeeds statistics_needs(const LayerRecipe& layer);

/// Why this layer cannot be quantized so, or nullopt. Called for every layer before a weight is read.
std::optional<std::string> why_not(const LayerRecipe& layer, std::int64_t out_features, std::int64_t in_features);

}  // namespace miq::quantizer
