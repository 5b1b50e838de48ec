// Error and bits by layer.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "document.h"
#include "figures.h"
#include "numbers.h"
#include "sections.h"
#include "svg.h"

namespace miq::executor::report {
namespace {

// The layers of one kind in one block: one, or as many as there are experts.
struct Place {
  double error = 0, worst = 0, bits = 0;
  int count = 0, errors = 0;
  std::string worst_name;

  void add(const Layer& layer) {
    ++count;
    bits += layer.bits_per_weight;
    if (std::isnan(layer.relative_error)) return;
    ++errors;
    error += layer.relative_error;
    if (worst_name.empty() || layer.relative_error > worst) {
      worst = layer.relative_error;
      worst_name = layer.name;
    }
  }
  double mean_error() const { return errors > 0 ? error / errors : kUnknown; }
  double mean_bits() const { return count > 0 ? bits / count : kUnknown; }
};

struct LayerMap {
  std::vector<std::string> kinds;  // in the order of the model
  std::map<std::int64_t, std::map<std::string, Place>> places;  // by depth, by kind
  std::vector<const Layer*> outside;  // of no block
  bool bits_vary = false;

  explicit LayerMap(const Run& run) {
    std::set<std::string> bits;
    for (const Layer& layer : run.quantization->layers) {
      if (layer.depth < 0) {
        outside.push_back(&layer);
        continue;
      }
      if (std::find(kinds.begin(), kinds.end(), layer.kind) == kinds.end()) kinds.push_back(layer.kind);
      places[layer.depth][layer.kind].add(layer);
      bits.insert(fixed_text(layer.bits_per_weight, 2));
    }
    bits_vary = bits.size() > 1;
  }
  const Place* find(std::int64_t depth, const std::string& kind) const {
    const auto& of_depth = places.at(depth);
    const auto found = of_depth.find(kind);
    return found == of_depth.end() ? nullptr : &found->second;
  }
};

std::string error_text(double error) { return std::isnan(error) ? "–" : fixed_text(100 * error, error < 0.0995 ? 2 : 1) + " %"; }

Figure error_figure(const LayerMap& map) {
  Curves curves;
  for (const std::string& kind : map.kinds) {
    if (curves.curves.size() == kSeries) break;
    Curves::Curve curve{kind, {}, {}};
    for (const auto& [depth, of_depth] : map.places) {
      const Place* place = map.find(depth, kind);
      if (place == nullptr || !std::isfinite(place->mean_error())) continue;
      curve.points.emplace_back(depth, 100 * place->mean_error());
      curve.titles.push_back("block " + std::to_string(depth) + ", " + kind + ": " + error_text(place->mean_error()) +
          (place->count > 1 ? " on average, at most " + error_text(place->worst) : "") + ", " +
                             fixed_text(place->mean_bits(), 2) + " bits a weight");
    }
    curves.curves.push_back(std::move(curve));
  }
  curves.x_name = "block";
  curves.y_name = "relative error of the weights, %";
  curves.label = "Relative error of the weights by block, a curve for each kind of layer";
  Figure figure{"Error by depth", draw(curves), {}, "‖quantized − original‖ / ‖original‖ of each layer's weights."};
  for (size_t c = 0; c < curves.curves.size(); ++c) figure.legend.emplace_back(legend_mark(static_cast<int>(c)), curves.curves[c].name);
  if (map.kinds.size() > kSeries) figure.note += " The first " + std::to_string(kSeries) + " of " + std::to_string(map.kinds.size()) + " kinds; the table has them all.";
  return figure;
}

int whole_bits(double bits) { return static_cast<int>(std::lround(std::clamp(bits, 1.0, 9.0))); }

Figure bits_figure(const LayerMap& map) {
  Tiles tiles;
  tiles.label = "Bits per weight by block and kind of layer";
  tiles.x_name = "block";
  tiles.rows = map.kinds;
  for (const auto& [depth, of_depth] : map.places) tiles.columns.push_back(std::to_string(depth));
  std::set<int> used;
  for (const std::string& kind : map.kinds) {
    tiles.tiles.emplace_back();
    for (const auto& [depth, of_depth] : map.places) {
      const Place* place = map.find(depth, kind);
      if (place == nullptr || std::isnan(place->mean_bits())) {
        tiles.tiles.back().push_back({"", "", ""});
        continue;
      }
      used.insert(whole_bits(place->mean_bits()));
      tiles.tiles.back().push_back({"q" + std::to_string(whole_bits(place->mean_bits())), fixed_text(place->mean_bits(), 1), "block " + std::to_string(depth) +
          ", " + kind + ": " + fixed_text(place->mean_bits(), 2) + " bits a weight"});
    }
  }
  Figure figure{"Bits by depth", draw(tiles), {}, "Bits a weight, scales and all."};
  for (const int bits : used) figure.legend.emplace_back(legend_swatch("tile q" + std::to_string(bits)), "about " + (bits == 9 ? "9 or more" : std::to_string(bits)));
  return figure;
}

Table layer_table(const LayerMap& map) {
  Table table;
  table.head = {"block"};
  table.head.insert(table.head.end(), map.kinds.begin(), map.kinds.end());
  for (const auto& [depth, of_depth] : map.places) {
    table.rows.push_back({Cell{std::to_string(depth)}});
    for (const std::string& kind : map.kinds) {
      const Place* place = map.find(depth, kind);
      Cell cell{place == nullptr ? "–" : error_text(place->mean_error())};
      if (place != nullptr && map.bits_vary) cell.note = fixed_text(place->mean_bits(), 2) + " bits";
      table.rows.back().push_back(std::move(cell));
    }
  }
  return table;
}

std::string layers_in_words(const Run& run, const LayerMap& map) {
  const std::vector<Layer>& layers = run.quantization->layers;
  const Layer* worst = nullptr;
  double sum = 0;
  std::int64_t known = 0;
  for (const Layer& layer : layers) {
    if (std::isnan(layer.relative_error)) continue;
    ++known;
    sum += layer.relative_error;
    if (worst == nullptr || layer.relative_error > worst->relative_error) worst = &layer;
  }
  std::string text = counted(static_cast<std::int64_t>(layers.size()), "linear layer") + (layers.size() == 1 ? " was" : " were") + " quantized";
  if (!map.bits_vary && !map.places.empty() && map.outside.empty() && !std::isnan(layers.front().bits_per_weight)) text += ", each to " +
      fixed_text(layers.front().bits_per_weight, 2) + " bits a weight";
  text += ".";
  if (worst != nullptr) text += " The error of their weights is " + error_text(sum / static_cast<double>(known)) + " on average and largest, " +
      error_text(worst->relative_error) + ", in " + worst->name + ".";
  for (const Layer* layer : map.outside) text += " " + layer->name + ": " + error_text(layer->relative_error) + " at " +
      fixed_text(layer->bits_per_weight, 2) + " bits a weight.";
  return text;
}

}  // namespace

std::vector<Block> layer_blocks(const Run& run) {
  std::vector<Block> blocks;
  if (!run.quantization || run.quantization->layers.empty()) return blocks;
  const LayerMap map(run);
  blocks.push_back(Words{layers_in_words(run, map)});
  if (map.places.empty()) return blocks;
  Figures figures;
  figures.figures.push_back(error_figure(map));
  if (map.bits_vary) figures.figures.push_back(bits_figure(map));
  for (Figure& figure : figures.figures) blocks.push_back(Figures{{std::move(figure)}});
  blocks.push_back(Fold{map.bits_vary ? "Error and bits of each layer" : "Error of each layer", "", {layer_table(map)}});
  return blocks;
}

std::optional<Section> layer_comparison(const Study& study) {
  bool is_bytes = false;
  const std::vector<double> size = sizes(study, is_bytes);
  std::vector<size_t> shown;
  for (size_t r = 0; r < study.runs.size(); ++r)
    if (study.runs[r].quantization && !study.runs[r].quantization->layers.empty()) shown.push_back(r);
  std::string which;
  if (shown.size() > kSeries) {  // the ones that matter: the Pareto-optimal by the first measure
    const std::vector<Measure> all = measures(study);
    std::vector<std::pair<double, double>> points;
    for (size_t r = 0; r < study.runs.size(); ++r) points.emplace_back(size[r], all.empty() ? 0 : all[0].higher_is_better ? -all[0].values[r] : all[0].values[r]);
    const std::vector<bool> best = pareto_optimal(points);
    std::vector<size_t> chosen;
    for (const size_t r : shown)
      if (best[r] && chosen.size() < kSeries) chosen.push_back(r);
    which = chosen.size() < 2 ? "the first " + std::to_string(kSeries) + " runs" : "Pareto-optimal runs";
    if (chosen.size() < 2) shown.resize(kSeries);
    else shown = chosen;
  }
  if (shown.size() < 2) return std::nullopt;
  Curves curves;
  Table table;
  table.head = {"block"};
  std::map<std::int64_t, std::vector<double>> rows;
  for (size_t s = 0; s < shown.size(); ++s) {
    const LayerMap map(study.runs[shown[s]]);
    Curves::Curve curve{study.runs[shown[s]].name, {}, {}};
    table.head.push_back(curve.name);
    for (const auto& [depth, of_depth] : map.places) {
      Place all;
      for (const auto& [kind, place] : of_depth) {
        all.error += place.error;
        all.errors += place.errors;
      }
      if (!std::isfinite(all.mean_error())) continue;
      curve.points.emplace_back(depth, 100 * all.mean_error());
      curve.titles.push_back("block " + std::to_string(depth) + ", " + curve.name + ": " + error_text(all.mean_error()));
      rows[depth].resize(shown.size(), kUnknown);
      rows[depth][s] = all.mean_error();
    }
    if (!curve.points.empty()) curves.curves.push_back(std::move(curve));
  }
  if (curves.curves.size() < 2) return std::nullopt;
  for (const auto& [depth, errors] : rows) {
    table.rows.push_back({Cell{std::to_string(depth)}});
    for (const double error : errors) table.rows.back().push_back({error_text(error)});
  }
  curves.x_name = "block";
  curves.y_name = "relative error of the weights, %, mean over the block's layers";
  curves.label = "Relative error of the weights by block, a curve for each run";
  Figure figure{"Error by depth" + (which.empty() ? "" : ": " + which), draw(curves), {}, "By kind of layer: see each run."};
  for (size_t c = 0; c < curves.curves.size(); ++c) figure.legend.emplace_back(legend_mark(static_cast<int>(c)), curves.curves[c].name);
  return Section{"layers", "Layers", {Figures{{std::move(figure)}}, Fold{"Error of each block", "", {std::move(table)}}}};
}

}  // namespace miq::executor::report
