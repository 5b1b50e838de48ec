#include "description.h"

#include <algorithm>

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

// Every key of the mapping under `section`, whatever it is called.
void read_entries(ConfigReader& reader, const char* section, Description& d, const std::function<void(const std::string&, ConfigReader&)>& read) {
  const YAML::Node node = reader.take(section);
  if (!node.IsDefined()) return;
  ConfigReader entries = reader.nested(section, node);
  for (const auto& entry : node) {
    const std::string key = entry.first.Scalar();
    read(key, entries);
    d.origins[std::string(section) + "." + key] = entries.where(key.c_str());
  }
}

std::string read_family_name(ConfigReader& reader) {
  std::string family = Description().based_on, known;
  reader.text("based_on", family, "family");
  const std::vector<std::string> names = family_names();
  if (std::find(names.begin(), names.end(), family) != names.end()) return family;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  const std::string nearest = nearest_name(family, names);
  reader.fail("based_on", "cannot be '" + family + "'", (nearest.empty() ? "" : "did you mean " + nearest + "? ") + ("known: " + known));
}

// One linear in place of others: both cannot be there.
void check_fused(const ConfigReader& tensors, const Description& d, const char* fused, std::initializer_list<const char*> parts) {
  const auto names = [&](const char* place) { return d.tensors.count(place) != 0 && !d.tensors.at(place).empty(); };
  for (const char* part : parts)
    if (names(fused) && names(part)) tensors.fail(part, std::string("and ") + fused + " cannot both be named", std::string("keep ") + fused + " alone where the checkpoint has one tensor for them");
}

}  // namespace

Description read_description(const std::string& file) {
  const ConfigSource source = ConfigSource::from_file(file);
  ConfigReader reader(source);
  Description d;
  d.based_on = read_family_name(reader);
  read_entries(reader, "keys", d, [&](const std::string& key, ConfigReader& keys) {
    keys.text(key.c_str(), d.keys[key], "");
    if (d.keys[key].empty()) keys.fail(key.c_str(), "must be text: the key's name in config.json");
  });
  read_entries(reader, "values", d, [&](const std::string& key, ConfigReader& values) { d.values[key] = to_json(values.take(key.c_str())); });
  if (auto tensors = reader.child("tensors")) {
    for (const Place& place : kPlaces) {
      std::string name;
      tensors->text(place.key, name, "tensor name");
      if (tensors->has(place.key)) d.tensors[place.key] = name;
    }
    tensors->finish();
    check_fused(*tensors, d, "qkv", {"q", "k", "v"});
    check_fused(*tensors, d, "gate_up", {"gate", "up"});
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

namespace {

// A key that nothing asked for is a mistake, like any other unknown key. `failure`: what ended the reading before all
// were asked for, when the key that it missed is the misspelled one.
void check_all_asked(const Description& d, const ConfigJson& config, const Error* failure = nullptr) {
  const std::vector<std::string> asked(config.asked().begin(), config.asked().end());
  const auto check = [&](const std::string& key, const char* section) {
    if (config.asked().count(config.spelled(key)) != 0) return;
    const std::string nearest = nearest_name(key, asked);
    if (failure != nullptr && (nearest.empty() || failure->message() != "'" + nearest + "' is missing")) return;
    throw Error(ErrorKind::config, "the family " + d.based_on + " has no key '" + key + "'", d.origins.at(section + ("." + key)),
                nearest.empty() ? "take the keys of a config.json of that family" : "did you mean " + nearest + "?");
  };
  for (const auto& [key, spelled] : d.keys) check(key, "keys");
  for (const auto& [key, value] : d.values.items()) check(key, "values");
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

}  // namespace

Architecture read_described(const Description& d, const ConfigJson& config, const std::function<Architecture(const ConfigJson&)>& family) {
  std::map<std::string, std::string> origins;
  for (const auto& [key, value] : d.values.items()) origins[key] = d.origins.at("values." + key);
  const ConfigJson own = config.with_keys(d.keys).with_values(d.values, origins);
  Architecture a;
  try {
    a = family(own);
  } catch (const Error& failure) {
    check_all_asked(d, own, &failure);
    throw;
  }
  check_all_asked(d, own);
  describe(d, a);
  return a;
}

}  // namespace miq::model
