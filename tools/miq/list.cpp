// miq list: what there is to choose from.
#include "commands.h"
#include "miq/core/text.h"
#include "miq/dataset/corpus.h"
#include "miq/format/format.h"
#include "miq/model/architecture.h"
#include "miq/quantizer/recipe.h"

namespace miq::tools {
namespace {

using Json = nlohmann::ordered_json;

Json algorithms() {
  Json list = Json::array();
  for (const quantizer::PresetInfo& info : quantizer::presets())
    list.push_back({{"name", info.name}, {"composition", quantizer::composition(quantizer::preset(info.name))}, {"paper", info.paper}, {"summary", info.summary}});
  return list;
}

Json formats() {
  Json list = Json::array();
  for (const format::Format* format : format::formats()) list.push_back({{"name", format->name}, {"summary", format->summary}});
  list.push_back({{"name", "gguf"}, {"summary", "llama.cpp's file: Q4_0, Q8_0 and the like from codes that fit, K-quants by search"}});
  list.push_back({{"name", "dequantized"}, {"summary", "plain weights with the quantized values; read by everything, saves nothing"}});
  return list;
}

Json named(const std::vector<std::string>& names) {
  Json list = Json::array();
  for (const std::string& name : names) list.push_back({{"name", name}});
  return list;
}

std::string as_table(const Json& list) {
  std::vector<std::vector<std::string>> rows;
  for (const Json& item : list) {
    if (rows.empty()) {
      rows.emplace_back();
      for (const auto& [key, value] : item.items()) rows.back().push_back(key);
    }
    rows.emplace_back();
    for (const auto& [key, value] : item.items()) rows.back().push_back(value.get<std::string>());
  }
  return format_table(rows);
}

void add(CLI::App& list, const std::string& name, const std::string& help, Json (*content)()) {
  CLI::App* const command = list.add_subcommand(name, help);
  const auto common = std::make_shared<CommonOptions>();
  add_common(*command, *common);
  command->callback([common, content] { print(common->json ? to_text(content()) : as_table(content())); });
}

}  // namespace

void add_list_command(CLI::App& program) {
  CLI::App* const list = program.add_subcommand("list", "what there is to choose from");
  list->require_subcommand(1);
  add(*list, "algorithms", "presets: composition and paper", algorithms);
  add(*list, "families", "model families", [] { return named(model::family_names()); });
  add(*list, "formats", "export formats", formats);
  add(*list, "corpora", "text corpora by name", [] { return named(dataset::corpus_names()); });
}

}  // namespace miq::tools
