// `miq inspect` for people.
#include <algorithm>

#include "miq/core/memory.h"
#include "miq/core/text.h"
#include "miq/executor/inspect.h"

namespace miq::executor {
namespace {

using Json = nlohmann::ordered_json;
using Rows = std::vector<std::vector<std::string>>;

// 6738415616 -> "6.74 B".
std::string count(const Json& number) {
  const auto value = number.get<double>();
  const std::pair<double, const char*> units[] = {{1e9, " B"}, {1e6, " M"}, {1e3, " K"}};
  for (const auto& [unit, name] : units)
    if (value >= unit) return format_fixed(value / unit, 2) + name;
  return number.dump();
}

std::string bytes(const Json& number) { return number.is_null() ? "?" : format_bytes(number.get<std::int64_t>()); }
std::string text(const Json& value) { return value.is_string() ? value.get<std::string>() : value.is_boolean() ? (value.get<bool>() ? "yes" : "no") : value.dump(); }

std::string joined(const Json& list, const std::string& separator) {
  std::string all;
  for (const Json& item : list) all += (all.empty() ? "" : separator) + text(item);
  return all;
}

std::string files(const Json& inspection) {
  const Json& list = inspection["files"];
  if (list.empty()) return "no weights";
  if (list.size() == 1) return text(inspection["container"]) + ", " + text(list[0]["name"]);
  return text(inspection["container"]) + ", " + std::to_string(list.size()) + " files, " + text(list.front()["name"]) + " ...";
}

std::string positions(const Json& architecture) {
  const Json& p = architecture["positions"];
  if (p["kind"] == "alibi") return "ALiBi";
  std::string line = "rotary, base " + format_fixed(p["theta"].get<double>(), 0);
  if (p["dim"] != architecture["head_dim"]) line += ", " + p["dim"].dump() + " dimensions of a head";
  if (p["interleaved"] == true) line += ", interleaved pairs";
  if (p["scaling"] != "none") line += ", " + text(p["scaling"]) + (p["scaling"] == "factors" ? "" : " x" + format_fixed(p["factor"].get<double>(), 1));
  return line;
}

std::string windows(const Json& list) {
  std::int64_t layers = 0, longest = 0;
  for (const Json& window : list) {
    layers += window.get<std::int64_t>() > 0;
    longest = std::max(longest, window.get<std::int64_t>());
  }
  return layers == 0 ? "none" : std::to_string(longest) + " tokens, in " + std::to_string(layers) + " of " + std::to_string(list.size()) + " layers";
}

std::string quantization(const Json& q) {
  if (q.is_null()) return "none";
  std::string line = text(q["method"]);
  if (!q["bits"].empty()) line += ", " + joined(q["bits"], " and ") + " bits";
  if (q["group_size"].is_number()) line += q["group_size"] == -1 ? ", per channel" : ", groups of " + q["group_size"].dump();
  if (q["symmetric"].is_boolean()) line += q["symmetric"] == true ? ", symmetric" : ", asymmetric";
  if (q.contains("types")) line += ", " + joined(q["types"], " ");
  if (q.contains("stored_bits_per_weight")) line += ", " + format_fixed(q["stored_bits_per_weight"].get<double>(), 2) + " bits a weight stored";
  return line + " (" + text(q["source"]) + ")";
}

std::string summary(const Json& inspection) {
  const Json& a = inspection["architecture"];
  Rows rows = {{"family", text(inspection["family"])},
               {"files", files(inspection)},
               {"quantization", quantization(inspection["quantization"])},
               {"layers", text(a["num_layers"])},
               {"hidden", text(a["hidden_size"]) + ", intermediate " + text(a["intermediate_size"])},
               {"heads", text(a["num_heads"]) + " of " + text(a["head_dim"]) + ", keys and values " + text(a["num_kv_heads"])},
               {"vocabulary", text(a["vocab_size"]) + (a["tied_head"] == true ? ", head tied to the embedding" : "")},
               {"context", text(a["context"])},
               {"positions", positions(a)}};
  if (const Json& e = a["experts"]; !e.is_null())
    rows.insert(rows.begin() + 5, {"experts", text(e["count"]) + " of " + text(e["intermediate_size"]) + ", " + text(e["per_token"]) + " a token, in " + text(e["layers"]) + " layers"});
  if (!a["sliding_window"].is_null()) rows.push_back({"window", windows(a["sliding_window"])});
  if (inspection["loads"]["ok"] == false) rows.push_back({"cannot be loaded", text(inspection["loads"]["reason"])});
  std::string lines;
  for (const auto& row : rows) lines += row[0] + std::string(row[0].size() < 18 ? 18 - row[0].size() : 1, ' ') + row[1] + "\n";
  return lines;
}

std::string parameters(const Json& p) {
  Rows rows = {{"parameters", "", ""}};
  for (const char* part : {"embedding", "head", "linears", "other", "total"}) rows.push_back({part, count(p[part]), p[part].dump()});
  if (p["experts"] != 0) {
    rows.insert(rows.end() - 2, {"experts' of them", count(p["experts"]), p["experts"].dump()});
    rows.push_back({"active a token", count(p["active"]), p["active"].dump()});
  }
  return format_table(rows) + "\n";
}

std::string stored(const Json& inspection) {
  if (inspection["stored"].empty()) return "";
  Rows rows = {{"stored", "tensors", "elements", "bytes"}};
  for (const Json& type : inspection["stored"]) rows.push_back({text(type["type"]), text(type["tensors"]), text(type["elements"]), bytes(type["bytes"])});
  rows.push_back({"total", "", "", bytes(inspection["stored_bytes"])});
  return format_table(rows) + "\n\n";
}

std::string memory(const Json& m) {
  Rows rows = {{"bits", "bits/weight", "memory", "symmetric"}};
  for (const Json& entry : m["by_bits"])
    rows.push_back({text(entry["bits"]), format_fixed(entry["bits_per_weight"].get<double>(), 2), bytes(entry["bytes"]), bytes(entry["bytes_symmetric"])});
  return format_table(rows) + "\n" + text(m["convention"]) + "\n";
}

}  // namespace

std::string format_inspection(const Json& inspection) {
  const Json& kv = inspection["kv_cache"];
  return text(inspection["path"]) + "\n\n" + summary(inspection) + "\n" + parameters(inspection["parameters"]) + "\n" + stored(inspection) + memory(inspection["memory"]) + "\nKV cache, float16: " + bytes(kv["bytes_per_token"]) +
         " a token, " + bytes(kv["bytes_at_context"]) + " at " + text(kv["context"]) + " tokens\n";
}

}  // namespace miq::executor
