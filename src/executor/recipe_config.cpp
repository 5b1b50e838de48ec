// A recipe from YAML: preset defaults, under the recipe's own keys, under a rule's keys.
#include "recipe_config.h"

#include <sstream>

#include "miq/core/error.h"

namespace miq::executor {
namespace {

using quantizer::Granularity;
using quantizer::Grid;
using quantizer::LayerRecipe;

// `[awq, gptq]` or `awq+gptq`.
LayerRecipe read_preset(ConfigReader& reader, const std::string& fallback) {
  std::vector<std::string> names;
  for (const std::string& item : reader.texts("preset")) {
    std::istringstream parts(item);
    for (std::string name; std::getline(parts, name, '+');) names.push_back(name);
  }
  if (names.empty()) names.push_back(fallback);
  try {
    return quantizer::preset(names);
  } catch (const Error& error) {
    throw Error(error.kind(), error.message(), reader.where("preset"), error.fix());
  }
}

// One mapping of grid keys over `grid`.
void overlay_grid(ConfigReader keys, Grid& grid) {
  const bool states_granularity = keys.has("granularity"), states_group = keys.has("group_size"), states_bits = keys.has("bits");
  const Granularity before = grid.granularity;
  const bool was_integer = grid.is_integer();
  if (states_group && !states_granularity && grid.granularity != Granularity::block) grid.granularity = Granularity::group;
  visit_fields(keys, grid);
  keys.finish();
  const bool grouped = grid.granularity == Granularity::group || grid.granularity == Granularity::block;
  if (!grouped && states_group) keys.fail("group_size", "has no meaning without groups", "leave it out, or set granularity: group");
  if (grid.granularity != before && !states_group) grid.group_size = Grid().group_size;
  if (was_integer && grid.is_fp8()) {  // what follows from it
    grid.symmetric = true;
    if (!states_bits) grid.bits = 8;
  }
}

// `key: mse` is short for `key: {kind: mse}`.
template <class T>
void overlay_kind(ConfigReader& reader, const char* key, T& value) {
  if (!reader.has(key)) {
    reader.take(key);
    return;
  }
  const YAML::Node node = reader.take(key);
  YAML::Node map(YAML::NodeType::Map);
  if (node.IsScalar()) map["kind"] = node.Scalar();
  else map.reset(node);
  ConfigReader keys = reader.nested(key, map);
  visit_fields(keys, value);
  keys.finish();
}

template <class T>
void overlay_object(ConfigReader& reader, const char* key, T& value) {
  auto keys = reader.child(key);
  if (!keys) return;
  visit_fields(*keys, value);
  keys->finish();
}

void overlay(ConfigReader& reader, LayerRecipe& layer) {
  if (auto keys = reader.child("grid")) overlay_grid(*keys, layer.grid);
  overlay_kind(reader, "range", layer.range);
  overlay_kind(reader, "transform", layer.transform);
  overlay_object(reader, "rounding", layer.rounding);
  overlay_object(reader, "activation", layer.activation);
}

// A rule starts from the recipe, or, with a preset of its own, from that under the recipe's grid keys.
quantizer::Rule read_rule(ConfigReader& reader, const LayerRecipe& recipe, const YAML::Node& recipe_grid, const ConfigReader& parent) {
  quantizer::Rule rule;
  rule.where = reader.where("match");
  reader.text("match", rule.match, "");
  if (rule.match.empty()) reader.fail("match", "is missing", "every rule has match: a regular expression over whole layer names");
  if (reader.has("preset")) {
    rule.layer = read_preset(reader, "");
    if (recipe_grid.IsDefined() && recipe_grid.IsMap()) overlay_grid(parent.nested("grid", recipe_grid), rule.layer.grid);
  } else {
    reader.take("preset");
    rule.layer = recipe;
  }
  overlay(reader, rule.layer);
  if (rule.layer.transform.kind == quantizer::TransformKind::rotation && recipe.transform.kind != quantizer::TransformKind::rotation)
    reader.fail("transform", "cannot be rotation in a rule", "a rotation turns the whole model: set recipe.transform: rotation");
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
  const YAML::Node grid = reader->take("grid");
  overlay(*reader, recipe.otherwise);
  for (ConfigReader& rule : reader->list("rules")) recipe.rules.push_back(read_rule(rule, recipe.otherwise, grid, *reader));
  overlay_object(*reader, "allocate", recipe.allocation);
  overlay_object(*reader, "distill", recipe.distillation);
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
  dumper.object("transform", layer.transform, "the linears of one input rewritten before");
  dumper.object("activation", layer.activation, "the input at run time");
}

void dump_recipe(ConfigDumper& dumper, quantizer::Recipe recipe) {
  dumper.begin("recipe", "what each linear gets; the first rule that matches its whole name wins");
  dump_layer(dumper, recipe.otherwise);
  if (recipe.allocation.bits > 0) dumper.object("allocate", recipe.allocation, "bits by layer under a budget");
  if (recipe.distillation.steps > 0) dumper.object("distill", recipe.distillation, "training block by block towards the float model");
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
