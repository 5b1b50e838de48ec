#include "inspect_quantization.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "miq/core/text.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;

// Where each method keeps the width of its codes, wherever it is nested.
const std::set<std::string> kBitKeys = {"bits", "num_bits", "w_bit", "nbits", "wbits"};
const std::set<std::string> kWeightPaths = {"input_activations", "output_activations", "kv_cache_scheme", "meta", "activation"};

// What of weights a configuration says, all values of it.
struct Found {
  std::set<std::int64_t> bits, groups;
  std::set<bool> symmetric;
};

void collect(const nlohmann::json& node, Found& found, int depth = 0) {
  if (depth > 20) return;
  if (node.is_array())
    for (const auto& item : node) collect(item, found, depth + 1);
  if (!node.is_object()) return;
  for (const auto& [key, value] : node.items()) {
    if (kWeightPaths.count(key) != 0) continue;
    if (kBitKeys.count(key) != 0 && value.is_number_integer()) found.bits.insert(value.get<std::int64_t>());
    if ((key == "group_size" || key == "q_group_size" || key == "groupsize") && value.is_number_integer()) found.groups.insert(value.get<std::int64_t>());
    if ((key == "sym" || key == "symmetric") && value.is_boolean()) found.symmetric.insert(value.get<bool>());
    if (key == "zero_point" && value.is_boolean()) found.symmetric.insert(!value.get<bool>());
    if (key == "load_in_4bit" && value == true) found.bits.insert(4);
    if (key == "load_in_8bit" && value == true) found.bits.insert(8);
    collect(value, found, depth + 1);
  }
}

Json only(const std::set<std::int64_t>& values) { return values.size() == 1 ? Json(*values.begin()) : Json(); }

Json describe(const nlohmann::json& config, const std::string& fallback, const std::string& source) {
  std::string method = fallback;
  for (const char* key : {"quant_method", "quant_algo"})
    if (config.contains(key) && config[key].is_string()) {
      method = config[key].get<std::string>();
      break;
    }
  Found found;
  collect(config, found);
  // FP8 is said by name alone in some.
  std::string text = method;
  if (config.contains("quant_algo") && config["quant_algo"].is_string()) text += " " + config["quant_algo"].get<std::string>();
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (found.bits.empty() && text.find("fp8") != std::string::npos) found.bits.insert(8);
  Json format;
  for (const char* key : {"checkpoint_format", "format", "version", "fmt", "quant_algo"})
    if (config.contains(key) && config[key].is_string()) {
      format = config[key].get<std::string>();
      break;
    }
  return {{"method", printable(method)},
          {"bits", found.bits},
          {"group_size", only(found.groups)},
          {"symmetric", found.symmetric.size() == 1 ? Json(*found.symmetric.begin()) : Json()},
          {"format", format},
          {"source", source}};
}

}  // namespace

Json describe_quantization(const format::DeclaredQuantization& declared) {
  return declared.content.is_null() ? Json() : describe(declared.content, "unknown", declared.source);
}

Json block_quantization(const std::map<std::string, std::int64_t>& linear_types) {
  const std::set<std::string> plain = {"F32", "F16", "BF16", "F64"};
  std::int64_t blocks = 0;
  std::set<std::int64_t> bits;
  Json types = Json::array();
  std::string most;
  for (const auto& [type, bytes] : linear_types) {
    if (plain.count(type) == 0) blocks += bytes;
    const size_t q = type.find('Q');  // Q4_K, IQ2_XS
    if (q != std::string::npos && q + 1 < type.size() && std::isdigit(static_cast<unsigned char>(type[q + 1]))) bits.insert(type[q + 1] - '0');
    types.push_back(type);
    if (most.empty() || bytes > linear_types.at(most)) most = type;
  }
  if (blocks == 0) return nullptr;
  return {{"method", "gguf"}, {"bits", bits}, {"group_size", nullptr}, {"symmetric", nullptr}, {"format", most}, {"types", types}, {"source", "ggml types of the linears"}};
}

}  // namespace miq::executor
