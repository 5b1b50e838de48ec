// miq: parse, call the executor, print. The one place where errors end.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <new>

#include "commands.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/process_group.h"
#include "miq/core/text.h"

namespace {

int fail(const miq::Error& error) {
  const bool ranks = miq::process_group::world_size() > 1;
  if (miq::process_group::tell_failure(error)) std::fputs((miq::log_prefix() + miq::printable(error.what()) + "\n").c_str(), stderr);
  if (!ranks) return error.exit_status();
  std::fflush(nullptr);
  std::_Exit(error.exit_status());  // the group's threads may wait for ranks that do not come
}

// Several processes would do the same work several times, and write the same files.
void refuse_ranks(const CLI::App& program) {
  for (const CLI::App* const command : program.get_subcommands()) {
    const std::string name = command->get_name();
    if (name == "eval" || name == "quantize" || name == "run") continue;
    const miq::process_group::Launch launch = miq::process_group::read_launch();
    if (launch.world_size == 1) continue;
    miq::set_log_rank(launch.rank);
    throw miq::Error(miq::ErrorKind::unsupported, "miq " + name + " runs as one process, not as " + std::to_string(launch.world_size) + " (" + launch.launcher + ")", "command line",
                     "start it without the launcher; miq quantize, eval and run take several ranks (docs/distributed.md)");
  }
}

// LibTorch's own errors carry a stack trace; its first line says what happened.
miq::Error from_libtorch(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  if (text.find("alloc") != std::string::npos && text.find("memory") != std::string::npos)
    return miq::Error(miq::ErrorKind::unsupported, "out of memory: " + text.substr(0, text.find('\n')), "", "lower pipeline.memory, or use a machine with more memory");
  return miq::Error(miq::ErrorKind::internal, text.substr(0, text.find('\n')), "LibTorch", "please report this with the command line");
}

// The sections of miq --help, in their order.
void group_commands(CLI::App& program) {
  static const std::pair<const char*, std::vector<const char*>> kSections[] = {
      {"Quantize and judge", {"run", "quantize", "eval", "sweep", "report", "plan"}},
      {"Checkpoints", {"inspect", "export", "verify"}},
      {"Run a model", {"generate", "serve", "bench"}},
      {"Look up and set up", {"list", "config", "doctor", "completion"}},
  };
  for (const auto& [section, names] : kSections)
    for (const char* name : names) program.get_subcommand(name)->group(section);
  miq::tools::add_examples(program, {"miq doctor", "miq run --config configs/tiny.yaml --output runs/tiny", "miq generate --model MODEL --prompt 'Once upon a time'"});
}

int run(int argc, char** argv) {
  CLI::App program("miq quantizes language models, exports them, and measures what it cost.", "miq");
  program.set_version_flag("--version", "miq " MIQ_VERSION);
  program.require_subcommand(1);
  program.parse_complete_callback([&program] { refuse_ranks(program); });
  program.failure_message([](const CLI::App*, const CLI::Error& error) { return std::string(error.what()); });
  miq::tools::add_job_commands(program);
  miq::tools::add_sweep_command(program);
  miq::tools::add_plan_command(program);
  miq::tools::add_inspect_command(program);
  miq::tools::add_export_command(program);
  miq::tools::add_verify_command(program);
  miq::tools::add_generate_command(program);
  miq::tools::add_bench_command(program);
  miq::tools::add_serve_command(program);
  miq::tools::add_report_command(program);
  miq::tools::add_config_command(program);
  miq::tools::add_list_command(program);
  miq::tools::add_doctor_command(program);
  miq::tools::add_completion_command(program);
  group_commands(program);
  try {
    program.parse(argc, argv);
    return 0;
  } catch (const CLI::Success& wish) {  // --help, --version
    return program.exit(wish);
  } catch (const CLI::ParseError& error) {
    return fail(miq::Error(miq::ErrorKind::config, error.what(), "command line", "see miq --help"));
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed stdout is an error of print(), not the end of a job
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of the write
  try {
    return run(argc, argv);
  } catch (const miq::Error& error) {
    return fail(error);
  } catch (const c10::Error& error) {
    return fail(from_libtorch(error));
  } catch (const std::bad_alloc&) {
    return fail(miq::Error(miq::ErrorKind::unsupported, "out of memory", "", "lower pipeline.memory, or use a machine with more memory"));
  } catch (const std::exception& error) {
    return fail(miq::Error(miq::ErrorKind::internal, error.what(), "", "please report this with the command line"));
  }
}
