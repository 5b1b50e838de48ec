#include "description.h"

#include "miq/core/config.h"
#include "miq/core/error.h"

namespace miq::model {
namespace {

// The places of tensors that a description can name.
struct Place {
  const char* key;
  std::string& (*of)(Architecture&);
};
const Place kPlaces[] = {
    {"embedding", [](Architecture& a) -> std::string& { return a.embedding; }},
    {"final_norm", [](Architecture& a) -> std::string& { return a.final_norm; }},
    {"head", [](Architecture& a) -> std::string& { return a.head; }},
    {"block_prefix", [](Architecture& a) -> std::string& { return a.block_prefix; }},
    {"input_norm", [](Architecture& a) -> std::string& { return a.names.input_norm; }},
    {"post_attention_norm", [](Architecture& a) -> std::string& { return a.names.post_attention_norm; }},
    {"attention_out_norm", [](Architecture& a) -> std::string& { return a.names.attention_out_norm; }},
    {"mlp_out_norm", [](Architecture& a) -> std::string& { return a.names.mlp_out_norm; }},
    {"q_norm", [](Architecture& a) -> std::string& { return a.names.q_norm; }},
    {"k_norm", [](Architecture& a) -> std::string& { return a.names.k_norm; }},
    {"q", [](Architecture& a) -> std::string& { return a.names.q; }},
    {"k", [](Architecture& a) -> std::string& { return a.names.k; }},
    {"v", [](Architecture& a) -> std::string& { return a.names.v; }},
    {"qkv", [](Architecture& a) -> std::string& { return a.names.qkv; }},
    {"o", [](Architecture& a) -> std::string& { return a.names.o; }},
    {"gate", [](Architecture& a) -> std::string& { return a.names.gate; }},
    {"up", [](Architecture& a) -> std::string& { return a.names.up; }},
    {"gate_up", [](Architecture& a) -> std::string& { return a.names.gate_up; }},
    {"down", [](Architecture& a) -> std::string& { return a.names.down; }},
    {"router", [](Architecture& a) -> std::string& { return a.names.router; }},
    {"expert", [](Architecture& a) -> std::string& { return a.names.expert; }},
    {"expert_gate", [](Architecture& a) -> std::string& { return a.names.expert_gate; }},
    {"expert_up", [](Architecture& a) -> std::string& { return a.names.expert_up; }},
    {"expert_down", [](Architecture& a) -> std::string& { return a.names.expert_down; }},
};

struct Flag {
  const char* key;
  bool& (*of)(Architecture&);
  const char* help;
};
const Flag kFlags[] = {
    {"qkv_bias", [](Architecture& a) -> bool& { return a.qkv_bias; }, "biases of q, k, v"},
    {"o_bias", [](Architecture& a) -> bool& { return a.o_bias; }, "bias of o"},
    {"mlp_bias", [](Architecture& a) -> bool& { return a.mlp_bias; }, "biases of gate, up, down"},
    {"qk_norm", [](Architecture& a) -> bool& { return a.qk_norm; }, "RMSNorm of each head's query and key"},
    {"tie_word_embeddings", [](Architecture& a) -> bool& { return a.tie_word_embeddings; }, "the head is the embedding"},
    {"normalised_head", [](Architecture& a) -> bool& { return a.normalised_head; }, "rows of the head divided by their length"},
    {"rope_interleaved", [](Architecture& a) -> bool& { return a.rope.interleaved; }, "rotation of pairs (2k, 2k+1)"},
};

// A scalar as YAML types it, or a list of them.
nlohmann::json to_json(const YAML::Node& node) {
  if (node.IsSequence()) {
    nlohmann::json list = nlohmann::json::array();
    for (const auto& item : node) list.push_back(to_json(item));
    return list;
  }
  if (node.IsMap()) {
    nlohmann::json object = nlohmann::json::object();
    for (const auto& entry : node) object[entry.first.Scalar()] = to_json(entry.second);
    return object;
  }
  if (!node.IsScalar()) return nullptr;
  std::int64_t whole = 0;
  double real = 0;
  bool flag = false;
  if (YAML::convert<std::int64_t>::decode(node, whole)) return whole;
  if (YAML::convert<double>::decode(node, real)) return real;
  if (YAML::convert<bool>::decode(node, flag)) return flag;
  return node.Scalar();
}

std::map<std::string, std::string> read_names(ConfigReader& reader, const char* key) {
  std::map<std::string, std::string> names;
  const YAML::Node node = reader.take(key);
  if (!node.IsDefined()) return names;
  if (!node.IsMap()) reader.fail(key, "must be a mapping of names");
  for (const auto& entry : node) {
    if (!entry.first.IsScalar() || !entry.second.IsScalar()) reader.fail(key, "must be a mapping of names");
    names[entry.first.Scalar()] = entry.second.Scalar();
  }
  return names;
}

}  // namespace

Description read_description(const std::string& file) {
  const ConfigSource source = ConfigSource::from_file(file);
  ConfigReader reader(source);
  Description d;
  reader.text("based_on", d.based_on, "family");
  d.keys = read_names(reader, "keys");
  if (const YAML::Node values = reader.take("values"); values.IsDefined()) {
    if (!values.IsMap()) reader.fail("values", "must be a mapping of config.json's keys");
    d.values = to_json(values);
  }
  if (auto tensors = reader.child("tensors")) {
    for (const Place& place : kPlaces) {
      std::string name;
      tensors->text(place.key, name, "tensor name");
      if (tensors->has(place.key)) d.tensors[place.key] = name;
    }
    tensors->finish();
  }
  if (auto features = reader.child("features")) {
    for (const Flag& flag : kFlags) {
      bool value = false;
      features->flag(flag.key, value, flag.help);
      if (features->has(flag.key)) d.flags[flag.key] = value;
    }
    Positions positions = Positions::rope;
    features->choice<Positions>("positions", positions, {{"rope", Positions::rope}, {"alibi", Positions::alibi}}, "");
    if (features->has("positions")) d.positions = positions;
    features->finish();
  }
  reader.finish();
  return d;
}

void describe(const Description& d, Architecture& a) {
  for (const Place& place : kPlaces)
    if (const auto found = d.tensors.find(place.key); found != d.tensors.end()) place.of(a) = found->second;
  for (const Flag& flag : kFlags)
    if (const auto found = d.flags.find(flag.key); found != d.flags.end()) flag.of(a) = found->second;
  if (d.positions) a.positions = *d.positions;
  if (a.experts.count > 0 && a.fused_gate_up())
    throw Error(ErrorKind::config, "experts whose gate and up are one tensor are not supported", "tensors.gate_up");
}

}  // namespace miq::model
