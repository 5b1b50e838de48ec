// miq report: runs and sweeps as a page, as Markdown or as CSV.
#include "miq/executor/report.h"

#include "commands.h"
#include "miq/core/error.h"
#include "miq/core/file.h"
#include "miq/core/log.h"
#include "miq/core/text.h"

namespace miq::tools {
namespace {

using executor::ReportFormat;

struct ReportCommand {
  CommonOptions common;
  std::vector<std::string> runs;
  std::string output, format, title;
};

ReportFormat format_of(const ReportCommand& command) {
  const auto named = [](const std::string& name) -> std::optional<ReportFormat> {
    if (name == "html" || name == ".html" || name == ".htm") return ReportFormat::html;
    if (name == "markdown" || name == ".md" || name == ".markdown") return ReportFormat::markdown;
    if (name == "csv" || name == ".csv") return ReportFormat::csv;
    return std::nullopt;
  };
  if (!command.format.empty()) return *named(command.format);  // CLI11 has checked it
  if (command.output.empty()) return ReportFormat::markdown;
  const std::string ending = std::filesystem::path(command.output).extension().string();
  const auto format = named(ending);
  if (!format) throw Error(ErrorKind::config, ending.empty() ? "the file's name does not tell its format" : "'" + ending + "' tells no format", command.output,
      "end it in .html, .md or .csv, or give --format html, markdown or csv");
  return *format;
}

void run(const ReportCommand& command) {
  set_verbosity(command.common.verbosity());
  const ReportFormat format = format_of(command);
  if (command.common.json && command.output.empty()) throw Error(ErrorKind::config, "--json prints the path that was written, and nothing is", "--json", "add -o FILE");
  const std::string report = executor::make_report({command.runs.begin(), command.runs.end()}, format, command.title);
  if (command.output.empty()) return print(report);
  write_file_atomically(command.output, report);
  print(command.common.json ? to_text({{"written", {command.output}}}) : command.output);
}

}  // namespace

void add_report_command(CLI::App& program) {
  CLI::App* const app = program.add_subcommand("report", "runs and sweeps as one page of figures, tables and words");
  const auto command = std::make_shared<ReportCommand>();
  app->add_option("RUN", command->runs, "run directories (results.json) and sweep directories (sweep.json)")->required()->type_name("DIR");
  app->add_option("-o,--output", command->output, "the file to write, for example report.html; else Markdown goes to stdout")->type_name("FILE");
  app->add_option("--format", command->format, "html, markdown or csv; by default what the file's name ends in")->check(CLI::IsMember({"html", "markdown", "csv"}));
  app->add_option("--title", command->title, "the report's title")->type_name("TEXT");
  add_common(*app, command->common);
  add_examples(*app, {"miq report runs/tiny", "miq report runs/tiny --format markdown"});
  app->callback([command] { run(*command); });
}

}  // namespace miq::tools
