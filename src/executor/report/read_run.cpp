// A run directory's results.json.
#include <algorithm>

#include "json_reader.h"
#include "miq/core/error.h"
#include "miq/evaluator/statistics.h"
#include "study.h"

namespace miq::executor::report {
namespace {

namespace fs = std::filesystem;

// The block's number and what stands behind it: "model.layers.3.mlp.experts.7.up_proj" -> 3, "mlp.experts.*.up_proj".
void place_layer(Layer& layer) {
  const auto is_number = [](const std::string& part) { return !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos; };
  for (size_t begin = 0; begin <= layer.name.size();) {
    const size_t dot = std::min(layer.name.find('.', begin), layer.name.size());
    const std::string part = layer.name.substr(begin, dot - begin);
    if (layer.depth < 0 && is_number(part)) layer.depth = std::stoll(part);
    else if (layer.depth >= 0) layer.kind += (layer.kind.empty() ? "" : ".") + (is_number(part) ? "*" : part);
    begin = dot + 1;
  }
  if (layer.kind.empty()) layer.kind = layer.name;
}

// "gptq, 4 bits, groups of 64", as far as the configuration tells.
std::string method_of(const JsonReader& recipe) {
  std::string text;
  const JsonReader preset = recipe["preset"];
  if (preset.is_known()) {
    text = preset.scalar();
    if (text.starts_with("[")) {
      text.clear();
      for (const JsonReader& part : preset.list()) text += (text.empty() ? "" : "+") + part.text();
    }
  }
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  const JsonReader grid = recipe["grid"];
  const std::string type = grid["type"].scalar();
  if (!type.empty() && type != "int") add(type);
  else if (grid["bits"].is_known()) add(grid["bits"].scalar() + " bits");
  const std::string granularity = grid["granularity"].scalar();
  if (granularity == "group") add("groups of " + grid["group_size"].scalar());
  else if (!granularity.empty()) add("per " + granularity);
  const JsonReader activation = recipe["activation"];
  if (activation["bits"].is_known() && activation["bits"].scalar() != "16") add("inputs of " + activation["bits"].scalar() + " bits");
  if (recipe["allocation"]["bits"].is_known()) add("bits shared out among the layers");
  if (const size_t rules = recipe["rules"].list().size(); rules > 0) add(std::to_string(rules) + (rules == 1 ? " rule" : " rules") + " by layer");
  return text;
}

Quantization read_quantization(const JsonReader& json, const JsonReader& recipe) {
  Quantization q;
  q.seconds = json["seconds"].number();
  q.cpu_seconds = json["cpu_seconds"].number();
  q.peak_bytes = json["peak_rss_bytes"].number();
  q.bits_per_weight = json["bits_per_weight"].number();
  q.bytes = json["bytes"].number();
  for (const auto& [phase, seconds] : json["seconds_by_phase"].members()) q.phases.emplace_back(phase, seconds.number());
  for (const JsonReader& item : json["layers"].list()) {
    Layer layer;
    layer.name = item.required("name").text();
    layer.preset = item["preset"].text();
    layer.bits = item["bits"].number();
    layer.group_size = item["group_size"].number();
    layer.bits_per_weight = item["bits_per_weight"].number();
    if (std::isnan(layer.bits_per_weight)) layer.bits_per_weight = layer.bits;
    layer.relative_error = item["relative_error"].number();
    place_layer(layer);
    q.layers.push_back(std::move(layer));
  }
  q.method = method_of(recipe);
  return q;
}

void read_interval(const JsonReader& json, double& low, double& high) {
  const std::vector<JsonReader> ends = json.list();
  if (ends.empty()) return;
  if (ends.size() != 2) json.fail("has not two ends");
  low = ends[0].number();
  high = ends[1].number();
}

Score read_metric(Score score, const std::string& metric, const JsonReader& json) {
  score.metric = metric;
  score.value = json["value"].number();
  score.standard_error = json["stderr"].number();
  score.baseline = json["baseline"].number();
  score.p_value = json["p_value"].number();
  score.p_value_holm = json["p_value_holm"].number();
  score.higher_is_better = json["better"].text() != "lower";
  read_interval(json["ci95"], score.low, score.high);
  read_interval(json["comparison"]["ci95"], score.difference_low, score.difference_high);
  return score;
}

// What is told of all of a task's answers stands with its first metric alone.
void forget_answers(Score& score) {
  score.flips = -1;
  score.agreement = score.kl_divergence = kUnknown;
}

// A score of each metric; those that weigh subjects alike ("macro") behind them.
void read_metrics(const Score& score, const JsonReader& json, std::vector<Score>& scores) {
  const size_t begin = scores.size();
  for (const auto& [metric, value] : json["metrics"].members()) {
    scores.push_back(read_metric(score, metric, value));
    scores.back().is_first = scores.size() == begin + 1;
    if (!scores.back().is_first) forget_answers(scores.back());
  }
  for (const auto& [metric, value] : json["macro"].members()) {
    scores.push_back(read_metric(score, metric + " over subjects", value));
    forget_answers(scores.back());
  }
}

void read_task(const JsonReader& json, const char* what, Run& run) {
  Score score;
  score.what = what;
  score.name = json.required(what).text();
  const std::string selection = json["selection"].text();
  if (!selection.empty() && !score.name.ends_with(selection)) score.name += " (" + selection + ")";
  score.split = json["split"].text();
  score.shots = static_cast<int>(json["shots"].count());
  score.count = json["documents"].count();
  score.flips = json["flips"].count();
  score.agreement = json["agreement"].number();
  score.kl_divergence = json["kl_divergence"].number();
  read_metrics(score, json, run.scores);
  for (const auto& [list, key] : {std::pair("categories", "category"), std::pair("subjects", "subject"), std::pair("parts", "part")})
    for (const JsonReader& item : json[list].list()) {
      Score part = score;
      part.what = key;
      part.name += "/" + item.required(key).text();
      part.count = item["documents"].count();
      forget_answers(part);
      read_metrics(part, item, run.parts);
    }
}

Score read_perplexity(const JsonReader& json) {
  Score score;
  score.what = score.metric = "perplexity";
  score.higher_is_better = false;
  score.is_first = true;
  score.name = json.required("corpus").text();
  score.split = json["split"].text();
  score.detail = json["protocol"].text();
  if (const std::int64_t windows = json["windows"].count(); windows >= 0) {
    score.detail += (score.detail.empty() ? "" : ", ") + std::to_string(windows) + (windows == 1 ? " window" : " windows");
    if (json["seqlen"].is_known()) score.detail += " of " + std::to_string(json["seqlen"].count());
  }
  score.count = json["tokens"].count();
  score.value = json["value"].number();
  score.standard_error = json["stderr"].number();
  read_interval(json["ci95"], score.low, score.high);
  score.baseline = json["baseline"].number();
  score.kl_divergence = json["kl_divergence"].number();
  score.agreement = json["top1_agreement"].number();
  return score;
}

Score read_mean(const JsonReader& json) {
  Score score = read_metric({}, "mean", json);
  score.what = "mean";
  score.name = json.required("category").text();
  score.shots = static_cast<int>(json["shots"].count());
  score.count = json["sets"].count();
  return score;
}

// Where several tasks were tested and the file has not Holm's correction of all of them.
void correct(std::vector<Score>& scores) {
  std::vector<Score*> tested;
  bool is_corrected = true;
  for (Score& score : scores) {
    if (score.what != "task" || !score.is_first || std::isnan(score.p_value)) continue;
    tested.push_back(&score);
    is_corrected = is_corrected && !std::isnan(score.p_value_holm);
  }
  if (is_corrected || tested.size() < 2) return;
  std::vector<double> p_values;
  for (const Score* score : tested) p_values.push_back(score->p_value);
  const std::vector<double> corrected = evaluator::holm(p_values);
  for (size_t i = 0; i < tested.size(); ++i) tested[i]->p_value_holm = corrected[i];
}

double bytes_on_disk(const fs::path& folder) {
  double bytes = 0;
  std::error_code problem;
  for (fs::directory_iterator file(folder, problem), end; !problem && file != end; file.increment(problem)) {
    const std::string type = file->path().extension().string();
    std::error_code ignored;
    if (type == ".safetensors" || type == ".gguf" || type == ".bin") bytes += static_cast<double>(file->file_size(ignored));
  }
  return bytes > 0 ? bytes : kUnknown;
}

}  // namespace

Run read_run(const fs::path& folder, const std::string& name) {
  const fs::path file = folder / "results.json";
  const nlohmann::ordered_json document = read_json_file(file);
  const JsonReader json(document, file);
  if (!document.is_object() || !document.contains("miq") || !document.contains("config"))
    throw Error(ErrorKind::io, "it is not miq's: a result of miq run, eval or quantize has the keys miq and config", file.string(),
        "give a folder that miq run --output made");
  Run run;
  run.name = name;
  run.version = json["miq"]["version"].text();
  run.libtorch = json["miq"]["libtorch"].text();
  run.device = json["miq"]["device"].text();
  run.threads = json["miq"]["threads"].count();
  run.config = json["config"].dump();
  const std::string path = json["config"]["model"]["path"].text();
  const fs::path model = fs::path(path).lexically_normal();
  run.model = model.has_filename() ? model.filename().string() : model.parent_path().filename().string();
  run.family = json["model"]["family"].text();
  run.parameters = json["model"]["parameters"].number();
  run.model_bytes = json["model"]["bytes"].number();
  run.dtype = json["model"]["dtype"].text();
  run.disk_bytes = bytes_on_disk(folder / "model");
  if (json["quantization"].is_known()) run.quantization = read_quantization(json["quantization"], json["config"]["recipe"]);
  for (const JsonReader& item : json["perplexity"].list()) run.scores.push_back(read_perplexity(item));
  for (const JsonReader& item : json["tasks"].list()) read_task(item, "task", run);
  for (const JsonReader& item : json["groups"].list()) read_task(item, "group", run);
  for (const JsonReader& item : json["categories"].list()) run.scores.push_back(read_mean(item));
  correct(run.scores);
  for (const JsonReader& item : json["events"].list()) run.events.push_back({item["layer"].text(), item["code"].text(), item["detail"].text()});
  for (const JsonReader& item : json["expect"].list())
    run.gates.push_back({item["what"].scalar(), item["bound"].scalar(), item["value"].scalar(), item["limit"].scalar(), item["met"].flag(false)});
  return run;
}

}  // namespace miq::executor::report
