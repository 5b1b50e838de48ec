#include "svg.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "numbers.h"

namespace miq::executor::report {
namespace {

// A coordinate: a tenth of a pixel is enough.
std::string at(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  std::string digits = text;
  if (digits.ends_with(".0")) digits.resize(digits.size() - 2);
  return digits == "-0" ? "0" : digits;
}

// The outline of a series' mark around the origin.
std::string outline(int series, double r) {
  const auto polygon = [&](const std::vector<std::pair<double, double>>& corners) {
    std::string path;
    for (const auto& [x, y] : corners) path += (path.empty() ? "M" : "L") + at(x * r) + " " + at(y * r);
    return path + "Z";
  };
  switch (series % kSeries) {
    case 0: return "M" + at(-r) + " 0a" + at(r) + " " + at(r) + " 0 1 0 " + at(2 * r) + " 0a" + at(r) + " " + at(r) + " 0 1 0 " + at(-2 * r) + " 0Z";
    case 1: return polygon({{-.9, -.9}, {.9, -.9}, {.9, .9}, {-.9, .9}});
    case 2: return polygon({{0, -1.15}, {1.1, .85}, {-1.1, .85}});
    case 3: return polygon({{0, -1.25}, {1.25, 0}, {0, 1.25}, {-1.25, 0}});
    case 4: return polygon({{0, 1.15}, {1.1, -.85}, {-1.1, -.85}});
    case 5: return polygon({{-.4, -1.15}, {.4, -1.15}, {.4, -.4}, {1.15, -.4}, {1.15, .4}, {.4, .4}, {.4, 1.15}, {-.4, 1.15}, {-.4, .4}, {-1.15, .4},
        {-1.15, -.4}, {-.4, -.4}});
    case 6: return polygon({{-1.15, 0}, {-.6, -1}, {.6, -1}, {1.15, 0}, {.6, 1}, {-.6, 1}});
    default: return polygon({{0, -1.3}, {.35, -.4}, {1.25, -.4}, {.55, .2}, {.8, 1.1}, {0, .55}, {-.8, 1.1}, {-.55, .2}, {-1.25, -.4}, {-.35, -.4}});
  }
}

std::string mark_use(int series, bool large, bool hollow, const std::string& css = "") {
  const std::string number = std::to_string(series % kSeries);
  return "<use href=\"#" + std::string(large ? "m" : "n") + number + "\" class=\"mark " + (css.empty() ? "s" + number : css) + (hollow ? " hollow\"" : "\"");
}

}  // namespace

std::string html_escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) switch (c) {
      case '&': safe += "&amp;"; break;
      case '<': safe += "&lt;"; break;
      case '>': safe += "&gt;"; break;
      case '"': safe += "&quot;"; break;
      case '\'': safe += "&#39;"; break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) safe += c;
        else if (c == '\n' || c == '\t') safe += c;
        else safe += "\xEF\xBF\xBD";
    }
  return safe;
}

Svg::Svg(double width, double height, const std::string& label) {
  svg_ = "<svg viewBox=\"0 0 " + at(width) + " " + at(height) + "\" role=\"img\" aria-label=\"" + html_escaped(label) + "\">";
}

void Svg::line(double x1, double y1, double x2, double y2, const std::string& css) {
  svg_ += "<line class=\"" + css + "\" x1=\"" + at(x1) + "\" y1=\"" + at(y1) + "\" x2=\"" + at(x2) + "\" y2=\"" + at(y2) + "\"/>";
}

void Svg::rect(double x, double y, double width, double height, const std::string& css, const std::string& title) {
  svg_ += "<rect class=\"" + css + "\" x=\"" + at(x) + "\" y=\"" + at(y) + "\" width=\"" + at(std::max(width, 0.0)) + "\" height=\"" + at(height) + "\"";
  svg_ += title.empty() ? "/>" : "><title>" + html_escaped(title) + "</title></rect>";
}

void Svg::text(double x, double y, const std::string& text, const std::string& css, const std::string& anchor) {
  svg_ += "<text class=\"" + css + "\" x=\"" + at(x) + "\" y=\"" + at(y) + "\"" + (anchor == "start" ? "" : " text-anchor=\"" + anchor + "\"") + ">" +
      html_escaped(text) + "</text>";
}

void Svg::path(const std::vector<std::pair<double, double>>& points, const std::string& css) {
  if (points.size() < 2) return;
  svg_ += "<path class=\"" + css + "\" d=\"";
  for (size_t i = 0; i < points.size(); ++i) svg_ += (i == 0 ? "M" : "L") + at(points[i].first) + " " + at(points[i].second);
  svg_ += "\"/>";
}

void Svg::mark(int series, double x, double y, bool large, bool hollow, const std::string& title, const std::string& css) {
  svg_ += mark_use(series, large, hollow, css) + " x=\"" + at(x) + "\" y=\"" + at(y) + "\"><title>" + html_escaped(title) + "</title></use>";
}

std::string Svg::finish() { return std::move(svg_) + "</svg>"; }

std::string mark_shapes() {
  std::string shapes = "<svg class=\"shapes\" width=\"0\" height=\"0\" aria-hidden=\"true\"><defs>";
  for (int series = 0; series < kSeries; ++series)
    for (const auto& [name, radius] : {std::pair("m", 5.2), std::pair("n", 3.6)}) shapes += "<path id=\"" + std::string(name) + std::to_string(series) +
        "\" d=\"" + outline(series, radius) + "\"/>";
  return shapes + "</defs></svg>";
}

std::string legend_mark(int series, bool hollow) {
  return "<svg class=\"key\" viewBox=\"-8 -8 16 16\" aria-hidden=\"true\">" + mark_use(series, true, hollow) + "/></svg>";
}

std::string legend_swatch(const std::string& css) { return "<svg class=\"key\" viewBox=\"0 0 16 16\" aria-hidden=\"true\"><rect class=\"" + css +
    "\" x=\"2\" y=\"2\" width=\"12\" height=\"12\" rx=\"2\"/></svg>"; }

Scale::Scale(const std::vector<double>& values, double from, double to, double log_from, bool with_zero) : from_(from), to_(to) {
  std::vector<double> finite;
  for (const double value : values)
    if (std::isfinite(value)) finite.push_back(value);
  if (with_zero) finite.push_back(0);
  if (finite.empty()) return;
  const auto [least, most] = std::minmax_element(finite.begin(), finite.end());
  low_ = *least;
  high_ = *most;
  log_ = log_from > 0 && low_ > 0 && high_ / low_ > log_from;
  if (log_) {
    low_ = std::log10(low_);
    high_ = std::log10(high_);
  }
  const double span = high_ - low_, room = span > 1e-9 * std::abs(high_) ? .07 * span : std::max(std::abs(high_) * .1, 1e-9);
  if (!(with_zero && low_ == 0)) low_ -= room;
  if (!(with_zero && high_ == 0)) high_ += room;
}

Scale Scale::around(double origin, std::vector<double> values, double from, double to) {
  Scale scale({}, from, to, 0);
  scale.origin_ = origin;
  scale.low_ = scale.high_ = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    scale.low_ = std::min(scale.low_, scale.placed(value));
    scale.high_ = std::max(scale.high_, scale.placed(value));
  }
  const double room = std::max(.07 * (scale.high_ - scale.low_), .05);
  scale.low_ -= room;
  scale.high_ += room;
  return scale;
}

double Scale::placed(double value) const { return origin_ > 0 ? std::asinh((value / origin_ - 1) / 0.005) : log_ ? std::log10(value) : value; }

double Scale::operator()(double value) const { return from_ + (to_ - from_) * (placed(value) - low_) / (high_ - low_); }

// The origin, then tenths, hundredths ... of it and its multiples, as long as they do not come too near to each other.
std::vector<std::pair<double, std::string>> Scale::ticks_around() const {
  std::vector<double> chosen;
  for (const double part : {0.0, .1, .01, 1.0, 9.0, 99.0, 999.0, 9999.0, 99999.0, 999999.0, .001, -.1, -.01, -.001, -.5, .03, .3, 3.0, -.03, -.3, .003, .02,
      .05, .2, .5, .002, .005}) {
    const double value = origin_ * (1 + part);
    if (placed(value) < low_ || placed(value) > high_) continue;
    if (std::all_of(chosen.begin(), chosen.end(), [&](double other) { return std::abs((*this)(other) - (*this)(value)) >= 34; })) chosen.push_back(value);
  }
  std::sort(chosen.begin(), chosen.end());
  std::vector<std::pair<double, std::string>> all;
  for (const double value : chosen) all.emplace_back(value, score_text(value));
  return all;
}

std::vector<std::pair<double, std::string>> Scale::ticks(int about) const {
  if (origin_ > 0) return ticks_around();
  std::vector<std::pair<double, std::string>> all;
  if (log_) {
    const double decades = high_ - low_;
    const int step = std::max(1, static_cast<int>(std::ceil(decades / about)));
    for (int exponent = static_cast<int>(std::floor(low_)); exponent <= std::ceil(high_); ++exponent)
      for (const double times : {1.0, 2.0, 3.0, 5.0, 7.0}) {
        const double position = exponent + std::log10(times);
        if (position < low_ || position > high_) continue;
        if (times != 1 && (decades > 3 || (decades > 1 && times != 2 && times != 5))) continue;
        if (times == 1 && step > 1 && (exponent % step + step) % step != 0) continue;
        const double value = times * std::pow(10.0, exponent);
        all.emplace_back(value, value >= 1e6 || value < 1e-3 ? exact_text(times) + "e" + std::to_string(exponent) : fixed_text(value, std::max(0, -exponent)));
      }
    return all;
  }
  const double rough = (high_ - low_) / about, power = std::pow(10.0, std::floor(std::log10(rough)));
  const double step = power * (rough / power <= 1 ? 1 : rough / power <= 2 ? 2 : rough / power <= 5 ? 5 : 10);
  const int decimals = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
  for (double n = std::ceil(low_ / step); n * step <= high_ + 1e-9 * step; ++n) all.emplace_back(n * step, fixed_text(n == 0 ? 0 : n * step, decimals));
  return all;
}

}  // namespace miq::executor::report
