// miq quantize, eval, run.
#include "commands.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/process_group.h"
#include "miq/core/text.h"
#include "miq/executor/job.h"
#include "miq/executor/plan.h"
#include "miq/executor/sweep.h"

namespace miq::tools {
namespace {

void add_job_command(CLI::App& program, const std::string& name, const std::string& help, executor::JobMode mode, const std::vector<std::string>& examples) {
  CLI::App* const command = program.add_subcommand(name, help);
  struct Options : JobOptions {
    bool dry_run = false;
  };
  const auto options = std::make_shared<Options>();
  add_job_options(*command, *options);
  command->add_option("--expect", options->expectations, "a quality gate, for example \"perplexity.wikitext2 <= 1.03 x baseline\"; repeatable; one that is missed is exit status 5")
      ->type_name("GATE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
  command->add_flag("--dry-run", options->dry_run, "check all that can be checked before the work, tell what would be done, and write nothing");
  add_examples(*command, examples);
  command->callback([options, mode] {
    set_verbosity(options->common.verbosity());
    if (!options->dry_run) process_group::start();
    const executor::JobConfig config = read_job(*options);
    if (config.sweeps) throw Error(ErrorKind::config, "the configuration describes a sweep", options->config, "run it with miq sweep, or leave sweep out");
    if (options->dry_run) {
      const nlohmann::ordered_json job = executor::dry_run(config, mode, {options->overwrite});
      return print(options->common.json ? to_text(job) : executor::format_dry_run(job));
    }
    const nlohmann::ordered_json results = executor::run_job(config, mode, {options->overwrite});
    const bool tells = process_group::rank() == 0;
    if (tells) print(options->common.json ? to_text(results) : executor::format_report(results));
    process_group::finish();
    if (tells) executor::require_met(results);
  });
}

}  // namespace

void add_sweep_command(CLI::App& program) {
  CLI::App* const command = program.add_subcommand("sweep", "run every combination of the values that `sweep` lists for some keys");
  struct Options : JobOptions {
    bool dry_run = false;
  };
  const auto options = std::make_shared<Options>();
  add_job_options(*command, *options);
  command->add_flag("--dry-run", options->dry_run, "check every variant before the work, tell which there are, and write nothing");
  add_examples(*command, {"miq sweep --config configs/tiny.yaml --set 'sweep={recipe.preset: [rtn, gptq], recipe.grid.bits: [4, 3]}' --output runs/sweep"});
  command->callback([options] {
    const executor::Sweep sweep = executor::read_sweep(read_source(*options));
    if (options->dry_run) {
      const nlohmann::ordered_json checked = executor::check_sweep(sweep, {options->overwrite});
      return print(options->common.json ? to_text(checked) : executor::format_checked_sweep(checked));
    }
    const nlohmann::ordered_json summary = executor::run_sweep(sweep, {options->overwrite});
    print(options->common.json ? to_text(summary) : executor::format_sweep(summary));
    for (const auto& variant : summary["variants"])
      if (variant.contains("expect")) executor::require_met({{"expect", variant["expect"]}, {"config", {{"output", sweep.output + "/" + variant["run"].get<std::string>()}}}});
  });
}

void add_plan_command(CLI::App& program) {
  CLI::App* const command = program.add_subcommand("plan", "what every linear will get, and what it will cost, before a weight is read");
  const auto options = std::make_shared<JobOptions>();
  add_job_options(*command, *options);
  add_examples(*command, {"miq plan --config configs/mixed.yaml --model MODEL --data-dir DATA", "miq plan --config configs/tiny.yaml --set recipe.grid.bits=3 --json"});
  command->callback([options] {
    const nlohmann::ordered_json plan = executor::describe_plan(read_job(*options));
    print(options->common.json ? to_text(plan) : executor::format_plan(plan));
  });
}

void add_job_commands(CLI::App& program) {
  add_job_command(program, "quantize", "quantize and export a model", executor::JobMode::quantize,
                  {"miq quantize --config configs/gptq-w4.yaml --model MODEL --data-dir DATA --output runs/w4",
                   "miq quantize --model MODEL --set recipe.preset=rtn --set export.format=miq --output runs/rtn",
                   "miq quantize --config configs/tiny.yaml --expect 'quantization.bits_per_weight <= 4.5' --dry-run"});
  add_job_command(program, "eval", "score a model as it is", executor::JobMode::evaluate,
                  {"miq eval --model MODEL --data-dir DATA --set 'evaluation.perplexity=[{corpus: wikitext2}]'",
                   "miq eval --model MODEL --data-dir DATA --tasks arc_easy,piqa --shots 5 --limit 200 --output runs/float",
                   "miq eval --model MODEL --data-dir DATA --tasks piqa --expect 'tasks.piqa.acc >= 0.1'"});
  add_job_command(program, "run", "quantize, then score the quantized model from memory", executor::JobMode::run,
                  {"miq run --config configs/tiny.yaml --output runs/tiny",
                   "miq run --config configs/awq-gptq-w3.yaml --model MODEL --data-dir DATA --output runs/w3 --memory 4GiB --dry-run",
                   "miq run --config configs/gptq-w4.yaml --model MODEL --data-dir DATA --output runs/gated --expect 'perplexity.wikitext2 <= 1.03 x baseline'"});
}

}  // namespace miq::tools
