// miq quantize, eval, run.
#include "commands.h"
#include "miq/core/error.h"
#include "miq/core/text.h"
#include "miq/executor/job.h"
#include "miq/executor/plan.h"
#include "miq/executor/sweep.h"

namespace miq::tools {
namespace {

void add_job_command(CLI::App& program, const std::string& name, const std::string& help, executor::JobMode mode) {
  CLI::App* const command = program.add_subcommand(name, help);
  const auto options = std::make_shared<JobOptions>();
  add_job_options(*command, *options);
  command->callback([options, mode] {
    const executor::JobConfig config = read_job(*options);
    if (config.sweeps) throw Error(ErrorKind::config, "the configuration describes a sweep", options->config, "run it with miq sweep, or leave sweep out");
    const nlohmann::ordered_json results = executor::run_job(config, mode, {options->overwrite});
    print(options->common.json ? to_text(results) : executor::format_report(results));
  });
}

}  // namespace

void add_sweep_command(CLI::App& program) {
  CLI::App* const command = program.add_subcommand("sweep", "run every combination of the values that `sweep` lists for some keys");
  const auto options = std::make_shared<JobOptions>();
  add_job_options(*command, *options);
  command->callback([options] {
    const nlohmann::ordered_json summary = executor::run_sweep(executor::read_sweep(read_source(*options)), {options->overwrite});
    print(options->common.json ? to_text(summary) : executor::format_sweep(summary));
  });
}

void add_plan_command(CLI::App& program) {
  CLI::App* const command = program.add_subcommand("plan", "what every linear will get, and what it will cost, before a weight is read");
  const auto options = std::make_shared<JobOptions>();
  add_job_options(*command, *options);
  command->callback([options] {
    const nlohmann::ordered_json plan = executor::describe_plan(read_job(*options));
    print(options->common.json ? to_text(plan) : executor::format_plan(plan));
  });
}

void add_job_commands(CLI::App& program) {
  add_job_command(program, "quantize", "quantize and export a model", executor::JobMode::quantize);
  add_job_command(program, "eval", "score a model as it is", executor::JobMode::evaluate);
  add_job_command(program, "run", "quantize, then score the quantized model from memory", executor::JobMode::run);
}

}  // namespace miq::tools
