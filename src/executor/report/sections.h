// What several sections of the report share.
#pragma once

#include <string>
#include <vector>

#include "document.h"

namespace miq::executor::report {

std::string capitalised(std::string text);

/// What runs are compared by: a perplexity, or the mean over tasks.
struct Measure {
  std::string name;  ///< "perplexity, wikitext2", "mean over 3 tasks"
  bool higher_is_better = false;
  std::vector<double> values;                                ///< of each run; NaN where it has none
  std::vector<std::pair<double, std::string>> baselines;     ///< each different one of the unquantized models, and whose it is
  bool is_task = false;                                      ///< a single task, whose name is kept as it is

  std::string title() const { return is_task ? name : capitalised(name); }
};
/// At most three perplexities, then the mean over tasks.
std::vector<Measure> measures(const Study& study);
/// For each run the size that goes with a measure: bits a weight, or, of several models, bytes of all weights; NaN where it was not quantized.
std::vector<double> sizes(const Study& study, bool& is_bytes);

// Cells that are sorted by their number, whatever unit or power of ten they are written in.
Cell score_cell(double value);
Cell bytes_cell(double bytes);
Cell seconds_cell(double seconds);
Cell chance_cell(double p);

/// "a, b and c"; after `most` items "a, b and 3 more".
std::string listed(const std::vector<std::string>& items, size_t most);
/// "bits" of "recipe.grid.bits".
std::string short_key(const std::string& key);
/// "▼" significantly worse, "▲" better, "" not shown to differ.
std::string verdict_sign(int verdict);
/// The shade of a heat map for a difference, oriented so that more is better: w4 .. w1, z, b1 .. b4; "" for NaN.
std::string shade(double difference, double most);
/// The key to shade().
std::vector<std::pair<std::string, std::string>> shade_legend(double most, bool higher_is_better);
/// How to read a map's cells.
Words shade_note(const std::string& more);
/// In distribution against out of it.
std::string matrix_in_words(const Matrix& matrix);

/// By depth and kind: curves, tiles of bits where they vary, the table behind them.
std::vector<Block> layer_blocks(const Run& run);
/// The mean error by depth of up to eight runs.
std::optional<Section> layer_comparison(const Study& study);

}  // namespace miq::executor::report
