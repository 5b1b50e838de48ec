// Heat maps: scores by what was calibrated on and tested on.
#include <algorithm>
#include <cmath>

#include "document.h"
#include "numbers.h"
#include "sections.h"

namespace miq::executor::report {
namespace {

// A mean of what is known.
struct Mean {
  double sum = 0;
  std::int64_t count = 0;

  void add(double value) {
    if (std::isnan(value)) return;
    sum += value;
    ++count;
  }
  double value() const { return count > 0 ? sum / static_cast<double>(count) : kUnknown; }
};

double most_different(const Matrix& matrix) {
  double most = 0;
  for (size_t r = 0; r < matrix.rows.size(); ++r)
    for (size_t c = 0; c < matrix.columns.size(); ++c)
      if (const double size = std::abs(matrix.difference(r, c)); size > most && std::isfinite(size)) most = size;
  return most;
}

int verdict(const Matrix& matrix, size_t r, size_t c) {
  const double difference = matrix.difference(r, c);
  if (!(matrix.p_values[r][c] < 0.05) || std::isnan(difference) || difference == 0) return 0;
  return (difference > 0) == matrix.higher_is_better ? 1 : -1;
}

Cell cell_of(const Matrix& matrix, size_t r, size_t c, double most) {
  const double value = matrix.values[r][c], difference = matrix.difference(r, c);
  if (std::isnan(value)) return {"–", "", "none", "not measured"};
  Cell cell{score_text(value)};
  if (!std::isnan(difference)) cell.note = signed_text(difference);
  if (const int mark = verdict(matrix, r, c); mark != 0) cell.note += " " + verdict_sign(mark);
  cell.css = shade(matrix.higher_is_better ? difference : -difference, most);
  if (matrix.in_distribution[r][c]) cell.css += cell.css.empty() ? "own" : " own";
  cell.title = matrix.rows[r] + " → " + matrix.columns[c] + (matrix.in_distribution[r][c] ? ", in distribution" : "") + (std::isnan(matrix.baseline[c]) ? ""
      : "; unquantized " + score_text(matrix.baseline[c])) +
               (std::isnan(matrix.p_values[r][c]) ? "" : "; p after Holm's correction " + chance_text(matrix.p_values[r][c]));
  return cell;
}

Cell mean_cell(const Mean& value, const Mean& difference) { return {score_text(value.value()), difference.count > 0 ? signed_text(difference.value()) : "", "mean"}; }

Table table_of(const Matrix& matrix, double most) {
  Table table;
  table.is_map = true;
  table.caption = matrix.title;
  table.legend = shade_legend(most, matrix.higher_is_better);
  table.head = {(matrix.rows_are.empty() ? "rows" : matrix.rows_are) + " ↓   " + (matrix.columns_are.empty() ? "columns" : matrix.columns_are) + " →"};
  table.head.insert(table.head.end(), matrix.columns.begin(), matrix.columns.end());
  table.head.push_back("mean");
  std::vector<Mean> values(matrix.columns.size() + 1), differences(matrix.columns.size() + 1);
  for (size_t r = 0; r < matrix.rows.size(); ++r) {
    std::vector<Cell> row = {Cell{matrix.rows[r]}};
    Mean value, difference;
    for (size_t c = 0; c < matrix.columns.size(); ++c) {
      row.push_back(cell_of(matrix, r, c, most));
      for (Mean* mean : {&value, &values[c], &values.back()}) mean->add(matrix.values[r][c]);
      for (Mean* mean : {&difference, &differences[c], &differences.back()}) mean->add(matrix.difference(r, c));
    }
    row.push_back(mean_cell(value, difference));
    table.rows.push_back(std::move(row));
  }
  table.rows.push_back({Cell{"mean", "", "mean"}});
  for (size_t c = 0; c <= matrix.columns.size(); ++c) table.rows.back().push_back(mean_cell(values[c], differences[c]));
  if (std::any_of(matrix.baseline.begin(), matrix.baseline.end(), [](double value) { return !std::isnan(value); })) {
    Mean all;
    table.rows.push_back({Cell{"unquantized", "", "mean"}});
    for (const double value : matrix.baseline) {
      table.rows.back().push_back({score_text(value), "", "mean"});
      all.add(value);
    }
    table.rows.back().push_back({score_text(all.value()), "", "mean"});
  }
  return table;
}

}  // namespace

std::string verdict_sign(int verdict) { return verdict < 0 ? "▼" : verdict > 0 ? "▲" : ""; }

std::string shade(double difference, double most) {
  if (!std::isfinite(difference)) return "";
  const double share = most > 0 ? difference / most : 0;
  const int step = static_cast<int>(std::lround(std::min(std::abs(share), 1.0) * 4));
  return step == 0 ? "z" : (share < 0 ? "w" : "b") + std::to_string(step);
}

std::vector<std::pair<std::string, std::string>> shade_legend(double most, bool higher_is_better) {
  std::vector<std::pair<std::string, std::string>> legend;
  if (!(most > 0)) return legend;
  const double sign = higher_is_better ? 1 : -1;
  for (const auto& [css, share] : {std::pair("w4", -1.0), std::pair("w2", -.5), std::pair("z", 0.0), std::pair("b2", .5), std::pair("b4", 1.0)})
    legend.emplace_back(css, share == 0 ? "as unquantized" : signed_text(sign * share * most) + (share == -1 ? " worse" : share == 1 ? " better" : ""));
  return legend;
}

Words shade_note(const std::string& more) {
  return {"Small figures are differences from the unquantized model. ▼ significantly worse, ▲ significantly better at 5 % after Holm's correction; without a mark no difference is shown." + more, true};
}

std::string matrix_in_words(const Matrix& matrix) {
  Mean own, other, own_difference, other_difference;
  std::int64_t worse = 0, better = 0, tests = 0;
  for (size_t r = 0; r < matrix.rows.size(); ++r)
    for (size_t c = 0; c < matrix.columns.size(); ++c) {
      (matrix.in_distribution[r][c] ? own : other).add(matrix.values[r][c]);
      (matrix.in_distribution[r][c] ? own_difference : other_difference).add(matrix.difference(r, c));
      tests += std::isnan(matrix.p_values[r][c]) ? 0 : 1;
      worse += verdict(matrix, r, c) < 0 ? 1 : 0;
      better += verdict(matrix, r, c) > 0 ? 1 : 0;
    }
  const auto told = [&](const Mean& value, const Mean& difference) {
    return score_text(value.value()) + (difference.count > 0 ? " (" + signed_text(difference.value()) + " to the unquantized model)" : "") + " over " +
        counted(value.count, "cell");
  };
  std::string text;
  if (own.count > 0 && other.count > 0)
    text = "in distribution the mean" + (matrix.metric.empty() ? "" : " " + matrix.metric) + " is " + told(own, own_difference) + ", out of distribution " +
        told(other, other_difference) + ".";
  else if (own.count + other.count > 0)
    text = "the mean" + (matrix.metric.empty() ? "" : " " + matrix.metric) + " is " + (own.count > 0 ? told(own, own_difference) : told(other, other_difference)) + ".";
  if (own_difference.count > 0 && other_difference.count > 0) {
    const double cost = (own_difference.value() - other_difference.value()) * (matrix.higher_is_better ? 1 : -1);
    text += " Calibrating on other data than is tested on " + std::string(cost > 0 ? "costs " : "gains ") + score_text(std::abs(cost)) + " more.";
    if (score_text(std::abs(cost)) == "0.000") text = text.substr(0, text.rfind(" Calibrating")) + " Which data were calibrated on makes no difference on average.";
  }
  if (tests > 0) text += " Of " + counted(tests, "cell") + " tested, " + count_text(worse) + (worse == 1 ? " is" : " are") +
      " significantly worse than unquantized and " + count_text(better) + " better.";
  return text;
}

std::optional<Section> matrices_section(const Study& study) {
  if (study.matrices.empty()) return std::nullopt;
  Section section{"matrices", "Calibration against test data", {}};
  for (const Matrix& matrix : study.matrices) {
    const double most = most_different(matrix);
    section.blocks.push_back(table_of(matrix, most));
    section.blocks.push_back(Words{capitalised(matrix_in_words(matrix))});
  }
  section.blocks.push_back(shade_note(" Cells with a frame are in distribution: tested on what they were calibrated on."));
  return section;
}

}  // namespace miq::executor::report
