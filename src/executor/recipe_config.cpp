// A recipe from YAML: preset defaults, under the recipe's own keys, under a rule's keys.
#include "recipe_config.h"

#include "miq/core/error.h"

namespace miq::executor {
namespace {

using quantizer::Granularity;
using quantizer::Grid;
using quantizer::LayerRecipe;

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// Presets of the plan that are not built yet, so that a wish for them is "not here", not "a typo".
const std::vector<std::string> kLaterPresets = {"awq", "spqr", "smoothquant", "zeroquant", "quip", "fp8", "hqq"};

LayerRecipe read_preset(ConfigReader& reader, const std::string& fallback) {
  const std::vector<std::string> names = reader.texts("preset");
  const std::string wanted = names.empty() ? fallback : names.front();
  for (const std::string& name : names)
    if (std::find(kLaterPresets.begin(), kLaterPresets.end(), name) != kLaterPresets.end())
      throw Error(ErrorKind::unsupported, "the preset '" + name + "' is not in this version", reader.where("preset"),
                  "built so far: " + join(quantizer::preset_names()));
  if (names.size() > 1)
    throw Error(ErrorKind::unsupported, "combinations of presets (" + join(names) + ") are not in this version", reader.where("preset"),
                "name one of: " + join(quantizer::preset_names()));
  try {
    return quantizer::preset(wanted);
  } catch (const Error& error) {
    throw Error(error.kind(), error.message(), reader.where("preset"), error.fix());
  }
}

// One mapping of grid keys over `grid`.
void overlay_grid(ConfigReader& reader, Grid& grid) {
  auto keys = reader.child("grid");
  if (!keys) return;
  const bool states_granularity = keys->has("granularity"), states_group = keys->has("group_size");
  const Granularity before = grid.granularity;
  if (states_group && !states_granularity) grid.granularity = Granularity::group;
  visit_fields(*keys, grid);
  keys->finish();
  if (grid.granularity != Granularity::group && states_group)
    keys->fail("group_size", "has no meaning without groups", "leave it out, or set granularity: group");
  if (grid.granularity != before && !states_group) grid.group_size = Grid().group_size;
}

// `range: mse` is short for `range: {kind: mse}`.
void overlay_range(ConfigReader& reader, quantizer::Range& range) {
  if (!reader.has("range")) {
    reader.take("range");
    return;
  }
  const YAML::Node node = reader.take("range");
  YAML::Node map(YAML::NodeType::Map);
  if (node.IsScalar()) map["kind"] = node.Scalar();
  else map.reset(node);
  ConfigReader keys = reader.nested("range", map);
  for (const char* later : {"awq_clip", "percentile"})
    if (keys.has("kind") && map["kind"].IsScalar() && map["kind"].Scalar() == later)
      throw Error(ErrorKind::unsupported, std::string("the range '") + later + "' is not in this version", keys.where("kind"),
                  "built so far: min_max, mse");
  visit_fields(keys, range);
  keys.finish();
}

// Axes that this version has only the neutral choice of.
void refuse_later_axes(ConfigReader& reader) {
  if (auto keys = reader.child("activation")) {
    int bits = 16;
    keys->integer("bits", bits, 2, 32, "");
    if (bits < 16)
      throw Error(ErrorKind::unsupported, "quantized activations are not in this version", keys->where("bits"), "leave activation out, or bits: 16");
    for (const char* key : {"granularity", "dynamic", "symmetric", "type", "group_size"}) keys->take(key);
    keys->finish();
  }
  if (const YAML::Node node = reader.take("transform");
      node.IsDefined() && !(node.IsMap() && node.size() == 0) && !(node.IsScalar() && node.Scalar() == "none"))
    throw Error(ErrorKind::unsupported, "transforms are not in this version", reader.where("transform"), "leave transform out");
}

void overlay(ConfigReader& reader, LayerRecipe& layer) {
  overlay_grid(reader, layer.grid);
  overlay_range(reader, layer.range);
  if (auto keys = reader.child("rounding")) {
    visit_fields(*keys, layer.rounding);
    keys->finish();
  }
  refuse_later_axes(reader);
}

quantizer::Rule read_rule(ConfigReader& reader, const LayerRecipe& recipe) {
  quantizer::Rule rule;
  rule.where = reader.where("match");
  reader.text("match", rule.match, "");
  if (rule.match.empty()) reader.fail("match", "is missing", "every rule has match: a regular expression over whole layer names");
  if (reader.has("preset")) {
    rule.layer = read_preset(reader, "");
    rule.layer.grid = recipe.grid;
  } else {
    reader.take("preset");
    rule.layer = recipe;
  }
  overlay(reader, rule.layer);
  std::string keep;
  reader.text("keep", keep, "");
  if (!keep.empty() && keep != "float") reader.fail("keep", "cannot be '" + keep + "'", "the only value is float: not quantized");
  rule.layer.keep_float = keep == "float";
  reader.finish();
  return rule;
}

}  // namespace

quantizer::Recipe read_recipe(ConfigReader* reader) {
  quantizer::Recipe recipe;
  recipe.otherwise = quantizer::preset("gptq");
  if (reader == nullptr) return recipe;
  recipe.otherwise = read_preset(*reader, "gptq");
  overlay(*reader, recipe.otherwise);
  for (ConfigReader& rule : reader->list("rules"))
    recipe.rules.push_back(read_rule(rule, recipe.otherwise));
  reader->finish();
  return recipe;
}

void dump_layer(ConfigDumper& dumper, LayerRecipe& layer) {
  if (layer.keep_float) {
    std::string keep = "float";
    dumper.text("keep", keep, "not quantized");
    return;
  }
  dumper.text("preset", layer.preset, "where the axes start from");
  dumper.object("grid", layer.grid, "the representable values");
  dumper.object("range", layer.range, "the interval the grid covers");
  dumper.object("rounding", layer.rounding, "how codes are picked");
}

void dump_recipe(ConfigDumper& dumper, quantizer::Recipe recipe) {
  dumper.begin("recipe", "what each linear gets; the first rule that matches its whole name wins");
  dump_layer(dumper, recipe.otherwise);
  if (!recipe.rules.empty()) {
    dumper.begin_list("rules", "");
    for (quantizer::Rule& rule : recipe.rules) {
      dumper.begin_item();
      dumper.text("match", rule.match, "");
      dump_layer(dumper, rule.layer);
      dumper.end();
    }
    dumper.end();
  }
  dumper.end();
}

}  // namespace miq::executor
