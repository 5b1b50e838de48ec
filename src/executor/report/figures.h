// The kinds of figures a report has, each from plain data to an <svg>.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace miq::executor::report {

/// Points in a plane, the Pareto-optimal ones full and joined by a line, the others hollow.
struct Scatter {
  struct Point {
    double x, y;
    int series = 0;
    bool is_optimal = false;
    std::string label, title;
  };
  std::string label, x_name, y_name;
  std::vector<Point> points;
  std::vector<std::pair<double, std::string>> references;  ///< horizontal lines: where, and what they are
  bool higher_is_better = false;                           ///< of y; x is better the lower
  bool x_is_bytes = false;
  double origin = 0;          ///< of y: where it is positive, the axis tells distances from it (Scale::around)
  bool joins_series = false;  ///< a thin line through the points of each series
};
std::string draw(const Scatter& scatter);

/// Curves over whole numbers, with a mark at each value.
struct Curves {
  struct Curve {
    std::string name;
    std::vector<std::pair<double, double>> points;
    std::vector<std::string> titles;  ///< of each point
  };
  std::string label, x_name, y_name;
  std::vector<Curve> curves;  ///< at most kSeries
};
std::string draw(const Curves& curves);

/// Horizontal bars of segments, with the total written behind.
struct Bars {
  struct Segment {
    double value;
    std::string css, title;
  };
  struct Bar {
    std::string name;
    std::vector<Segment> segments;
    std::string total;
  };
  std::string label;
  std::vector<Bar> bars;
};
std::string draw(const Bars& bars);

/// Differences from 0 with their intervals, one below the other.
struct Intervals {
  struct Row {
    std::string name, told, title;
    double value, low, high;
    int verdict = 0;  ///< +1 better, -1 worse, 0 not shown to differ
  };
  std::string label, left, right;  ///< what the two sides of 0 mean
  std::vector<Row> rows;
};
std::string draw(const Intervals& intervals);

/// Cells in shades, rows by columns; css "" leaves one out.
struct Tiles {
  struct Tile {
    std::string css, text, title;
  };
  std::string label, x_name;
  std::vector<std::string> rows, columns;
  std::vector<std::vector<Tile>> tiles;
};
std::string draw(const Tiles& tiles);

}  // namespace miq::executor::report
