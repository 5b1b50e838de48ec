#include "figures.h"

#include <algorithm>
#include <cmath>

#include "miq/core/memory.h"
#include "numbers.h"
#include "svg.h"

namespace miq::executor::report {
namespace {

// About the width of small text in pixels; too much rather than too little.
double text_width(const std::string& text) {
  return 6.4 * static_cast<double>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

struct Box {
  double left, top, right, bottom;
  bool overlaps(const Box& other) const { return left < other.right && other.left < right && top < other.bottom && other.top < bottom; }
};

// "+10 %" of a tick, where "+10.0 %" says no more.
std::string round_change(double value, double before) {
  std::string text = change_text(value, before);
  for (const char* zeros : {".00 %", ".0 %"})
    if (text.ends_with(zeros)) return text.substr(0, text.size() - std::string_view(zeros).size()) + " %";
  return text;
}

// Labels beside their points where there is room: none lies on another, on a mark or outside. The others' points are told by their titles and the table.
void place_labels(Svg& svg, const Scatter& scatter, const Scale& x, const Scale& y, const Box& area, std::vector<Box> taken) {
  for (const bool optimal : {true, false})
    for (const Scatter::Point& point : scatter.points) {
      if (point.is_optimal != optimal || point.label.empty()) continue;
      const std::string label = shortened(point.label, 30);
      const double width = text_width(label), at_x = x(point.x), at_y = y(point.y);
      const std::pair<double, double> places[] = {{at_x + 9, at_y + 4}, {at_x + 7, at_y - 7}, {at_x + 7, at_y + 15}, {at_x - 9 - width, at_y + 4},
          {at_x - 7 - width, at_y - 7},
                                                  {at_x - 7 - width, at_y + 15}, {at_x - width / 2, at_y - 10}, {at_x - width / 2, at_y + 18}};
      for (const auto& [left, base] : places) {
        const Box box{left, base - 10, left + width, base + 3};
        const bool inside = box.left >= area.left && box.right <= area.right && box.top >= area.top && box.bottom <= area.bottom;
        if (!inside || std::any_of(taken.begin(), taken.end(), [&](const Box& other) { return box.overlaps(other); })) continue;
        svg.text(left, base, label, optimal ? "small strong halo" : "small halo");
        taken.push_back(box);
        break;
      }
    }
}

// The border of what is better than nothing: from each optimal point on, until the next is better.
std::vector<std::pair<double, double>> front(const Scatter& scatter, const Scale& x, const Scale& y, double end) {
  std::vector<std::pair<double, double>> best, steps;
  for (const Scatter::Point& point : scatter.points)
    if (point.is_optimal) best.emplace_back(point.x, point.y);
  std::sort(best.begin(), best.end());
  for (size_t i = 0; i < best.size(); ++i) {
    if (i > 0) steps.emplace_back(x(best[i].first), y(best[i - 1].second));
    steps.emplace_back(x(best[i].first), y(best[i].second));
  }
  if (!best.empty()) steps.emplace_back(end, y(best.back().second));
  return steps;
}

// Ticks of bytes: powers of two read better than of ten.
std::vector<std::pair<double, std::string>> x_ticks(const Scatter& scatter, const Scale& x) {
  if (!scatter.x_is_bytes) return x.ticks(6);
  double least = INFINITY, most = 0;
  for (const Scatter::Point& point : scatter.points) {
    least = std::min(least, point.x);
    most = std::max(most, point.x);
  }
  std::vector<std::pair<double, std::string>> all;
  double step = std::exp2(std::floor(std::log2(std::max((most - least) / 3, 1024.0))));
  if (x.is_log())
    for (double value = std::exp2(std::ceil(std::log2(least))); value <= most; value *= 2) all.emplace_back(value, bytes_text(value));
  else
    for (double value = std::ceil(least / step) * step; value <= most; value += step) all.emplace_back(value, bytes_text(value));
  return all;
}

}  // namespace

std::string draw(const Scatter& scatter) {
  constexpr double kWidth = 520, kHeight = 360, kLeft = 76, kRight = 506, kTop = 32, kBottom = 316;
  std::vector<double> xs, ys;
  for (const Scatter::Point& point : scatter.points) {
    xs.push_back(point.x);
    ys.push_back(point.y);
  }
  for (const auto& reference : scatter.references) ys.push_back(reference.first);
  const Scale x(xs, kLeft, kRight, 8);
  const Scale y = scatter.origin > 0 ? Scale::around(scatter.origin, ys, kBottom, kTop) : Scale(ys, kBottom, kTop, scatter.higher_is_better ? 0 : 5);
  Svg svg(kWidth, kHeight, scatter.label);
  for (const auto& [value, text] : y.ticks(5)) {
    svg.line(kLeft, y(value), kRight, y(value), "grid");
    const bool has_change = scatter.origin > 0 && value != scatter.origin;
    svg.text(kLeft - 8, y(value) + (has_change ? -1 : 4), text, "small", "end");
    if (has_change) svg.text(kLeft - 8, y(value) + 12, round_change(value, scatter.origin), "small muted", "end");
  }
  for (const auto& [value, text] : x_ticks(scatter, x)) {
    svg.line(x(value), kBottom, x(value), kBottom + 5, "axis");
    svg.text(x(value), kBottom + 19, text, "small", "middle");
  }
  svg.line(kLeft, kBottom, kRight, kBottom, "axis");
  svg.text(6, 16, scatter.y_name, "name");
  svg.text((kLeft + kRight) / 2, kHeight - 6, scatter.x_name, "name", "middle");
  std::vector<Box> marks, taken;
  for (const Scatter::Point& point : scatter.points) marks.push_back({x(point.x) - 6, y(point.y) - 6, x(point.x) + 6, y(point.y) + 6});
  for (const auto& [value, text] : scatter.references) {
    const std::string label = shortened(text, 44);
    const double width = text_width(label);
    svg.line(kLeft, y(value), kRight, y(value), "reference");
    Box place{};
    for (const auto& [left, base] : {std::pair(kRight - width, y(value) - 5), std::pair(kLeft + 2, y(value) - 5), std::pair(kRight - width, y(value) + 14),
        std::pair(kLeft + 2, y(value) + 14)}) {
      place = {left, base - 10, left + width, base + 3};
      if (place.top >= kTop - 8 && place.bottom <= kBottom && std::none_of(marks.begin(), marks.end(), [&](const Box& mark) { return place.overlaps(mark); })) break;
    }
    svg.text(place.left, place.bottom - 3, label, "small muted halo");
    taken.push_back(place);
    taken.push_back({kLeft, y(value) - 1, kRight, y(value) + 1});
  }
  taken.insert(taken.end(), marks.begin(), marks.end());
  if (scatter.joins_series)
    for (int series = 0; series < kSeries; ++series) {
      std::vector<std::pair<double, double>> line;
      for (const Scatter::Point& point : scatter.points)
        if (point.series == series) line.emplace_back(x(point.x), y(point.y));
      std::sort(line.begin(), line.end());
      svg.path(line, "join s" + std::to_string(series));
    }
  svg.path(front(scatter, x, y, kRight), "front");
  for (const bool optimal : {false, true})
    for (const Scatter::Point& point : scatter.points)
      if (point.is_optimal == optimal) svg.mark(point.series, x(point.x), y(point.y), /*large=*/true, !optimal, point.title);
  place_labels(svg, scatter, x, y, {kLeft, kTop - 8, kRight + 4, kBottom}, std::move(taken));
  return svg.finish();
}

std::string draw(const Curves& curves) {
  constexpr double kWidth = 960, kHeight = 330, kLeft = 58, kRight = 946, kTop = 30, kBottom = 286;
  std::vector<double> xs, ys;
  for (const Curves::Curve& curve : curves.curves)
    for (const auto& [x, y] : curve.points) {
      xs.push_back(x);
      ys.push_back(y);
    }
  const Scale x(xs, kLeft, kRight, 0), y(ys, kBottom, kTop, 0, /*with_zero=*/true);
  Svg svg(kWidth, kHeight, curves.label);
  for (const auto& [value, text] : y.ticks(5)) {
    svg.line(kLeft, y(value), kRight, y(value), "grid");
    svg.text(kLeft - 8, y(value) + 4, text, "small", "end");
  }
  for (const auto& [value, text] : x.ticks(12))
    if (value == std::floor(value) && value >= 0) {
      svg.line(x(value), kBottom, x(value), kBottom + 5, "axis");
      svg.text(x(value), kBottom + 19, fixed_text(value, 0), "small", "middle");
    }
  svg.line(kLeft, kBottom, kRight, kBottom, "axis");
  svg.text(6, 16, curves.y_name, "name");
  svg.text((kLeft + kRight) / 2, kHeight - 6, curves.x_name, "name", "middle");
  for (size_t c = 0; c < curves.curves.size(); ++c) {
    const Curves::Curve& curve = curves.curves[c];
    std::vector<std::pair<double, double>> points;
    for (const auto& [at, value] : curve.points) points.emplace_back(x(at), y(value));
    svg.path(points, "curve s" + std::to_string(c % kSeries));
    for (size_t i = 0; i < points.size(); ++i) svg.mark(static_cast<int>(c), points[i].first, points[i].second, /*large=*/false, false, curve.titles[i]);
  }
  return svg.finish();
}

std::string draw(const Bars& bars) {
  constexpr double kWidth = 520, kLeft = 2, kBarEnd = 420;
  const bool is_dense = bars.bars.size() > 10;  // then the name stands beside its bar, not above
  const double left = is_dense ? 190 : kLeft, pitch = is_dense ? 20 : 38, height = 12;
  double most = 0;
  for (const Bars::Bar& bar : bars.bars) {
    double sum = 0;
    for (const Bars::Segment& segment : bar.segments)
      if (segment.value > 0) sum += segment.value;
    most = std::max(most, sum);
  }
  Svg svg(kWidth, pitch * static_cast<double>(bars.bars.size()) + 6, bars.label);
  for (size_t b = 0; b < bars.bars.size(); ++b) {
    const Bars::Bar& bar = bars.bars[b];
    const double top = pitch * static_cast<double>(b) + (is_dense ? 4 : 19);
    if (is_dense) svg.text(left - 8, top + 10, shortened(bar.name, 28), "small", "end");
    else svg.text(kLeft, top - 5, shortened(bar.name, 60), "small strong");
    double x = left;
    for (const Bars::Segment& segment : bar.segments) {
      if (!(segment.value > 0) || !(most > 0)) continue;
      const double width = (kBarEnd - left) * segment.value / most;
      svg.rect(x, top, std::max(width - 1.5, 0.5), height, "bar " + segment.css, bar.name + ": " + segment.title);  // a gap between neighbours
      x += width;
    }
    svg.text(x + 6, top + 10, bar.total, "small");
  }
  return svg.finish();
}

std::string draw(const Intervals& intervals) {
  constexpr double kWidth = 520, kLeft = 10, kRight = 510, kPitch = 42, kTop = 8;
  std::vector<double> values;
  for (const Intervals::Row& row : intervals.rows) values.insert(values.end(), {row.value, row.low, row.high});
  const Scale x(values, kLeft, kRight, 0, /*with_zero=*/true);
  const double bottom = kTop + kPitch * static_cast<double>(intervals.rows.size());
  Svg svg(kWidth, bottom + 42, intervals.label);
  for (const auto& [value, text] : x.ticks(5)) {
    svg.line(x(value), kTop + 20, x(value), bottom + 4, value == 0 ? "axis" : "grid");
    svg.text(x(value), bottom + 18, value > 0 ? "+" + text : text, "small", "middle");
  }
  if (x(0) > kLeft + 90) svg.text(x(0) - 8, bottom + 36, "← " + intervals.left, "small muted", "end");
  if (x(0) < kRight - 90) svg.text(x(0) + 8, bottom + 36, intervals.right + " →", "small muted");
  for (size_t r = 0; r < intervals.rows.size(); ++r) {
    const Intervals::Row& row = intervals.rows[r];
    const double top = kTop + kPitch * static_cast<double>(r), middle = top + 28;
    const std::string css = row.verdict < 0 ? "worse" : row.verdict > 0 ? "better" : "same";
    svg.text(kLeft, top + 14, shortened(row.name, 42), row.verdict != 0 ? "small strong" : "small");
    svg.text(kRight, top + 14, row.told, row.verdict != 0 ? "small strong" : "small", "end");
    svg.rect(kLeft, middle - 7, kRight - kLeft, 14, "hover", row.title);
    if (!std::isnan(row.low) && !std::isnan(row.high)) {
      svg.line(x(row.low), middle, x(row.high), middle, "whisker " + css);
      for (const double end : {row.low, row.high}) svg.line(x(end), middle - 4, x(end), middle + 4, "whisker " + css);
    }
    svg.mark(row.verdict < 0 ? 4 : row.verdict > 0 ? 2 : 0, x(row.value), middle, /*large=*/true, row.verdict == 0, row.title, css);
  }
  return svg.finish();
}

std::string draw(const Tiles& tiles) {
  constexpr double kWidth = 960, kLeft = 190, kRight = 956, kHeight = 20;
  const size_t columns = tiles.columns.size();
  const double width = std::min((kRight - kLeft) / static_cast<double>(std::max<size_t>(columns, 1)), 60.0), bottom = kHeight * static_cast<double>(tiles.rows.size());
  Svg svg(kWidth, bottom + 40, tiles.label);
  const auto every = static_cast<size_t>(std::ceil(24 / width));
  for (size_t r = 0; r < tiles.rows.size(); ++r) {
    svg.text(kLeft - 8, kHeight * static_cast<double>(r) + 14, shortened(tiles.rows[r], 28), "small", "end");
    for (size_t c = 0; c < columns; ++c) {
      const Tiles::Tile& tile = tiles.tiles[r][c];
      if (tile.css.empty()) continue;
      const double left = kLeft + width * static_cast<double>(c), top = kHeight * static_cast<double>(r);
      svg.rect(left + .5, top + .5, width - 1, kHeight - 1, "tile " + tile.css, tile.title);
      if (width >= text_width(tile.text) + 2) svg.text(left + width / 2, top + 14, tile.text, "small on " + tile.css, "middle");
    }
  }
  for (size_t c = 0; c < columns; c += every) svg.text(kLeft + width * (static_cast<double>(c) + .5), bottom + 15, tiles.columns[c], "small", "middle");
  svg.text(kLeft, bottom + 34, tiles.x_name, "name");
  return svg.finish();
}

}  // namespace miq::executor::report
