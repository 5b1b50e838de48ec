#include "miq/executor/plan.h"

#include "miq/core/error.h"

namespace miq::executor {

std::vector<PlannedLinear> make_plan(const model::LanguageModel& model, const quantizer::Recipe& recipe) {
  const model::Architecture& a = model.architecture();
  std::map<std::string, std::vector<std::int64_t>> shapes;
  for (const TensorSpec& spec : model.source().specs()) shapes[spec.name] = spec.shape;
  std::vector<std::string> names;
  for (std::int64_t l = 0; l < a.num_layers; ++l)
    for (const auto& stage : a.stages())
      for (const std::string& linear : stage) names.push_back(a.block_name(l) + linear);
  // A rule may also name the head, which is not quantized anyway: that is a wish granted, not an error.
  std::vector<std::string> ruled = names;
  ruled.push_back(a.head);
  const std::vector<quantizer::Choice> choices = quantizer::choose(recipe, ruled);
  if (const quantizer::Choice& head = choices.back(); head.rule >= 0 && !head.layer->keep_float)
    throw Error(ErrorKind::unsupported, "the head is not quantized in this version", recipe.rules[static_cast<size_t>(head.rule)].where,
                "let the rule keep it: {match: '" + a.head + "', keep: float}, or write a pattern that leaves it out");
  std::vector<PlannedLinear> plan;
  for (size_t i = 0; i < names.size(); ++i) {
    const auto& shape = shapes.at(names[i] + ".weight");
    plan.push_back({names[i], shape[0], shape[1], choices[i]});
    if (const auto reason = quantizer::why_not(*choices[i].layer, shape[0], shape[1]))
      throw Error(ErrorKind::config, *reason, names[i], choices[i].rule < 0 ? "change the recipe" : "change the rule at " + recipe.rules[static_cast<size_t>(choices[i].rule)].where);
  }
  return plan;
}

}  // namespace miq::executor
