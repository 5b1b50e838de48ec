#include "transform_place.h"

#include <optional>

#include "scale_group.h"

namespace miq::executor {
namespace {

using quantizer::LayerRecipe;
using quantizer::TransformKind;

struct Places {
  const model::Architecture& a;
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<const PlannedLinear*>> by_stage;  // (layer, stage)
  std::map<std::string, const PlannedLinear*> by_name;

  // Recipes of the linears that share a transform with this one: of its stage behind a norm, else of its group.
  std::vector<const LayerRecipe*> scale_group(const PlannedLinear& planned) const {
    std::vector<const LayerRecipe*> recipes;
    for (const PlannedLinear* other : by_stage.at({planned.layer, planned.stage}))
      if (follows_norm(planned.stage) || other->group == planned.group) recipes.push_back(other->choice.layer);
    return recipes;
  }

  TransformPlace place(model::Block& block, const PlannedLinear& planned) const {
    const LayerRecipe& recipe = *planned.choice.layer;
    const std::int64_t stage = planned.stage;
    if (recipe.keep_float || recipe.transform.kind == TransformKind::none) return {};
    if (recipe.transform.kind == TransformKind::incoherence) return {recipe.transform.rescale, true, true, "online"};
    if (recipe.transform.kind == TransformKind::rotation) {
      const bool online = recipe.transform.online && (stage == model::kOut || stage == model::kDown);
      return {false, online, false, online ? "folded, Hadamard online" : "folded"};
    }
    const FoldTarget target = fold_target(block, a, stage, static_cast<size_t>(planned.group));
    const bool folded = folds(scale_group(planned), target.linear != nullptr ? by_name.at(target.linear->name)->choice.layer : nullptr);
    if (recipe.transform.kind == TransformKind::smoothquant && !folded && !follows_norm(stage)) return {false, false, false, "left out"};
    if (!folded) return {true, false, false, "online"};
    return {false, false, false, "folded into " + target.name.substr(a.block_name(planned.layer).size())};
  }
};

}  // namespace

std::vector<TransformPlace> transform_places(const model::Architecture& architecture, const std::vector<PlannedLinear>& plan) {
  Places places{architecture, {}, {}};
  for (const PlannedLinear& planned : plan) {
    places.by_stage[{planned.layer, planned.stage}].push_back(&planned);
    places.by_name[planned.name] = &planned;
  }
  const auto shared = std::make_shared<const model::Architecture>(architecture);
  std::optional<model::Block> block;
  std::vector<TransformPlace> list;
  for (const PlannedLinear& planned : plan) {
    if (!block || block->layer() != planned.layer) block.emplace(shared, planned.layer);
    list.push_back(places.place(*block, planned));
  }
  return list;
}

}  // namespace miq::executor
