// What cannot go together, and why: told before a weight is read.
#include <algorithm>
#include <cmath>

#include "miq/quantizer/recipe.h"

namespace miq::quantizer {
namespace {

using Reason = std::optional<std::string>;

std::string text(std::int64_t value) { return std::to_string(value); }

Reason why_not_grid(const Grid& grid, std::int64_t out_features) {
  if (grid.is_fp8()) {
    if (grid.bits != 8) return "an fp8 grid has 8 bits, not " + text(grid.bits) + ": leave grid.bits out or set it to 8";
    if (grid.bilevel.enabled() || grid.real_zeros) return std::string("an fp8 grid has no zero points, so neither real_zeros nor bilevel");
  }
  if (grid.bits < 2 || grid.bits > 8) return "bits must lie in 2 .. 8, not " + text(grid.bits);
  if (grid.granularity == Granularity::group && grid.group_size < 1) return std::string("group_size must be positive");
  if (grid.granularity == Granularity::block && grid.group_size < 1) return std::string("the size of a block (group_size) must be positive");
  if (grid.convention == GridConvention::absmax && !grid.symmetric) return std::string("the grid convention absmax is symmetric: set grid.symmetric: true, or another convention");
  if (grid.real_zeros && grid.convention != GridConvention::spqr && grid.convention != GridConvention::hqq)
    return std::string("real_zeros belong to the grid conventions spqr and hqq");
  if (grid.bilevel.enabled()) {
    if (grid.convention != GridConvention::spqr) return std::string("a bilevel grid has the convention spqr");
    if (out_features % grid.bilevel.rows != 0)
      return "the second level of the grid takes " + text(grid.bilevel.rows) + " rows together, which do not divide " + text(out_features) + " outputs";
  }
  return std::nullopt;
}

Reason why_not_rounding(const LayerRecipe& layer) {
  const Rounding& rounding = layer.rounding;
  const Grid& grid = layer.grid;
  const std::vector<std::string> known = rounding_names();
  if (std::find(known.begin(), known.end(), rounding.kind) == known.end()) return "there is no rounding '" + rounding.kind + "'";
  if (rounding.block_size < 1) return std::string("block_size must be positive");
  if (!(rounding.percdamp >= 0) || !std::isfinite(rounding.percdamp)) return std::string("percdamp must not be negative");
  // Each step of the ladder is a Cholesky factorisation.
  if (rounding.damp_auto_increment != 0 && !(rounding.damp_auto_increment >= 1e-3))
    return std::string("damp_auto_increment must be 0 or at least 0.001");
  if (rounding.kind == "spqr" && (grid.convention != GridConvention::spqr || grid.granularity == Granularity::tensor || grid.granularity == Granularity::block))
    return std::string("the rounding spqr works on grids of the convention spqr, by group or channel");
  if (grid.bilevel.enabled() && rounding.kind != "spqr") return std::string("a bilevel grid is made by the rounding spqr only");
  if (rounding.kind == "hqq" && (grid.convention != GridConvention::hqq || grid.granularity == Granularity::tensor || grid.granularity == Granularity::block))
    return std::string("the rounding hqq works on grids of the convention hqq, by group or channel");
  if (rounding.act_order == ActOrder::spearman && rounding.kind != "spqr") return std::string("act_order spearman is known to the rounding spqr only");
  if (rounding.kind == "stochastic" && (!grid.is_integer() || grid.granularity == Granularity::block)) return std::string("the rounding stochastic works on integer grids, not by block");
  if (rounding.greedy_passes > 0 && rounding.kind != "error_feedback" && rounding.kind != "greedy")
    return std::string("greedy_passes belong to the roundings error_feedback and greedy");
  return std::nullopt;
}

Reason why_not_range(const LayerRecipe& layer) {
  const Range& range = layer.range;
  const bool plain = range.kind == RangeKind::min_max;
  if (layer.grid.granularity == Granularity::block && !plain) return std::string("a grid by block is fitted with range min_max only");
  if (layer.rounding.kind == "spqr" && !plain) return std::string("the rounding spqr fits its grids itself: range must be min_max");
  if (layer.rounding.kind == "hqq" && !plain) return std::string("the rounding hqq fits its grids itself: range must be min_max");
  if (range.kind == RangeKind::awq_clip && layer.grid.granularity == Granularity::tensor)
    return std::string("range awq_clip works by group or channel, not per tensor");
  return std::nullopt;
}

Reason why_not_activation(const Activation& activation, std::int64_t in_features) {
  if (!activation.enabled()) return std::nullopt;
  if (activation.bits > 8) return "activations have 2 .. 8 bits, or 16 for none; not " + text(activation.bits);
  if (activation.type != GridType::integer && activation.bits != 8) return std::string("fp8 activations have 8 bits");
  if (activation.type != GridType::integer && !activation.symmetric) return std::string("fp8 activations are symmetric");
  if (!activation.dynamic && activation.granularity != ActivationGranularity::tensor)
    return std::string("a static activation scale is one per tensor: set activation.granularity: tensor, or dynamic: true");
  if (activation.granularity == ActivationGranularity::group && in_features % activation.group_size != 0)
    return "activation groups of " + text(activation.group_size) + " do not divide " + text(in_features) + " inputs";
  return std::nullopt;
}

Reason why_not_transform(const LayerRecipe& layer, std::int64_t out_features, std::int64_t in_features) {
  // Extremes are kept by channel, which a rotation mixes.
  const bool rotates = layer.transform.kind == TransformKind::incoherence || (layer.transform.kind == TransformKind::rotation && layer.transform.online);
  if (rotates && layer.activation.enabled() && !layer.activation.dynamic)
    return std::string("a static activation range is not known behind a rotation at run time: set activation.dynamic: true, or another transform");
  if (layer.transform.kind != TransformKind::incoherence || layer.transform.orthogonal != OrthogonalKind::hadamard) return std::nullopt;
  for (const std::int64_t n : {in_features, out_features})
    if (!has_hadamard(n)) return "there is no known Hadamard matrix of order " + text(n) + ": use transform.orthogonal: kronecker";
  return std::nullopt;
}

}  // namespace

std::optional<std::string> why_not(const LayerRecipe& layer, std::int64_t out_features, std::int64_t in_features) {
  if (layer.keep_float) return std::nullopt;
  if (out_features < 1 || in_features < 1) return std::string("the weight is empty");
  if (auto reason = why_not_rounding(layer)) return reason;
  if (auto reason = why_not_grid(layer.grid, out_features)) return reason;
  if (auto reason = why_not_range(layer)) return reason;
  if (auto reason = why_not_activation(layer.activation, in_features)) return reason;
  return why_not_transform(layer, out_features, in_features);
}

}  // namespace miq::quantizer
