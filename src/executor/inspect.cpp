// What a checkpoint is, from its headers: config.json or GGUF metadata, and the tables of tensors.
#include "miq/executor/inspect.h"

#include <algorithm>
#include <set>

#include "inspect_quantization.h"
#include "miq/core/checkpoint_files.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"
#include "miq/core/gguf.h"
#include "miq/core/hub_cache.h"
#include "miq/executor/open_model.h"

namespace miq::executor {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// A tensor as it lies in the files.
struct Stored {
  std::string type;
  std::int64_t numel = 0, bytes = 0;
};

std::map<std::string, Stored> stored_tensors(const fs::path& path) {
  std::map<std::string, Stored> stored;
  if (const auto gguf = find_gguf(path)) {
    const GgufFile file = GgufFile::open(*gguf);
    for (const auto& [name, tensor] : file.tensors())
      stored[name] = {ggml_type_name(tensor.type), c10::multiply_integers(tensor.shape), tensor.bytes};
  } else if (has_checkpoint(path)) {
    for (const TensorSpec& spec : open_checkpoint(path)->specs()) stored[spec.name] = {dtype_name(spec.dtype), spec.numel(), spec.bytes()};
  }
  return stored;
}

struct Inspector {
  fs::path path;
  std::shared_ptr<const model::Architecture> a;
  std::map<std::string, Stored> stored;
  bool gguf = false;
  std::int64_t linears = 0, expert_linears = 0, others = 0;  // weights of linears (all, experts'), other parameters
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> shapes;  // (out, in) of linears -> how many
  std::set<std::string> linear_names;
  std::set<int> bits;  // of the codes, where they can be read

  void count() {
    for (std::int64_t l = 0; l < a->num_layers; ++l) {
      model::Block block(a, l);
      for (const model::Linear* linear : block.linears()) {
        linear_names.insert(linear->name);
        linears += linear->out_features * linear->in_features;
        ++shapes[{linear->out_features, linear->in_features}];
      }
      if (!a->is_sparse(l)) continue;
      for (const std::int64_t stage : {std::int64_t{model::kGateUp}, std::int64_t{model::kDown}})
        for (const model::Linear* linear : block.stage(stage)) expert_linears += linear->out_features * linear->in_features;
    }
    others = -linears;
    for (const auto& [name, shape] : model::required_tensors(a)) others += c10::multiply_integers(shape);
  }

  // Whether a stored tensor is (a part of) a linear's weight: the weight itself, or packed codes, scales, zeros.
  bool is_of_linear(const std::string& name) const {
    if (gguf) return name.rfind("blk.", 0) == 0 && name.ends_with(".weight") && name.find("norm") == std::string::npos && name.find("ffn_gate_inp") == std::string::npos;
    const size_t dot = name.rfind('.');
    return dot != std::string::npos && !name.ends_with(".bias") && linear_names.count(name.substr(0, dot)) != 0;
  }

  Json architecture() const {
    const model::Rope& rope = a->rope;
    const char* const scalings[] = {"none", "linear", "llama3", "yarn", "factors"};
    Json positions = {{"kind", "alibi"}};
    if (a->positions == model::Positions::rope)
      positions = {{"kind", "rope"}, {"theta", rope.theta}, {"dim", a->rotary_dim()}, {"interleaved", rope.interleaved},
                   {"scaling", scalings[static_cast<int>(rope.scaling)]}, {"factor", rope.factor}};
    Json experts;
    std::int64_t sparse = 0;
    for (std::int64_t l = 0; l < a->num_layers; ++l) sparse += a->is_sparse(l);
    if (sparse > 0)
      experts = {{"count", a->experts.count}, {"per_token", a->experts.per_token}, {"intermediate_size", a->experts.intermediate_size}, {"layers", sparse}};
    return {{"hidden_size", a->hidden_size},
            {"intermediate_size", a->intermediate_size},
            {"num_layers", a->num_layers},
            {"num_heads", a->num_heads},
            {"num_kv_heads", a->num_kv_heads},
            {"head_dim", a->head_dim},
            {"experts", experts},
            {"vocab_size", a->vocab_size},
            {"context", a->max_position_embeddings},
            {"positions", positions},
            {"sliding_window", a->sliding_window.empty() ? Json() : Json(a->sliding_window)},
            {"tied_head", a->tie_word_embeddings},
            {"dtype", a->torch_dtype}};
  }

  Json parameters() const {
    const std::int64_t embedding = a->vocab_size * a->hidden_size, head = a->tie_word_embeddings ? 0 : embedding;
    const std::int64_t idle = a->experts.count > 0 ? expert_linears / a->experts.count * (a->experts.count - a->experts.per_token) : 0;
    return {{"total", linears + others},
            {"active", linears + others - idle},
            {"embedding", embedding},
            {"head", head},
            {"linears", linears},
            {"experts", expert_linears},
            {"other", others - embedding - head}};
  }

  Json stored_types() const {
    std::map<std::string, Stored> sums;
    std::map<std::string, std::int64_t> counts;
    for (const auto& [name, tensor] : stored) {
      sums[tensor.type].numel += tensor.numel;
      sums[tensor.type].bytes += tensor.bytes;
      ++counts[tensor.type];
    }
    Json types = Json::array();
    for (const auto& [type, sum] : sums) types.push_back({{"type", type}, {"tensors", counts[type]}, {"elements", sum.numel}, {"bytes", sum.bytes}});
    std::stable_sort(types.begin(), types.end(), [](const Json& x, const Json& y) { return x["bytes"] > y["bytes"]; });
    return types;
  }

  // Bytes of what is no linear's weight: as stored, or in the model's type where there are no files.
  std::int64_t rest_bytes() const {
    std::int64_t bytes = 0;
    for (const auto& [name, tensor] : stored)
      if (!is_of_linear(name)) bytes += tensor.bytes;
    const auto dtype = dtype_from_name(a->torch_dtype);
    return !stored.empty() ? bytes : others * static_cast<std::int64_t>(dtype ? c10::elementSize(*dtype) : 4);
  }

  // Codes packed without gaps; a scale in 16 bits for each group of a row, and a zero point of the codes' width.
  std::int64_t linear_bytes(std::int64_t bits, bool symmetric) const {
    constexpr std::int64_t kGroup = 128;
    std::int64_t sum = 0;
    for (const auto& [shape, count] : shapes) {
      const std::int64_t groups = shape.first * ((shape.second + kGroup - 1) / kGroup);
      const std::int64_t codes = shape.first * shape.second * bits + (symmetric || bits == 16 ? 0 : groups * bits);
      sum += count * ((codes + 7) / 8 + (bits == 16 ? 0 : 2 * groups));
    }
    return sum;
  }

  Json memory() const {
    const std::int64_t rest = rest_bytes();
    Json list = Json::array();
    for (const std::int64_t bits : {16, 8, 4, 3, 2}) {
      const std::int64_t symmetric = linear_bytes(bits, true), asymmetric = linear_bytes(bits, false);
      list.push_back({{"bits", bits},
                      {"bits_per_weight", 8.0 * static_cast<double>(asymmetric) / static_cast<double>(linears)},
                      {"bytes", rest + asymmetric},
                      {"bytes_symmetric", rest + symmetric}});
    }
    return {{"convention", "linears: groups of 128 with a float16 scale and, asymmetric, a packed zero point; embedding, head, norms, routers and biases as stored"},
            {"rest_bytes", rest},
            {"by_bits", list}};
  }

  Json kv_cache() const {
    const std::int64_t per_layer = 2 * a->kv_size() * 2, context = a->max_position_embeddings;
    std::int64_t full = 0;
    for (std::int64_t l = 0; l < a->num_layers; ++l) {
      const std::int64_t window = a->sliding_window.empty() ? 0 : a->sliding_window[static_cast<size_t>(l)];
      full += per_layer * (window > 0 ? std::min(window, context) : context);
    }
    return {{"dtype", "float16"}, {"bytes_per_token", per_layer * a->num_layers}, {"context", context}, {"bytes_at_context", full}};
  }

  Json loads(const std::string& family) {
    try {
      const auto own = std::make_shared<const model::Architecture>(model::read_architecture(path, family));
      const std::shared_ptr<const TensorSource> tensors = open_weights(path).tensors;
      if (const auto quantized = std::dynamic_pointer_cast<const format::QuantizedCheckpoint>(tensors))
        for (const format::Scheme& scheme : quantized->linears()) bits.insert(scheme.grid.bits);
      model::check_tensors(*tensors, own, path.string());
      return {{"ok", true}};
    } catch (const Error& error) {
      return {{"ok", false}, {"reason", error.message()}, {"where", error.where()}};
    }
  }
};

Json list_files(const std::vector<fs::path>& files) {
  Json list = Json::array();
  for (const fs::path& file : files) {
    std::error_code problem;
    const auto bytes = fs::file_size(file, problem);
    list.push_back({{"name", file.filename().string()}, {"bytes", problem ? Json() : Json(bytes)}});
  }
  return list;
}

std::string container(const std::vector<fs::path>& files) {
  if (files.empty()) return "none";
  const std::string extension = files.front().extension().string();
  return extension == ".gguf" || extension == ".safetensors" ? extension.substr(1) : "torch";
}

}  // namespace

Json inspect_model(const std::string& model, const std::string& architecture) {
  Inspector inspector;
  inspector.path = resolve_model_path(model);
  const auto gguf = find_gguf(inspector.path);
  inspector.gguf = gguf.has_value();
  const nlohmann::json config = model::checkpoint_config(inspector.path);
  const Json declared = describe_quantization(format::declared_quantization(inspector.path, config));
  const std::string where = (gguf ? *gguf : inspector.path / "config.json").string();
  inspector.a = std::make_shared<const model::Architecture>(model::read_architecture(config, where, architecture));
  inspector.stored = stored_tensors(inspector.path);
  inspector.count();
  std::map<std::string, std::int64_t> linear_types;
  std::int64_t bytes = 0, linear_bytes = 0;
  for (const auto& [name, tensor] : inspector.stored) {
    bytes += tensor.bytes;
    if (!inspector.is_of_linear(name)) continue;
    linear_bytes += tensor.bytes;
    linear_types[tensor.type] += tensor.bytes;
  }
  const Json parameters = inspector.parameters();
  const std::vector<fs::path> files = checkpoint_files(inspector.path);
  Json result = {{"path", inspector.path.string()},
                 {"family", inspector.a->family},
                 {"container", container(files)},
                 {"files", list_files(files)},
                 {"architecture", inspector.architecture()},
                 {"parameters", parameters},
                 {"stored", inspector.stored_types()},
                 {"stored_bytes", bytes},
                 {"quantization", inspector.gguf ? block_quantization(linear_types) : declared},
                 {"memory", inspector.memory()},
                 {"kv_cache", inspector.kv_cache()},
                 {"loads", inspector.loads(architecture)}};
  if (!inspector.bits.empty()) result["quantization"]["bits"] = inspector.bits;
  if (!result["quantization"].is_null() && linear_bytes > 0)
    result["quantization"]["stored_bits_per_weight"] = 8.0 * static_cast<double>(linear_bytes) / static_cast<double>(parameters["linears"].get<std::int64_t>());
  return result;
}

}  // namespace miq::executor
