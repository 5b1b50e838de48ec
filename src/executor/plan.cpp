#include "miq/executor/plan.h"

#include "miq/core/error.h"

namespace miq::executor {

std::vector<PlannedLinear> make_plan(const model::LanguageModel& model, const quantizer::Recipe& recipe) {
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
  // A rule may also name the head, which is not quantized anyway: that is a wish granted, not an error.
  std::vector<std::string> ruled;
  for (const PlannedLinear& planned : plan) ruled.push_back(planned.name);
  ruled.push_back(architecture->head);
  const std::vector<quantizer::Choice> choices = quantizer::choose(recipe, ruled);
  if (const quantizer::Choice& head = choices.back(); head.rule >= 0 && !head.layer->keep_float)
    throw Error(ErrorKind::unsupported, "the head is not quantized in this version", recipe.rules[static_cast<size_t>(head.rule)].where,
                "let the rule keep it: {match: '" + architecture->head + "', keep: float}, or write a pattern that leaves it out");
  for (size_t i = 0; i < plan.size(); ++i) {
    plan[i].choice = choices[i];
    if (const auto reason = quantizer::why_not(*choices[i].layer, plan[i].out_features, plan[i].in_features))
      throw Error(ErrorKind::config, *reason, plan[i].name, choices[i].rule < 0 ? "change the recipe" : "change the rule at " + recipe.rules[static_cast<size_t>(choices[i].rule)].where);
  }
  return plan;
}

}  // namespace miq::executor
