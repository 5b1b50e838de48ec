// miq list: what there is to choose from.
#include "commands.h"
#include "miq/core/log.h"
#include "miq/core/text.h"
#include "miq/dataset/corpus.h"
#include "miq/dataset/task.h"
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
  add_examples(*command, {"miq list " + name, "miq list " + name + " --json"});
  command->callback([common, content] { print(common->json ? to_text(content()) : as_table(content())); });
}

const char* name_of(dataset::Shape shape) {
  switch (shape) {
    case dataset::Shape::choice: return "choice";
    case dataset::Shape::context_choice: return "context_choice";
    case dataset::Shape::letter_logits: return "letter_logits";
    case dataset::Shape::generate: return "generate";
    default: return "perplexity";
  }
}

// `wanted`: tasks, suites, patterns and .yaml files; none: all tasks.
Json tasks(const std::vector<std::string>& wanted, const std::string& data_dir) {
  std::vector<std::string> names = wanted.empty() ? dataset::task_names() : std::vector<std::string>();
  for (const std::string& name : wanted)
    for (const std::string& task : dataset::expand_tasks(name)) names.push_back(task);
  Json list = Json::array();
  for (const std::string& name : names) {
    const dataset::Task task = dataset::load_task(name);
    const dataset::TaskPresence presence = dataset::find_data(task, data_dir);
    list.push_back({{"name", name}, {"shape", name_of(task.shape)}, {"category", task.category}, {"data", task.set + " " + task.split},
                    {"on disk", presence.complete ? "yes" : (presence.evaluable ? "without " : "no: ") + presence.missing},
                    {"source", task.source}, {"summary", task.summary}});
  }
  return list;
}

std::string task_table(Json list) {
  for (Json& task : list) task.erase("summary");
  std::string suites;
  for (const std::string& suite : dataset::suite_names()) suites += (suites.empty() ? "" : ", ") + suite;
  return as_table(list) + "\n\nsuites: " + suites + "\nwhat is missing: tools/miq_data.py NAME --data-dir DIR";
}

void add_tasks(CLI::App& list) {
  struct Options {
    CommonOptions common;
    std::string data_dir;
    std::vector<std::string> names;
  };
  CLI::App* const command = list.add_subcommand("tasks", "evaluation tasks: what they are, where their data lie, what is on disk");
  const auto options = std::make_shared<Options>();
  command->add_option("names", options->names, "tasks, suites, patterns such as 'boss_*', .yaml files; all without them")->type_name("TASKS");
  command->add_option("--data-dir", options->data_dir, "folder of the data; $MIQ_DATA, then ~/.cache/miq/data")->type_name("DIR");
  add_common(*command, options->common);
  add_examples(*command, {"miq list tasks", "miq list tasks 'boss_*' --data-dir DATA"});
  command->callback([options] {
    set_verbosity(options->common.verbosity());
    const std::string data_dir = options->data_dir.empty() ? executor::read_job_config(ConfigSource::empty()).data_dir : options->data_dir;
    const Json found = tasks(options->names, data_dir);
    print(options->common.json ? to_text(found) : task_table(found));
  });
}

}  // namespace

void add_list_command(CLI::App& program) {
  CLI::App* const list = program.add_subcommand("list", "what there is to choose from");
  list->require_subcommand(1);
  add_examples(*list, {"miq list algorithms", "miq list tasks --data-dir DATA"});
  add(*list, "algorithms", "presets: composition and paper", algorithms);
  add(*list, "families", "model families", [] { return named(model::family_names()); });
  add(*list, "formats", "export formats", formats);
  add(*list, "corpora", "text corpora by name", [] { return named(dataset::corpus_names()); });
  add_tasks(*list);
}

}  // namespace miq::tools
