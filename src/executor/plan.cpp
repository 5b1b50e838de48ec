#include "miq/executor/plan.h"

#include "miq/core/error.h"

namespace miq::executor {

namespace {

// All linears of the blocks without their choices, then the head.
std::vector<PlannedLinear> linears_and_head(const model::LanguageModel& model) {
  const auto architecture = std::make_shared<const model::Architecture>(model.architecture());
  std::vector<PlannedLinear> plan;
  for (std::int64_t l = 0; l < architecture->num_layers; ++l) {
    model::Block block(architecture, l);
    for (std::int64_t s = 0; s < block.num_stages(); ++s) {
      const auto groups = block.groups(s);
      for (size_t g = 0; g < groups.size(); ++g)
        for (const model::Linear* linear : groups[g])
          plan.push_back({linear->name, l, s, static_cast<std::int64_t>(g), linear->out_features, linear->in_features, {}});
    }
  }
  plan.push_back({architecture->head, architecture->num_layers, 0, 0, architecture->vocab_size, architecture->hidden_size, {}});
  return plan;
}

// With the recipe's choices. What no rule names is quantized in blocks, and stays float in the head.
std::vector<PlannedLinear> choose_all(const model::LanguageModel& model, const quantizer::Recipe& recipe) {
  std::vector<PlannedLinear> plan = linears_and_head(model);
  std::vector<std::string> names;
  for (const PlannedLinear& planned : plan) names.push_back(planned.name);
  const std::vector<quantizer::Choice> choices = quantizer::choose(recipe, names);
  for (size_t i = 0; i < plan.size(); ++i) plan[i].choice = choices[i];
  return plan;
}

void check_choice(const PlannedLinear& planned, const quantizer::Recipe& recipe) {
  if (const auto reason = quantizer::why_not(*planned.choice.layer, planned.out_features, planned.in_features))
    throw Error(ErrorKind::config, *reason, planned.name, planned.choice.rule < 0 ? "change the recipe" : "change the rule at " + recipe.rules[static_cast<size_t>(planned.choice.rule)].where);
}

}  // namespace

std::vector<PlannedLinear> make_plan(const model::LanguageModel& model, const quantizer::Recipe& recipe) {
  std::vector<PlannedLinear> plan = choose_all(model, recipe);
  plan.pop_back();
  for (const PlannedLinear& planned : plan) check_choice(planned, recipe);
  return plan;
}

std::optional<PlannedLinear> planned_head(const model::LanguageModel& model, const quantizer::Recipe& recipe) {
  const PlannedLinear head = choose_all(model, recipe).back();
  const quantizer::LayerRecipe& layer = *head.choice.layer;
  if (head.choice.rule < 0 || layer.keep_float) return std::nullopt;
  const std::string& where = recipe.rules[static_cast<size_t>(head.choice.rule)].where;
  const std::string fix = "let a rule before it say so: {match: '" + head.name + "', preset: rtn, grid: {bits: 8}}, or {match: '" + head.name + "', keep: float}";
  if (model.architecture().normalised_head) throw Error(ErrorKind::unsupported, "the head of this family is normalised at run time and cannot be quantized", where, fix);
  if (statistics_needs(layer).any() || layer.transform.kind != quantizer::TransformKind::none || layer.activation.enabled())
    throw Error(ErrorKind::unsupported, "the head is rounded without data: its rule must be rtn or hqq, without transform and activation", where, fix);
  check_choice(head, recipe);
  return head;
}

}  // namespace miq::executor
