// miq config show: the resolved configuration; miq config convert: MI-optimize's file as miq's own.
#include "commands.h"
#include "miq/core/text.h"
#include "miq/core/error.h"
#include "miq/core/log.h"

namespace miq::tools {

void add_config_command(CLI::App& program) {
  CLI::App* const app = program.add_subcommand("config", "show or convert configurations");
  app->require_subcommand(1);
  add_examples(*app, {"miq config show --config configs/tiny.yaml"});

  CLI::App* const show = app->add_subcommand("show", "print every key with its value and meaning");
  const auto options = std::make_shared<JobOptions>();
  add_job_options(*show, *options);
  add_examples(*show, {"miq config show", "miq config show --config configs/mixed.yaml --set recipe.grid.bits=3"});
  show->callback([options] {
    const executor::JobConfig config = read_job(*options);
    print(options->common.json ? to_text(executor::to_json(config)) : executor::to_yaml(config));
  });

  CLI::App* const convert = app->add_subcommand("convert", "print an MI-optimize file as miq's own");
  const auto file = std::make_shared<std::string>();
  const auto common = std::make_shared<CommonOptions>();
  convert->add_option("FILE", *file, "MI-optimize's YAML")->required();
  add_common(*convert, *common);
  add_examples(*convert, {"miq config convert FILE > configs/mine.yaml"});
  convert->callback([file, common] {
    set_verbosity(common->verbosity());
    const ConfigSource source = ConfigSource::from_file(*file);
    if (!executor::is_mi_optimize(source))
      throw Error(ErrorKind::config, "the file has no top key quant_config: it is not MI-optimize's", *file, "use miq config show for miq's own files");
    YAML::Emitter out;
    out << executor::translate_mi_optimize(source);
    print(out.c_str());
  });
}

}  // namespace miq::tools
