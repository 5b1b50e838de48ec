// A user's own variant of a known family, in YAML (docs/add-a-model.md): `model.architecture: my.yaml`.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "config_json.h"
#include "miq/model/architecture.h"

namespace miq::model {

struct Description {
  std::string based_on = "llama";            ///< the family whose rules hold where nothing else is said
  std::map<std::string, std::string> keys;   ///< the family's key -> the key of this model's config.json
  nlohmann::json values = nlohmann::json::object();  ///< over config.json, under the family's keys
  std::map<std::string, std::string> tensors;        ///< place ("q", "embedding") -> tensor name
  /// Features; what is not given stays as the family has it.
  std::map<std::string, bool> flags;
  std::optional<Positions> positions;
  std::map<std::string, std::string> origins;  ///< "keys.KEY" and "values.KEY" -> where they stand in the YAML file
};

/// @throws Error{io} unreadable, Error{config} with file:line:column for a key, family or value it does not know.
Description read_description(const std::string& file);

/// The architecture that `family` reads from `config` with the description's keys and values, and its names and
/// features in place. @throws Error{config} for what contradicts itself, and for keys that the family does not read.
Architecture read_described(const Description& description, const ConfigJson& config,
                            const std::function<Architecture(const ConfigJson&)>& family);

}  // namespace miq::model
