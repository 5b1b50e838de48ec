// Runs and sweeps as a page for people, as Markdown, or as a table for programs: what `miq report` does.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace miq::executor {

enum class ReportFormat {
  html,      ///< one self-contained page: figures, tables, words
  markdown,  ///< the page's words and tables
  csv,       ///< tidy: a row for each figure of each run (docs/report.md has the columns)
};

/// The report on `runs`: run directories (results.json) and sweep directories (sweep.json and its variants' runs), at least one. The same
/// inputs give the same bytes. Runs that did not finish are named in it, as long as one did. `title`: "" for one made of what was run.
/// @throws Error{config} for no runs, Error{io} for a folder that is neither (what it lacks, and what would make one), a file that is malformed
/// or from something else (which value), and where no run has finished.
std::string make_report(const std::vector<std::filesystem::path>& runs, ReportFormat format, const std::string& title = "");

}  // namespace miq::executor
