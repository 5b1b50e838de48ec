// MI-optimize's YAML (top key quant_config) told in miq's own keys. Oddities that MI-optimize passed
// over in silence are warned of, with their line and with what it really did.
#include <set>

#include "miq/core/device.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/executor/job_config.h"

namespace miq::executor {
namespace {

constexpr const char* kTop = "quant_config";
const std::set<std::string> kTextCorpora = {"wikitext2", "ptb", "c4"};

class Translator {
 public:
  explicit Translator(const ConfigSource& source) : source_(source) {}

  YAML::Node run() {
    const YAML::Node config = last_value(source_.root(), kTop);
    if (!config.IsMap()) throw Error(ErrorKind::config, "quant_config has no keys", source_.where(kTop, config));
    known(config, "quant_config", {"algo", "model_type", "kwargs", "calibrate_config"});
    kwargs_ = config["kwargs"] && config["kwargs"].IsMap() ? config["kwargs"] : YAML::Node(YAML::NodeType::Map);
    known(kwargs_, "kwargs",
          {"w_dtype", "a_dtype", "device", "offload", "w_groupsize", "a_groupsize", "groupsize", "w_qtype", "a_qtype", "w_has_zero",
           "a_has_zero", "w_unsign", "a_unsign", "quantization_type", "blocksize", "percdamp", "actorder", "alpha", "quant_out",
           "block_sequential", "layer_sequential", "skip_layers", "calibrate_seq_length", "num_calibrate", "model_type"});
    native_ = YAML::Node(YAML::NodeType::Map);
    device();
    recipe(text(config, "algo", ""), config);
    pipeline();
    calibration(config["calibrate_config"]);
    return native_;
  }

 private:
  void warn(const YAML::Node& node, const std::string& message) const { log_warning(source_.where("", node) + ": " + message); }

  // Python's reader keeps the last of equal keys.
  YAML::Node last_value(const YAML::Node& map, const std::string& key) const {
    YAML::Node value;
    int count = 0;
    for (const auto& entry : map) {
      if (entry.first.Scalar() != key) continue;
      if (++count > 1) warn(entry.first, "'" + key + "' stands twice: MI-optimize read the last one, and so does miq");
      value.reset(entry.second);
    }
    return value;
  }

  void known(const YAML::Node& map, const std::string& name, const std::set<std::string>& keys) const {
    for (const auto& entry : map) {
      if (keys.count(entry.first.Scalar())) continue;
      const std::string nearest = nearest_name(entry.first.Scalar(), {keys.begin(), keys.end()});
      warn(entry.first, "MI-optimize ignored the key '" + entry.first.Scalar() + "' of " + name +
                            (nearest.empty() ? "" : " (did you mean " + nearest + "?)"));
    }
  }

  static std::string text(const YAML::Node& map, const char* key, const std::string& fallback) {
    return map[key] && map[key].IsScalar() ? map[key].Scalar() : fallback;
  }

  bool flag(const YAML::Node& map, const char* key, bool fallback) const {
    if (!map[key]) return fallback;
    bool value = false;
    if (!map[key].IsScalar() || !YAML::convert<bool>::decode(map[key], value))
      throw Error(ErrorKind::config, std::string(key) + " must be true or false", source_.where(key, map[key]));
    return value;
  }

  std::int64_t whole(const YAML::Node& map, const char* key, std::int64_t fallback) const {
    if (!map[key]) return fallback;
    std::int64_t value = 0;
    if (!map[key].IsScalar() || !YAML::convert<std::int64_t>::decode(map[key], value))
      throw Error(ErrorKind::config, std::string(key) + " must be a whole number", source_.where(key, map[key]));
    return value;
  }

  // int4 -> 4; float16, float32 and nothing -> 0: not quantized.
  int bits(const char* key, const std::string& fallback) const {
    const std::string dtype = text(kwargs_, key, fallback);
    if (dtype == "float16" || dtype == "float32" || dtype == "bfloat16") return 0;
    if (dtype.size() == 4 && dtype.rfind("int", 0) == 0 && dtype[3] >= '2' && dtype[3] <= '8') return dtype[3] - '0';
    throw Error(ErrorKind::config, std::string(key) + " cannot be '" + dtype + "'", source_.where(key, kwargs_[key] ? kwargs_[key] : kwargs_),
                "use int2 .. int8, float16 or float32");
  }

  void device() {
    const std::string wanted = text(kwargs_, "device", "cuda");
    if (wanted.rfind("cuda", 0) == 0 && gpu_count() == 0) {
      warn(kwargs_["device"] ? kwargs_["device"] : kwargs_, "the file asks for " + wanted + ", which is not here: the CPU computes");
      native_["device"] = "auto";
    } else {
      native_["device"] = wanted;
    }
  }

  static bool is_smoothquant(const std::string& algo) { return algo.rfind("smoothquant", 0) == 0; }
  // Symmetric and dynamic there, whatever is asked.
  static bool is_fixed_int8(const std::string& algo) { return is_smoothquant(algo) || algo == "zeroquant"; }

  void grid(YAML::Node recipe, const std::string& algo, int weight_bits) const {
    recipe["grid"]["bits"] = weight_bits;
    if (algo == "spqr" || algo == "quip") return;  // grids of their own
    // GPTQ there has no working symmetric scheme, so that without the key it is asymmetric.
    if (is_fixed_int8(algo) && flag(kwargs_, "w_has_zero", false)) warn(kwargs_["w_has_zero"], "MI-optimize's " + algo + " ignored w_has_zero: its weights are symmetric; so are miq's");
    recipe["grid"]["symmetric"] = is_fixed_int8(algo) || !flag(kwargs_, "w_has_zero", algo.find("gptq") != std::string::npos);
    const std::string qtype = text(kwargs_, "w_qtype", "per_channel");
    const char* const key = kwargs_["w_groupsize"] ? "w_groupsize" : "groupsize";
    const std::int64_t group = whole(kwargs_, key, -1);
    if (algo == "zeroquant" && kwargs_["w_groupsize"] && !kwargs_["groupsize"])
      warn(kwargs_["w_groupsize"], "MI-optimize's zeroquant reads groupsize and ignored w_groupsize; miq takes it");
    if (qtype != "per_group" && group > 0) warn(kwargs_[key], std::string(key) + " has no meaning with w_qtype " + qtype + ": MI-optimize ignored it, and so does miq");
    if (qtype == "per_group" && group > 0) {
      recipe["grid"]["granularity"] = "group";
      recipe["grid"]["group_size"] = group;
    } else if (qtype == "per_group" || qtype == "per_channel") {  // group -1: the whole row
      recipe["grid"]["granularity"] = "channel";
    } else if (qtype == "per_tensor") {
      recipe["grid"]["granularity"] = "tensor";
    } else {
      throw Error(ErrorKind::unsupported, "w_qtype '" + qtype + "' is not in this version", source_.where("w_qtype", kwargs_["w_qtype"]),
                  "use per_tensor, per_channel or per_group");
    }
  }

  void activation(YAML::Node recipe, const std::string& algo, int activation_bits) const {
    if (activation_bits == 0) return;
    recipe["activation"]["bits"] = activation_bits;
    const bool dynamic_only = text(kwargs_, "quantization_type", "static") != "dynamic" && is_fixed_int8(algo);
    if (dynamic_only && kwargs_["quantization_type"])
      warn(kwargs_["quantization_type"], "MI-optimize's " + algo + " ignored quantization_type: activations are always dynamic; so are miq's");
    const bool dynamic = dynamic_only || text(kwargs_, "quantization_type", "static") == "dynamic";
    const std::string qtype = text(kwargs_, "a_qtype", "per_tensor");
    if (qtype == "per_dimension")
      throw Error(ErrorKind::unsupported, "activations per dimension cannot be computed by a product of codes", source_.where("a_qtype", kwargs_["a_qtype"]),
                  "use per_tensor, per_token or per_group");
    if (!dynamic && qtype != "per_tensor") warn(kwargs_["a_qtype"], "static activations were per_tensor in MI-optimize whatever a_qtype said; so are miq's");
    static const std::map<std::string, std::string> kNames = {
        {"per_tensor", "tensor"}, {"per_token", "token"}, {"per_group", "group"}};
    const auto name = kNames.find(qtype);
    recipe["activation"]["granularity"] = !dynamic || name == kNames.end() ? "tensor" : name->second;
    const std::int64_t group = whole(kwargs_, "a_groupsize", -1);
    if (recipe["activation"]["granularity"].Scalar() == "group") {
      if (group > 0) recipe["activation"]["group_size"] = group;
      else recipe["activation"]["granularity"] = "token";  // a group of -1 is the whole row
    }
    recipe["activation"]["dynamic"] = dynamic;
    recipe["activation"]["symmetric"] = !flag(kwargs_, "a_has_zero", false);
  }

  void recipe(const std::string& algo, const YAML::Node& config) {
    static const std::set<std::string> kAlgorithms = {"rtn", "gptq", "awq", "spqr", "zeroquant", "smoothquant", "quip", "fp8", "awq+gptq", "smoothquant+gptq"};
    if (!kAlgorithms.count(algo))
      throw Error(ErrorKind::config, "algo cannot be '" + algo + "'", source_.where("algo", config["algo"] ? config["algo"] : config),
                  "did you mean " + nearest_name(algo, {kAlgorithms.begin(), kAlgorithms.end()}) + "?");
    YAML::Node recipe(YAML::NodeType::Map);
    recipe["preset"] = algo;
    const int weight_bits = bits("w_dtype", "float16");
    const bool gptq = algo.find("gptq") != std::string::npos;
    if (weight_bits > 0 && algo != "fp8") grid(recipe, algo, weight_bits);
    if (algo == "fp8") warn(config["algo"], "MI-optimize's fp8 could not be reached (and its e5m2 makes every weight 0); miq computes e4m3 weights by channel, inputs by token");
    if (algo == "spqr") warn(config["algo"], "MI-optimize's spqr could not be constructed; miq computes SpQR as published");
    if (algo.find('+') != std::string::npos)
      warn(config["algo"], "MI-optimize's " + algo + " used the Hessian of unscaled inputs, which is mostly worse than plain rounding; miq transforms it with the weights");
    if (is_smoothquant(algo) || algo.rfind("awq", 0) == 0)
      warn(config["algo"], "MI-optimize divided each linear's input by a scale of its own at run time; miq shares it among linears of one input and folds it into the operation before");
    if (is_smoothquant(algo)) recipe["transform"]["alpha"] = kwargs_["alpha"] ? text(kwargs_, "alpha", "0.5") : std::string("0.5");
    if (gptq) {
      recipe["rounding"]["act_order"] = flag(kwargs_, "actorder", true);
      recipe["rounding"]["group_aware"] = false;
      recipe["range"] = "min_max";
      recipe["rounding"]["block_size"] = whole(kwargs_, "blocksize", 128);
      if (kwargs_["percdamp"]) recipe["rounding"]["percdamp"] = text(kwargs_, "percdamp", "0.01");
    }
    if (algo != "fp8") activation(recipe, algo, bits("a_dtype", "float16"));
    rules(recipe, weight_bits == 0);
    native_["recipe"] = recipe;
  }

  void rules(YAML::Node recipe, bool keep_all) const {
    std::vector<std::string> patterns = {"lm_head"};
    if (keep_all) {
      patterns = {".*"};
    } else if (const YAML::Node skip = kwargs_["skip_layers"]; skip && skip.IsSequence()) {
      patterns.clear();
      for (const auto& item : skip)
        if (item.IsScalar()) patterns.push_back(item.Scalar());
    }
    for (const std::string& pattern : patterns) {
      YAML::Node rule(YAML::NodeType::Map);
      rule["match"] = pattern;
      rule["keep"] = "float";
      recipe["rules"].push_back(rule);
    }
  }

  void pipeline() {
    native_["pipeline"]["order"] = flag(kwargs_, "layer_sequential", false) ? "stage" : "block";
    native_["pipeline"]["propagate"] = flag(kwargs_, "block_sequential", flag(kwargs_, "quant_out", false)) ? "quantized" : "float";
    const std::string offload = text(kwargs_, "offload", "none");
    native_["pipeline"]["offload"] = offload == "disk" ? "disk" : offload == "cpu" && !native_["device"].Scalar().empty() && gpu_count() > 0 ? "cpu" : "none";
  }

  // BOSS: task_name and dataset_name, or calibrate_subject (one or a list) or dataset, named Task_dataset; calibrate_nums a number
  // or a map of them.
  void boss(const YAML::Node& config, YAML::Node out) const {
    const YAML::Node nums = config["calibrate_nums"];
    std::vector<std::string> names;
    for (const char* key : {"calibrate_subject", "dataset"}) {
      if (!config[key] || !names.empty()) continue;
      if (config[key].IsScalar()) names.push_back(config[key].Scalar());
      else if (config[key].IsSequence())
        for (const auto& item : config[key]) names.push_back(item.as<std::string>(""));
    }
    if (config["task_name"] && config["dataset_name"]) names = {text(config, "task_name", "") + "_" + text(config, "dataset_name", "")};
    if (names.size() == 1 && names[0] == "all") names.clear();
    if (names.empty() && nums && nums.IsMap())
      for (const auto& entry : nums) names.push_back(entry.first.Scalar());
    std::string datasets;
    for (const std::string& name : names) {
      datasets += (datasets.empty() ? "" : ", ") + std::string(name.rfind("boss", 0) == 0 ? "" : "boss_") + name;
      if (nums && nums.IsMap() && nums[name] && nums[name].IsScalar()) datasets += "=" + nums[name].Scalar();
    }
    out["dataset"] = datasets.empty() ? "boss" : datasets;
    if (nums && nums.IsScalar()) out[datasets.empty() ? "per_subject" : "samples"] = whole(config, "calibrate_nums", 128);
    else if (datasets.empty()) out["per_subject"] = out["samples"];
    out["shuffle"] = flag(config, "shuffle", false);
  }

  // Subjects and how many questions of each.
  void examination(const YAML::Node& config, YAML::Node out) const {
    const YAML::Node nums = config["calibrate_nums"];
    std::string subjects = text(config, "calibrate_subject", "all");
    if (nums && nums.IsMap()) {
      subjects.clear();
      for (const auto& entry : nums) subjects += (subjects.empty() ? "" : ", ") + entry.first.Scalar() + "=" + entry.second.Scalar();
    } else if (nums) {
      out["per_subject"] = whole(config, "calibrate_nums", 4);
    }
    out["subjects"] = subjects;
    out["shuffle"] = flag(config, "shuffle", false);
  }

  void calibration(const YAML::Node& config) {
    if (!config || !config.IsMap()) return;
    known(config, "calibrate_config",
          {"name", "split", "nsamples", "seqlen", "seed", "calibrate_subject", "calibrate_nums", "calibrate_seqlen", "shuffle", "nsample", "dataset", "task_name", "dataset_name"});
    const std::string name = text(config, "name", "wikitext2");
    if (config["nsample"] && !config["nsamples"] && kTextCorpora.count(name))
      warn(config["nsample"], "MI-optimize ignored nsample (its key is nsamples) and used 128 samples; so does miq");
    YAML::Node out(YAML::NodeType::Map);
    out["dataset"] = name;
    out["split"] = text(config, "split", "train");
    out["samples"] = whole(config, "nsamples", whole(kwargs_, "num_calibrate", 128));
    out["seqlen"] = whole(config, "seqlen", whole(config, "calibrate_seqlen", whole(kwargs_, "calibrate_seq_length", 2048)));
    out["seed"] = whole(config, "seed", 42);
    out["sampling"] = "random";
    if (name == "ceval" || name == "cmmlu") examination(config, out);
    if (name == "boss") boss(config, out);
    native_["calibration"] = out;
  }

  const ConfigSource& source_;
  YAML::Node kwargs_, native_;
};

}  // namespace

bool is_mi_optimize(const ConfigSource& source) {
  for (const auto& entry : source.root())
    if (entry.first.IsScalar() && entry.first.Scalar() == kTop) return true;
  return false;
}

YAML::Node translate_mi_optimize(const ConfigSource& source) { return Translator(source).run(); }

}  // namespace miq::executor
