#include <cstdio>

#include "commands.h"
#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/memory.h"
#include "miq/dataset/task.h"
#include "miq/executor/sweep.h"

namespace miq::tools {

void add_common(CLI::App& command, CommonOptions& options) {
  command.add_flag("-v,--verbose", options.verbose, "more on stderr");
  command.add_flag("-q,--quiet", options.quiet, "only warnings and errors on stderr");
  command.add_flag("--json", options.json, "machine output on stdout, nothing else there");
}

void add_job_options(CLI::App& command, JobOptions& options) {
  command.add_option("--config", options.config, "the job: a YAML file, miq's or MI-optimize's")->type_name("FILE");
  command.add_option("--model", options.model, "model.path")->type_name("PATH");
  command.add_option("--output", options.output, "run directory")->type_name("DIR");
  command.add_option("--device", options.device, "cpu, cuda, cuda:N or auto")->type_name("DEVICE");
  command.add_option("--data-dir", options.data_dir, "folder of the named corpora")->type_name("DIR");
  command.add_option("--memory", options.memory, "pipeline.memory: what may be taken beside the page cache, for example 4GiB")->type_name("SIZE");
  command.add_option("--tasks", options.tasks, "evaluation.tasks: names or paths, separated by commas (miq list tasks)")->type_name("TASKS")->delimiter(',');
  command.add_option("--shots", options.shots, "of --tasks")->check(CLI::Range(0, 1000));
  command.add_option("--limit", options.limit, "of --tasks: the first so many documents of each subject")->check(CLI::Range(1, 1 << 30));
  command.add_flag("--strict", options.strict, "an event (raised damping, a fallback, dead inputs) is a failure");
  command.add_flag("--overwrite", options.overwrite, "begin anew whatever the run directory holds; else an interrupted run goes on");
  command.add_option("--set", options.assignments, "key.path=value, typed as YAML; repeatable")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
  add_common(command, options.common);
}

// The tasks of the flags as YAML (JSON is YAML).
static std::string task_list(const JobOptions& options) {
  nlohmann::json list = nlohmann::json::array();
  for (const std::string& task : options.tasks) {
    try {
      dataset::expand_tasks(task);
    } catch (const Error& error) {
      throw Error(error.kind(), error.message(), error.where().empty() ? "--tasks" : error.where(), error.fix());
    }
    list.push_back({{"task", task}});
    if (options.shots >= 0) list.back()["shots"] = options.shots;
    if (options.limit > 0) list.back()["limit"] = options.limit;
  }
  return list.dump();
}

ConfigSource read_source(const JobOptions& options) {
  set_verbosity(options.common.verbosity());
  ConfigSource source = options.config.empty() ? ConfigSource::empty() : ConfigSource::from_file(options.config);
  const bool foreign = executor::is_mi_optimize(source);
  if (foreign) source.replace(executor::translate_mi_optimize(source));
  for (const std::string& assignment : options.assignments) source.set(assignment);
  if (!options.memory.empty()) source.set("pipeline.memory=" + options.memory);
  if (!options.tasks.empty()) source.set("evaluation.tasks=" + task_list(options));
  else if (options.limit > 0 && options.shots < 0 && executor::has_sweep(source)) source.put("sweep.limit", YAML::Node(options.limit), "--limit");
  else if (options.shots >= 0 || options.limit > 0)
    throw Error(ErrorKind::config, "--shots and --limit are of --tasks", options.shots >= 0 ? "--shots" : "--limit", "add --tasks, or set shots and limit in evaluation.tasks");
  const auto put = [&](const char* path, const std::string& value, const char* flag) {
    if (!value.empty()) source.put(path, YAML::Node(value), flag);
  };
  put("model.path", options.model, "--model");
  put("output", options.output, "--output");
  put("device", options.device, "--device");
  put("data_dir", options.data_dir, "--data-dir");
  if (options.strict) put("strict", "true", "--strict");
  return source;
}

executor::JobConfig read_job(const JobOptions& options) {
  executor::JobConfig config = executor::read_job_config(read_source(options));
  for (const std::string& gate : options.expectations) config.expect.push_back(executor::read_expectation(gate, "--expect '" + gate + "'"));
  return config;
}

void add_examples(CLI::App& command, const std::vector<std::string>& lines) {
  std::string text = "Examples:";
  for (const std::string& line : lines) text += "\n  " + line;
  command.footer(text);
}

std::int64_t bytes_of(const std::string& text, const char* flag) {
  const auto bytes = parse_bytes(text);
  if (!bytes || *bytes == 0) throw Error(ErrorKind::config, "'" + text + "' is not a size", flag, "write for example 4GiB");
  return *bytes;
}

void print(const std::string& text) {
  const std::string line = text.empty() || text.back() != '\n' ? text + "\n" : text;
  if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::fflush(stdout) != 0)
    throw Error(ErrorKind::io, "cannot write the result", "stdout");
}

}  // namespace miq::tools
