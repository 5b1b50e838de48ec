// miq inspect: what a checkpoint is, from its headers.
#include "miq/executor/inspect.h"

#include "commands.h"
#include "miq/core/log.h"
#include "miq/core/text.h"

namespace miq::tools {

void add_inspect_command(CLI::App& program) {
  struct Options {
    CommonOptions common;
    std::string model, architecture = "auto";
  };
  CLI::App* const app = program.add_subcommand("inspect", "what a checkpoint is and what it would take, from its headers");
  const auto options = std::make_shared<Options>();
  app->add_option("PATH", options->model, "a Hugging Face folder, a .gguf file, or an id in the local cache")->required();
  app->add_option("--architecture", options->architecture, "auto, a family's name, or a YAML description")->type_name("FAMILY");
  add_common(*app, options->common);
  add_examples(*app, {"miq inspect MODEL", "miq inspect runs/rtn/model --json"});
  app->callback([options] {
    set_verbosity(options->common.verbosity());
    const nlohmann::ordered_json inspection = executor::inspect_model(options->model, options->architecture);
    print(options->common.json ? to_text(inspection) : executor::format_inspection(inspection));
  });
}

}  // namespace miq::tools
