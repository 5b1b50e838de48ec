#include "miq/quantizer/recipe.h"

#include <algorithm>
#include <regex>
#include <sstream>
#include <utility>

#include "miq/core/config.h"
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

namespace {

std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> list;
  std::istringstream in(text);
  for (std::string word; in >> word;) list.push_back(word);
  return list;
}

bool sets(const PresetInfo& info, const char* axis) { return std::find(info.axes.begin(), info.axes.end(), axis) != info.axes.end(); }

const PresetInfo& find_preset(const std::string& name) {
  for (const PresetInfo& info : presets())
    if (info.name == name) return info;
  std::string known;
  for (const std::string& candidate : preset_names()) known += (known.empty() ? "" : ", ") + candidate;
  const std::string nearest = nearest_name(name, preset_names());
  throw Error(ErrorKind::config, "unknown preset '" + name + "'", "",
              (nearest.empty() ? "" : "did you mean " + nearest + "? ") + ("known: " + known));
}

[[noreturn]] void refuse_pair(const PresetInfo& one, const PresetInfo& other, const std::string& axis) {
  throw Error(ErrorKind::config, "the presets " + one.name + " and " + other.name + " cannot go together: both choose the " + axis, "",
              "a list has one transform (awq, smoothquant, quip, quarot) and one rounding (rtn, gptq, spqr, hqq)");
}

// Transforms first, for they come first in the work; roundings last, for some need a grid of their own.
std::vector<const PresetInfo*> in_order(const std::vector<std::string>& names) {
  std::vector<const PresetInfo*> list;
  for (const std::string& name : names) list.push_back(&find_preset(name));
  const auto rank = [](const PresetInfo* info) { return sets(*info, "transform") ? 0 : sets(*info, "rounding") ? 2 : 1; };
  std::stable_sort(list.begin(), list.end(), [&](const PresetInfo* a, const PresetInfo* b) { return rank(a) < rank(b); });
  return list;
}

}  // namespace

const std::vector<PresetInfo>& presets() {
  static const std::vector<PresetInfo> table = {
#define MIQ_PRESET(name, paper, summary, axes, ...) {#name, paper, summary, words(axes), [](LayerRecipe& r) __VA_ARGS__},
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

LayerRecipe preset(const std::vector<std::string>& names) {
  LayerRecipe layer;
  const PresetInfo *transform = nullptr, *rounding = nullptr;
  std::string together;
  for (const PresetInfo* info : in_order(names)) {
    if (sets(*info, "transform")) {
      if (transform != nullptr) refuse_pair(*transform, *info, "transform");
      transform = info;
    }
    if (sets(*info, "rounding")) {
      // A transform's own rounding (quip's) gives way, with its range and grid.
      if (rounding != nullptr && !sets(*rounding, "transform")) refuse_pair(*rounding, *info, "rounding");
      if (rounding != nullptr) {
        layer.rounding = Rounding();
        layer.range = Range();
        layer.grid = Grid();
      }
      rounding = info;
    }
    info->apply(layer);
    together += (together.empty() ? "" : "+") + info->name;
  }
  if (!together.empty()) layer.preset = together;
  return layer;
}

namespace {

// The name that a choice has in a configuration.
template <class T>
std::string kind_of(T value, const char* key = "kind") {
  ConfigDumper dumper;
  visit_fields(dumper, value);
  return dumper.json().at(key).template get<std::string>();
}

std::string describe(const Grid& grid) {
  std::string text = grid.is_fp8() ? kind_of(grid, "type") : "int" + std::to_string(grid.bits) + (grid.symmetric ? " symmetric" : "");
  switch (grid.granularity) {
    case Granularity::group: text += " g" + std::to_string(grid.group_size); break;
    case Granularity::block: text += " by block of " + std::to_string(grid.group_size); break;
    case Granularity::channel: text += " by channel"; break;
    case Granularity::tensor: text += " per tensor"; break;
  }
  return text + (grid.bilevel.enabled() ? " bilevel" : "");
}

std::string describe(const Activation& activation) {
  if (!activation.enabled()) return "";
  const std::string type = activation.type == GridType::integer ? "int" + std::to_string(activation.bits) : kind_of(activation, "type");
  return ", inputs " + type + " by " + kind_of(activation, "granularity") + (activation.dynamic ? "" : " static");
}

}  // namespace

std::string composition(const LayerRecipe& layer) {
  if (layer.keep_float) return "float";
  std::string text;
  if (layer.transform.kind != TransformKind::none) text += kind_of(layer.transform) + ", ";
  return text + kind_of(layer.range) + ", " + layer.rounding.kind + ", " + describe(layer.grid) + describe(layer.activation);
}

bool makes_group_of_column(const LayerRecipe& layer) {
  const Rounding& rounding = layer.rounding;
  const bool sweeps = rounding.kind == "spqr" || (rounding.kind == "error_feedback" && !rounding.static_groups);
  return sweeps && rounding.act_order != ActOrder::none && layer.grid.granularity == Granularity::group;
}

StatisticsNeeds statistics_needs(const LayerRecipe& layer) {
  if (layer.keep_float) return {};
  StatisticsNeeds needs = transform_needs(layer.transform);
  if (needs_hessian(layer.rounding.kind) || layer.range.kind == RangeKind::awq_clip ||
      (layer.range.kind == RangeKind::rms && layer.range.rho == 0))
    needs.hessian = true;
  if (layer.activation.enabled() && !layer.activation.dynamic) needs.extremes = true;
  return needs;
}

}  // namespace miq::quantizer
