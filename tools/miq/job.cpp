// miq quantize, eval, run.
#include "commands.h"
#include "miq/core/log.h"
#include "miq/core/process_group.h"
#include "miq/core/text.h"
#include "miq/executor/job.h"
#include "miq/executor/plan.h"

namespace miq::tools {
namespace {

void add_job_command(CLI::App& program, const std::string& name, const std::string& help, executor::JobMode mode) {
  CLI::App* const command = program.add_subcommand(name, help);
  const auto options = std::make_shared<JobOptions>();
  add_job_options(*command, *options);
  command->callback([options, mode] {
    set_verbosity(options->common.verbosity());
    process_group::start();
    const nlohmann::ordered_json results = executor::run_job(read_job(*options), mode);
    if (process_group::rank() == 0) print(options->common.json ? to_text(results) : executor::format_report(results));
    process_group::finish();
  });
}

}  // namespace

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
