// miq doctor: whether this machine is fit for work.
#include "miq/executor/doctor.h"

#include "commands.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/text.h"

namespace miq::tools {

void add_doctor_command(CLI::App& program) {
  struct Options {
    CommonOptions common;
    executor::DoctorConfig config;
  };
  CLI::App* const app = program.add_subcommand("doctor", "whether LibTorch, processor, GPUs, memory, disks and data are fit for work, and what to mend");
  const auto options = std::make_shared<Options>();
  app->add_option("--data-dir", options->config.data_dir, "folder of the data; $MIQ_DATA, then ~/.cache/miq/data")->type_name("DIR");
  app->add_option("--output", options->config.output, "where runs would be written")->type_name("DIR")->capture_default_str();
  app->add_option("--model", options->config.model, "also whether this checkpoint can be loaded, and what it would take here")->type_name("PATH");
  app->add_option("--architecture", options->config.architecture, "of --model: auto, a family's name, or a YAML description")->type_name("FAMILY");
  add_common(*app, options->common);
  add_examples(*app, {"miq doctor", "miq doctor --model MODEL --data-dir DATA --output runs --json"});
  app->callback([options] {
    set_verbosity(options->common.verbosity());
    executor::DoctorConfig config = options->config;
    if (config.data_dir.empty()) config.data_dir = executor::read_job_config(ConfigSource::empty()).data_dir;
    const nlohmann::ordered_json found = executor::diagnose(config);
    print(options->common.json ? to_text(found) : executor::format_diagnosis(found));
    for (const auto& check : found["checks"])
      if (check["status"] == "problem") throw Error(ErrorKind::unsupported, check["text"].get<std::string>(), check["area"].get<std::string>(), check.value("fix", ""));
  });
}

}  // namespace miq::tools
