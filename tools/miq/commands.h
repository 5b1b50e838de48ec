// The subcommands. Each file adds its own to the program and runs it when it was chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "miq/executor/job_config.h"

namespace miq::tools {

/// Options that every command has.
struct CommonOptions {
  int verbose = 0;
  bool quiet = false;
  bool json = false;  ///< machine output on stdout, nothing else there
  int verbosity() const { return quiet ? 0 : verbose > 0 ? 2 : 1; }
};
void add_common(CLI::App& command, CommonOptions& options);

/// Options of commands that take a job: a file and what overrides it.
struct JobOptions {
  CommonOptions common;
  std::string config, model, output, device, data_dir, memory;
  std::vector<std::string> assignments, tasks, expectations;
  std::int64_t shots = -1, limit = 0;
  bool strict = false, overwrite = false;
};
void add_job_options(CLI::App& command, JobOptions& options);
/// The file with `--set` and the flags over it. @throws Error
ConfigSource read_source(const JobOptions& options);
/// The configuration they give, flags over `--set` over the file. @throws Error
executor::JobConfig read_job(const JobOptions& options);

void add_job_commands(CLI::App& program);      ///< quantize, eval, run
void add_sweep_command(CLI::App& program);
void add_plan_command(CLI::App& program);
void add_generate_command(CLI::App& program);
void add_inspect_command(CLI::App& program);
void add_export_command(CLI::App& program);
void add_verify_command(CLI::App& program);
void add_bench_command(CLI::App& program);
void add_serve_command(CLI::App& program);
void add_report_command(CLI::App& program);
void add_config_command(CLI::App& program);    ///< config show, config convert
void add_list_command(CLI::App& program);

/// miq completion: a script for a shell, made from all other commands, which are there already.
void add_completion_command(CLI::App& program);
void add_doctor_command(CLI::App& program);

/// Command lines that the help of the command ends with. They hold as they stand for a MODEL, a folder DATA and the files of configs/.
void add_examples(CLI::App& command, const std::vector<std::string>& lines);

/// The bytes of a flag's value such as 4GiB. @throws Error{config} naming the flag.
std::int64_t bytes_of(const std::string& text, const char* flag);

/// Writes to stdout with a final newline and flushes. @throws Error{io} when it cannot be written.
void print(const std::string& text);

}  // namespace miq::tools
