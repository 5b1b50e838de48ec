// The figures that a job's results.json will have, by name, known before the work.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "miq/executor/job.h"

namespace miq::executor {

enum class Unit { none, bytes, seconds };

/// A number of results.json and the entry that it stands in.
struct Figure {
  std::string name;      ///< without what tells entries of one name apart: "perplexity.wikitext2.kl_divergence"
  std::string entry;     ///< the beginning of the name that traits stand behind: "perplexity.wikitext2"
  std::vector<std::pair<std::string, std::string>> traits;  ///< of the entry: split, shots ...
  std::string list;      ///< key of the results: "perplexity", "tasks" ...
  int index = -1;        ///< in the list; -1: `list` is a mapping, or the entry is found by `match`
  nlohmann::ordered_json match;
  std::string value;     ///< JSON pointer in the entry
  std::string baseline;  ///< of the unquantized model's; "" where a figure has none
  std::string unknown, unknown_fix;          ///< why the job will not have it, and what would help
  std::string no_baseline, no_baseline_fix;  ///< why it will have no baseline
};

/// Every figure that the job will have or would have by another command or setting (`unknown`). Reads no data. @throws Error as list_tasks.
std::vector<Figure> list_figures(const JobConfig& config, JobMode mode);

/// The figure that a name such as "tasks.hellaswag[shots=5].acc" is of. @throws Error{config} at `where`: unknown, not evaluated, ambiguous.
Figure find_figure(const std::vector<Figure>& figures, const std::string& what, const std::string& where);

/// The number under the pointer; a list's length; NaN where there is none.
double value_of(const Figure& figure, const std::string& pointer, const nlohmann::ordered_json& results);

/// By the end of its name.
Unit unit_of(const std::string& name);

}  // namespace miq::executor
