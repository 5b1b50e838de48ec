// What a job will do and cost, told beforehand: `miq plan`.
#include <c10/core/InferenceMode.h>

#include <set>

#include "cost.h"
#include "export_target.h"
#include "miq/core/device.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/memory.h"
#include "miq/core/text.h"
#include "miq/executor/open_model.h"
#include "miq/executor/pipeline.h"
#include "miq/executor/plan.h"
#include "transform_place.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;
using quantizer::Granularity;
using quantizer::LayerRecipe;
using quantizer::TransformKind;

struct Planner {
  const JobConfig& config;
  const model::LanguageModel& model;
  const std::vector<PlannedLinear>& plan;
  const std::optional<PlannedLinear> head;
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<const PlannedLinear*>> by_stage;  // (layer, stage)
  Json conflicts = Json::array();
  std::set<std::string> told;

  Planner(const JobConfig& c, const model::LanguageModel& m, const std::vector<PlannedLinear>& p) : config(c), model(m), plan(p), head(planned_head(m, c.recipe)) {
    for (const PlannedLinear& planned : plan) by_stage[{planned.layer, planned.stage}].push_back(&planned);
  }

  const model::Architecture& a() const { return model.architecture(); }

  // Once for all layers of a kind: the first one is named, the others are counted by the reader.
  void conflict(const std::string& kind, const std::string& layer, const std::string& what, const std::string& fix) {
    if (told.insert(kind + what).second) conflicts.push_back({{"kind", kind}, {"layer", layer}, {"what", what}, {"fix", fix}});
  }

  static double bits(const PlannedLinear& planned, const std::string& where) {
    const LayerRecipe& recipe = *planned.choice.layer;
    double value = bits_per_weight(recipe.grid, planned.out_features, planned.in_features);
    if (makes_group_of_column(recipe)) value += 32.0 / static_cast<double>(planned.out_features);
    if (where == "online" && recipe.transform.kind != TransformKind::incoherence) value += 16.0 / static_cast<double>(planned.out_features);
    return value;
  }

  void check_groups(const PlannedLinear& planned) {
    const LayerRecipe& recipe = *planned.choice.layer;
    if (recipe.keep_float || recipe.grid.granularity != Granularity::group) return;
    const std::int64_t group = recipe.grid.group_size, columns = planned.in_features, rows = planned.out_features;
    if (columns % group != 0)
      conflict("ragged_group", planned.name, "groups of " + std::to_string(group) + " do not divide " + std::to_string(columns) + " inputs: the last is shorter, which no served format can hold",
               "choose a group_size that divides " + std::to_string(columns) + ", or granularity: channel");
    const bool by_rows = model::follows_norm(planned.stage);
    for (const std::int64_t ranks : {2, 4, 8}) {
      if (by_rows && rows % ranks != 0)
        conflict("tensor_parallel", planned.name, std::to_string(rows) + " outputs cannot be split over " + std::to_string(ranks) + " ranks", "serve on fewer");
      if (!by_rows && columns % group == 0 && (columns % ranks != 0 || columns / ranks % group != 0))
        conflict("tensor_parallel", planned.name, "groups of " + std::to_string(group) + " do not divide the " + std::to_string(columns / ranks) + " inputs of a rank under tensor parallelism " + std::to_string(ranks),
                 "choose a group_size that divides them if the model is to be served so");
    }
  }

  // Servers fuse q,k,v and gate,up, and the experts of a layer: one grid for all of them.
  void check_fused(const std::vector<const PlannedLinear*>& linears) {
    for (const PlannedLinear* planned : linears) {
      const LayerRecipe &one = *linears.front()->choice.layer, &other = *planned->choice.layer;
      const bool same = one.keep_float == other.keep_float &&
                        (one.keep_float || (one.grid.bits == other.grid.bits && one.grid.type == other.grid.type && one.grid.granularity == other.grid.granularity &&
                                            one.grid.group_size == other.grid.group_size && one.grid.symmetric == other.grid.symmetric));
      if (!same)
        conflict("split_group", planned->name, "it gets another grid than " + linears.front()->name + ": servers fuse the two", "give the linears of one input the same grid");
    }
  }

  void check_model() {
    const bool rotated = config.recipe.otherwise.transform.kind == TransformKind::rotation;
    if (a().tie_word_embeddings && rotated)
      conflict("tied_head", a().head, "the head shares the embedding, which a rotation parts: the checkpoint grows by " +
                                          format_bytes(model.embedding_VH().numel() * static_cast<std::int64_t>(model.embedding_VH().element_size())), "nothing to do if that is fine");
    if (rotated && a().normalised_head && config.export_)
      conflict("normalised_head", a().head, "the rotated head cannot be normalised any more: the export's config.json says norm_head: false, which servers ignore", "serve another method's export");
    if (a().tie_word_embeddings)
      for (const quantizer::Rule& rule : config.recipe.rules)
        if (rule.match == a().head || rule.match == "lm_head")
          conflict("tied_head", a().head, head ? "the head shares the embedding's tensor: quantized, it becomes one of its own beside it" : "the head shares the embedding's tensor and stays float in any case",
                   head ? "nothing to do if that is fine" : "the rule can be left out");
    if (!config.export_) return;
    const std::vector<format::Scheme> schemes = planned_schemes(a(), plan, head);
    const ExportTarget target = export_target(*config.export_, a());
    check_export(target, schemes);
    for (const ExportWarning& warning : export_warnings(target, schemes)) conflict("export", warning.linear, warning.what, warning.fix);
  }

  std::int64_t calibration_tokens() const {
    if (!needs_calibration(plan, config.recipe)) return 0;
    if (!config.calibration.ids.empty()) return dataset::read_calibration_ids(config.calibration.ids).numel();
    if (dataset::is_task_calibration(config.calibration.dataset)) {
      std::int64_t tokens = 0;  // by the usual four bytes of a token
      for (const std::string& text : dataset::task_samples(config.calibration, config.data_dir))
        tokens += std::min(config.calibration.seqlen, static_cast<std::int64_t>(text.size()) / 4 + 1);
      return tokens;
    }
    return config.calibration.samples * config.calibration.seqlen;
  }
};

Json totals(const Planner& p, const Json& layers) {
  double bits = 0, weights = 0;
  std::int64_t quantized_bytes = 0, float_bytes = 0;
  std::set<std::string> linears;
  for (size_t i = 0; i < p.plan.size(); ++i) {
    const PlannedLinear& planned = p.plan[i];
    linears.insert(planned.name + ".weight");
    const auto count = static_cast<double>(planned.out_features * planned.in_features);
    if (planned.choice.layer->keep_float) {
      float_bytes += static_cast<std::int64_t>(count * 2);
      continue;
    }
    const double per_weight = layers[i].at("bits_per_weight").get<double>();
    bits += per_weight * count;
    weights += count;
    quantized_bytes += static_cast<std::int64_t>(per_weight * count / 8);
  }
  std::int64_t others = 0;
  for (const TensorSpec& spec : p.model.source().specs())
    if (!linears.count(spec.name)) others += c10::multiply_integers(spec.shape) * static_cast<std::int64_t>(c10::elementSize(spec.dtype));
  const std::int64_t tokens = p.calibration_tokens();
  const std::int64_t compute_bytes = has_fast_bfloat16(p.model.device()) ? 2 : 4;
  const Memory memory = expected_memory(p.model, p.plan, p.config.pipeline, compute_bytes, tokens);
  Json parts = {{"program", memory.program}, {"block", memory.block}, {"statistics", memory.statistics}, {"solve", memory.solve}, {"hidden", memory.hidden}, {"microbatch", memory.microbatch}};
  if (memory.on_gpu) {
    parts["ahead"] = memory.ahead;
    parts["ends"] = memory.ends;
    parts["device_bytes"] = memory.device_total();
  }
  if (tokens > 0) parts["offload"] = memory.offload == Offload::none ? "none" : memory.offload == Offload::cpu ? "cpu" : "disk";
  return {{"bits_per_weight", p.config.recipe.allocation.bits > 0 ? p.config.recipe.allocation.bits : weights > 0 ? bits / weights : 0.0},
          {"quantized_bytes", quantized_bytes},
          {"model_bytes", quantized_bytes + float_bytes + others},
          {"original_bytes", p.model.source().bytes()},
          {"calibration_tokens", tokens},
          {"memory_bytes", memory.total()},
          {"memory", parts},
          {"disk_bytes", !p.config.export_ ? 0 : p.config.export_->format == "dequantized" ? p.model.source().bytes() : quantized_bytes + float_bytes + others},
          {"seconds", expected_seconds(p.model, p.plan, tokens)}};
}

}  // namespace

Json describe_plan(const JobConfig& given) {
  JobConfig config = resolved(given);
  const c10::InferenceMode inference;
  const model::LanguageModel model = open_model(config.model.path, config.model.architecture, parse_device(config.device));
  if (config.export_) fit_recipe(config.recipe, export_target(*config.export_, model.architecture()));
  const std::vector<PlannedLinear> plan = make_plan(model, config.recipe);
  Planner planner(config, model, plan);
  planner.check_model();
  Json layers = Json::array();
  const std::vector<TransformPlace> places = transform_places(model.architecture(), plan);
  const auto describe = [&](const PlannedLinear& planned, const std::string& where) {
    const LayerRecipe& recipe = *planned.choice.layer;
    layers.push_back({{"name", planned.name},
                      {"shape", {planned.out_features, planned.in_features}},
                      {"rule", planned.choice.rule},
                      {"match", planned.choice.rule < 0 ? Json() : Json(config.recipe.rules[static_cast<size_t>(planned.choice.rule)].match)},
                      {"preset", recipe.keep_float ? "float" : recipe.preset},
                      {"composition", composition(recipe)},
                      {"bits_per_weight", recipe.keep_float ? 16.0 : Planner::bits(planned, where)},
                      {"transform", where}});
  };
  for (const auto& [place, linears] : planner.by_stage) {
    planner.check_fused(linears);
    for (const PlannedLinear* planned : linears) {
      planner.check_groups(*planned);
      describe(*planned, places[static_cast<size_t>(planned - plan.data())].text);
    }
  }
  if (planner.head) describe(*planner.head, "-");
  const Json total = totals(planner, layers);
  return {{"model", {{"family", model.architecture().family}, {"parameters", model.num_parameters()}}}, {"layers", layers}, {"total", total}, {"conflicts", planner.conflicts}};
}

std::string format_plan(const Json& plan) {
  std::vector<std::vector<std::string>> rows = {{"layer", "shape", "rule", "gets", "bits", "transform"}};
  for (const Json& layer : plan.at("layers")) {
    const int rule = layer.at("rule");
    char bits[16];
    std::snprintf(bits, sizeof bits, "%.3f", layer.at("bits_per_weight").get<double>());
    rows.push_back({layer.at("name"), std::to_string(layer.at("shape")[0].get<std::int64_t>()) + "x" + std::to_string(layer.at("shape")[1].get<std::int64_t>()),
                    rule < 0 ? "-" : std::to_string(rule) + ": " + layer.at("match").get<std::string>(),
                    layer.at("preset").get<std::string>() + ": " + layer.at("composition").get<std::string>(), bits, layer.at("transform")});
  }
  const Json& total = plan.at("total");
  const auto size = [&](const char* key) { return format_bytes(total.at(key).get<std::int64_t>()); };
  char line[256];
  std::snprintf(line, sizeof line, "%.3f bits a weight; about %.0f s on this machine with %lld calibration tokens", total.at("bits_per_weight").get<double>(),
                total.at("seconds").get<double>(), static_cast<long long>(total.at("calibration_tokens").get<std::int64_t>()));
  const Json& memory = total.at("memory");
  const std::string device = memory.contains("device_bytes") ? " and " + format_bytes(memory.at("device_bytes").get<std::int64_t>()) + " of the GPU" : "";
  std::string text = format_table(rows) + "\n" + line + "\nlinears " + size("quantized_bytes") + " packed, model " + size("model_bytes") + " (now " + size("original_bytes") +
                     "); memory about " + size("memory_bytes") + device + ", disk " + size("disk_bytes") + "\n";
  if (plan.at("conflicts").empty()) return text + "\nno conflicts\n";
  text += "\nconflicts:\n";
  for (const Json& conflict : plan.at("conflicts"))
    text += "  " + conflict.at("kind").get<std::string>() + ": " + conflict.at("layer").get<std::string>() + ": " + conflict.at("what").get<std::string>() + " (" + conflict.at("fix").get<std::string>() + ")\n";
  return text;
}

}  // namespace miq::executor
