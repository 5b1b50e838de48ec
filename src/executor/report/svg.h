// Figures as inline SVG. Colours are the page's (classes of html_style.h), every mark has a <title>.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace miq::executor::report {

constexpr int kSeries = 8;  ///< colours and shapes there are

/// The text with &, <, >, " and ' as entities, without control characters.
std::string html_escaped(const std::string& text);

/// Draws into one <svg>. Coordinates in pixels of the viewBox.
class Svg {
 public:
  /// `label`: what the figure shows, for those who do not see it.
  Svg(double width, double height, const std::string& label);
  void line(double x1, double y1, double x2, double y2, const std::string& css);
  void rect(double x, double y, double width, double height, const std::string& css, const std::string& title = "");
  /// `anchor`: start, middle or end.
  void text(double x, double y, const std::string& text, const std::string& css, const std::string& anchor = "start");
  void path(const std::vector<std::pair<double, double>>& points, const std::string& css);
  /// A mark of the series' shape. Hollow ones have the page's colour inside. `css`: classes that take the place of the series' colour.
  void mark(int series, double x, double y, bool large, bool hollow, const std::string& title, const std::string& css = "");
  std::string finish();

 private:
  std::string svg_;
};

/// The marks' shapes, which a page must have once: figures refer to them.
std::string mark_shapes();
/// The mark of a series alone, for a legend.
std::string legend_mark(int series, bool hollow = false);
/// A swatch of a class's colour, for a legend.
std::string legend_swatch(const std::string& css);

/// An axis from values to pixels: linear, logarithmic where values span more than a factor of `log_from`, or logarithmic in the distance from a value.
class Scale {
 public:
  /// @param values what must be on it @param from, to pixels of its ends @param log_from 0: never logarithmic
  Scale(const std::vector<double>& values, double from, double to, double log_from, bool with_zero = false);
  /// Around `origin` (positive): linear in value / origin within a half per cent, logarithmic beyond, so that +0.1 % and × 1000 can both be read.
  static Scale around(double origin, std::vector<double> values, double from, double to);
  double operator()(double value) const;
  /// Round values with what is written beside them.
  std::vector<std::pair<double, std::string>> ticks(int about) const;
  bool is_log() const { return log_; }

 private:
  double placed(double value) const;
  std::vector<std::pair<double, std::string>> ticks_around() const;

  double low_ = 0, high_ = 1, from_, to_, origin_ = 0;  // origin: 0 for none
  bool log_ = false;
};

}  // namespace miq::executor::report
