// What a report is made of, as plain data: results.json and sweep.json without their spelling.
#pragma once

#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace miq::executor::report {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

/// One figure that a model was given, with what is known of its error and of the unquantized model's. Unknown numbers are NaN, counts -1.
struct Score {
  std::string what;    ///< "perplexity", "task", "group" (tasks pooled), "mean" (of tasks' sets), "category", "subject", "part" (of a task)
  std::string name;    ///< corpus, task ("ceval (STEM)"), group; of a part "task/part"
  std::string split;
  std::string detail;  ///< perplexity: protocol and windows
  std::string metric;
  bool is_first = false;  ///< the task's first metric, which Holm's correction is over
  bool higher_is_better = true;
  int shots = -1;
  std::int64_t count = -1;  ///< documents; tokens of a perplexity; sets of a mean
  double value = kUnknown, standard_error = kUnknown, low = kUnknown, high = kUnknown;  ///< 95 % interval
  double baseline = kUnknown, difference_low = kUnknown, difference_high = kUnknown;    ///< 95 % interval of value - baseline, paired
  double p_value = kUnknown, p_value_holm = kUnknown;
  double kl_divergence = kUnknown, agreement = kUnknown;
  std::int64_t flips = -1;

  double difference() const { return value - baseline; }
  /// The p-value that counts: Holm's, or of a single test its own.
  double corrected() const { return std::isnan(p_value_holm) ? p_value : p_value_holm; }
  /// Of a task's first metric: +1 better, -1 worse than the unquantized model at 5 % with all of the run's tests taken together. Else 0: not
  /// shown to differ.
  int verdict() const;
  /// Equal for the same figure of two runs, over as many documents.
  std::string key() const { return what + "\n" + name + "\n" + split + "\n" + detail + "\n" + std::to_string(shots) + "\n" + std::to_string(count) + "\n" + metric; }
};

struct Event {
  std::string layer, code, detail;
};

struct Layer {
  std::string name, kind, preset;  ///< kind: the name behind the block's number, experts' numbers as *
  std::int64_t depth = -1;         ///< the block's number; -1: of no block, as the head
  double bits = kUnknown, group_size = kUnknown, bits_per_weight = kUnknown, relative_error = kUnknown;
};

struct Quantization {
  double seconds = kUnknown, cpu_seconds = kUnknown, peak_bytes = kUnknown, bits_per_weight = kUnknown, bytes = kUnknown;
  std::vector<std::pair<std::string, double>> phases;  ///< seconds
  std::vector<Layer> layers;
  std::string method;  ///< "gptq, 4 bits, groups of 64"
};

/// A quality gate that the job asked for.
struct Gate {
  std::string what, bound, value, limit;
  bool met = false;
};

struct Run {
  std::string name;
  std::vector<std::pair<std::string, std::string>> settings;  ///< of a sweep's variant, by axis
  bool is_pareto = false;                                     ///< as the sweep says
  std::string model, family, dtype;
  double parameters = kUnknown, model_bytes = kUnknown, disk_bytes = kUnknown;  ///< disk: the checkpoint in model/
  std::string version, libtorch, device;
  std::int64_t threads = -1;
  std::string config;  ///< JSON
  std::optional<Quantization> quantization;
  std::vector<Score> scores, parts;
  std::vector<Event> events;
  std::vector<Gate> gates;

  /// Bytes of the linears that were quantized as they were before, and of all weights now; NaN where not known.
  double original_linear_bytes() const;
  double weight_bytes() const;
  /// The first score with this key, or null.
  const Score* find(const std::string& key) const;
};

struct Axis {
  std::string key;
  std::vector<std::string> values;
};

/// Scores by what was calibrated on (rows) and tested on (columns).
struct Matrix {
  std::string title, metric, rows_are, columns_are;
  bool higher_is_better = true;
  std::vector<std::string> rows, columns;
  std::vector<std::vector<double>> values, p_values;  ///< [row][column]; p_values as Holm corrects them over the matrix
  std::vector<double> baseline;                       ///< [column]
  std::vector<std::vector<bool>> in_distribution;

  double difference(size_t row, size_t column) const { return values[row][column] - baseline[column]; }
};

struct Missing {
  std::string name, reason;
};

struct Study {
  std::string title;
  std::vector<Axis> axes;
  std::vector<Run> runs;  ///< at least one
  std::vector<Missing> missing;
  std::vector<Matrix> matrices;
};

/// @throws Error as make_report
Study read_study(const std::vector<std::filesystem::path>& folders);
/// A folder with results.json. @throws Error{io}
Run read_run(const std::filesystem::path& folder, const std::string& name);

/// For each point whether no other is at most as large in both coordinates and smaller in one. Points with a NaN never are.
std::vector<bool> pareto_optimal(const std::vector<std::pair<double, double>>& points);
/// The figures that runs have, each once, in the order of their first appearance. `kind`: of Score::what.
std::vector<const Score*> distinct_scores(const std::vector<Run>& runs, const std::string& kind);
/// The mean of the first metrics of the tasks that every run with tasks has and of which more is better; NaN where there is none.
/// `baseline`: of the unquantized model. `tasks`: keys of these tasks, as common_tasks() gives them.
double mean_score(const Run& run, const std::vector<std::string>& tasks, bool baseline);
std::vector<std::string> common_tasks(const std::vector<Run>& runs);

}  // namespace miq::executor::report
