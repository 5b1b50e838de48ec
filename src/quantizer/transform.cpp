#include "miq/quantizer/transform.h"

#include <ATen/ATen.h>

#include <cmath>

#include "device_rounding.h"
#include "miq/core/config.h"
#include "row_tile.h"

namespace miq::quantizer {
namespace {

// Every k-th row, so that at most `limit` are left.
at::Tensor sample_rows(const at::Tensor& weight_OI, std::int64_t limit) {
  const std::int64_t rows = weight_OI.size(0);
  if (limit <= 0 || rows <= limit) return weight_OI;
  const std::int64_t step = (rows + limit - 1) / limit;
  return weight_OI.slice(0, 0, rows, step).contiguous();
}

// tr(D H D^T), the product in bfloat16 where `fast`: losses are compared, and its error is 1e-3 of them.
double quadratic(const at::Tensor& change_OI, const at::Tensor& hessian_II) {
  const at::Tensor product = at::linear(change_OI.to(hessian_II.scalar_type()), hessian_II);  // H is symmetric
  return (product.to(at::kFloat) * change_OI).sum(at::kDouble).item<double>();
}

}  // namespace

void visit_fields(FieldVisitor& v, Transform& t) {
  v.choice<TransformKind>("kind", t.kind,
                          {{"none", TransformKind::none}, {"awq", TransformKind::awq}, {"smoothquant", TransformKind::smoothquant},
                           {"incoherence", TransformKind::incoherence}, {"rotation", TransformKind::rotation}},
                          "how the linears of one input are rewritten before rounding");
  const bool all = !v.writes();
  if (all || t.kind == TransformKind::awq) {
    v.integer("n_grid", t.n_grid, 1, 1000, "awq: exponents tried");
    v.choice<DuoScaling>("duo_scaling", t.duo_scaling,
                         {{"false", DuoScaling::none}, {"none", DuoScaling::none}, {"true", DuoScaling::duo}, {"duo", DuoScaling::duo}, {"both", DuoScaling::both}},
                         "awq: the weights' magnitudes enter the scale too");
    v.flag("module_search", t.module_search, "awq: the best few of q,k,v and gate,up are compared by their module's output");
    v.integer("search_rows", t.search_rows, 0, INT32_MAX, "awq: rows of each weight that the search looks at; 0: all");
  }
  if (all || t.kind == TransformKind::smoothquant) v.real("alpha", t.alpha, 0, 1, "smoothquant: how much of the difficulty moves to the weights; 0: searched for each stage");
  if (all || t.kind == TransformKind::incoherence || t.kind == TransformKind::rotation) {
    v.choice<OrthogonalKind>("orthogonal", t.orthogonal, {{"kronecker", OrthogonalKind::kronecker}, {"hadamard", OrthogonalKind::hadamard}},
                             "incoherence, rotation: factors of random rotations, or a randomised Hadamard matrix");
    v.integer("seed", t.seed, 0, INT64_MAX, "incoherence, rotation: of the random matrices");
  }
  if (all || t.kind == TransformKind::incoherence) v.flag("rescale", t.rescale, "incoherence: QuIP's diagonal rescaling first");
  if (all || t.kind == TransformKind::rotation) v.flag("online", t.online, "rotation: also a Hadamard product before down, at run time");
}

StatisticsNeeds transform_needs(const Transform& transform) {
  StatisticsNeeds needs;
  needs.hessian = transform.kind == TransformKind::awq || (transform.kind == TransformKind::incoherence && transform.rescale);
  needs.mean_abs = transform.kind == TransformKind::awq;
  needs.extremes = transform.kind == TransformKind::smoothquant;
  return needs;
}

std::vector<ScaleCandidate> awq_candidates(const Transform& transform) {
  std::vector<ScaleCandidate> candidates;
  const int n = transform.n_grid;
  // With weights, as llm-compressor: ratios up to 1; without, as llm-awq: i / n.
  if (transform.duo_scaling == DuoScaling::both) {
    const int half = std::max(2, n / 2);
    for (int i = 0; i < half; ++i)
      for (const bool duo : {false, true}) candidates.push_back({static_cast<double>(i) / (half - 1), duo});
    return candidates;
  }
  if (transform.duo_scaling == DuoScaling::duo) {
    candidates.push_back({0, false});  // no scaling at all
    for (int i = 0; i + 1 < n; ++i) candidates.push_back({n > 2 ? static_cast<double>(i) / (n - 2) : 0.5, true});
    return candidates;
  }
  for (int i = 0; i < n; ++i) candidates.push_back({static_cast<double>(i) / n, false});
  return candidates;
}

at::Tensor awq_scales(const at::Tensor& mean_abs_I, const at::Tensor& weight_mean_I, const ScaleCandidate& candidate) {
  at::Tensor scales = mean_abs_I.pow(candidate.ratio);
  if (candidate.duo) scales = scales / (weight_mean_I.pow(1 - candidate.ratio) + 1e-4);
  scales = scales.clamp_min(1e-4);
  scales = scales / (scales.max() * scales.min()).sqrt();
  return at::where(scales.isfinite().logical_and(scales > 0), scales, at::ones_like(scales));
}

at::Tensor awq_weight_mean(const std::vector<at::Tensor>& weights_OI, const Grid& grid) {
  const at::Tensor all = at::cat(weights_OI).abs();
  const std::int64_t columns = all.size(1), group = grid.columns_per_group(columns);
  std::vector<at::Tensor> parts;
  for (std::int64_t begin = 0; begin < columns; begin += group) {
    const at::Tensor part = all.narrow(1, begin, std::min(group, columns - begin));
    parts.push_back((part / (part.amax(1, true) + 1e-6)).mean(0));
  }
  return at::cat(parts);
}

at::Tensor scaled_rounding_error(const at::Tensor& weight_OI, const at::Tensor& scales_I, const Grid& grid) {
  if (grid.granularity != Granularity::group && grid.granularity != Granularity::channel) {
    const at::Tensor scaled = weight_OI * scales_I;
    const GridParams params = fit_grid(scaled, grid, Range{});
    return values_of_codes(nearest_codes(scaled, grid, params), grid, params).div_(scales_I).sub_(weight_OI);
  }
  if (rounds_on_device(weight_OI, grid)) {
    const at::Tensor scaled = weight_OI * scales_I;
    return nearest_values_on_device(scaled, grid, fit_on_device(scaled, grid, {})).div_(scales_I).sub_(weight_OI);
  }
  const at::Tensor weight = weight_OI.to(at::kCPU, at::kFloat).contiguous(), scales = scales_I.to(at::kCPU, at::kFloat).contiguous();
  const std::int64_t rows = weight.size(0), columns = weight.size(1), group = grid.columns_per_group(columns);
  at::Tensor change = at::empty_like(weight);
  const float* const w = weight.const_data_ptr<float>();
  const float* const s = scales.const_data_ptr<float>();
  float* const out = change.mutable_data_ptr<float>();
  for_each_row_tile(rows, [&](std::int64_t first, std::int64_t valid) {
    std::vector<float> tile(static_cast<size_t>(group * kLanes));
    TileGrid fitted;
    alignas(64) float codes[kLanes], values[kLanes];
    for (std::int64_t begin = 0; begin < columns; begin += group) {
      const std::int64_t end = std::min(begin + group, columns);
      load_tile(w, rows, columns, first, begin, end, tile.data());
      for (std::int64_t c = begin; c < end; ++c)
        for (std::int64_t r = 0; r < kLanes; ++r) tile[static_cast<size_t>((c - begin) * kLanes + r)] *= s[c];
      fit_tile(tile.data(), end - begin, grid, Range{}, fitted);
      for (std::int64_t c = begin; c < end; ++c) {
        float* const column = tile.data() + (c - begin) * kLanes;
        quantize_column(column, fitted, codes, values);
        for (std::int64_t r = 0; r < kLanes; ++r) column[r] = values[r] / s[c];
      }
      for (std::int64_t lane = 0; lane < valid; ++lane)
        for (std::int64_t c = begin; c < end; ++c) {
          const std::int64_t i = (first + lane) * columns + c;
          out[i] = tile[static_cast<size_t>((c - begin) * kLanes + lane)] - w[i];
        }
    }
  });
  return change.to(weight_OI.device());
}

std::vector<double> awq_losses(const std::vector<at::Tensor>& weights_OI, const at::Tensor& hessian_II,
                               const std::vector<at::Tensor>& candidate_scales, const std::vector<Grid>& grids,
                               std::int64_t search_rows) {
  std::vector<double> losses(candidate_scales.size(), 0);
  const at::Tensor hessian = hessian_II.contiguous();
  for (size_t l = 0; l < weights_OI.size(); ++l) {
    const at::Tensor weight = sample_rows(weights_OI[l], search_rows);
    const double share = static_cast<double>(weights_OI[l].size(0)) / static_cast<double>(weight.size(0));
    for (size_t i = 0; i < candidate_scales.size(); ++i) {
      losses[i] += share * quadratic(scaled_rounding_error(weight, candidate_scales[i], grids[l]), hessian);
    }
  }
  return losses;
}

at::Tensor smoothquant_scales(const at::Tensor& max_abs_I, const std::vector<at::Tensor>& weights_OI, double alpha) {
  at::Tensor largest;
  for (const at::Tensor& weight : weights_OI) {
    const at::Tensor own = weight.abs().amax(0);
    largest = largest.defined() ? at::maximum(largest, own) : own;
  }
  return (max_abs_I.pow(alpha) / largest.clamp_min(1e-5).pow(1 - alpha)).clamp_min(1e-5);
}

at::Tensor incoherence_rescaling(const at::Tensor& hessian_II, const std::vector<at::Tensor>& weights_OI) {
  at::Tensor squares = at::zeros_like(hessian_II.diagonal());
  for (const at::Tensor& weight : weights_OI) squares = squares + weight.square().sum(0);
  const at::Tensor diagonal = hessian_II.diagonal() / hessian_II.abs().max();
  return (diagonal.clamp_min(1e-8) / squares.clamp_min(1e-8)).pow(0.25).clamp_min(1e-8);
}

std::shared_ptr<const Orthogonal> random_orthogonal(OrthogonalKind kind, std::int64_t n, std::uint64_t seed) {
  return kind == OrthogonalKind::hadamard ? random_hadamard(n, seed) : random_kronecker(n, seed);
}

at::Tensor transform_weight(const at::Tensor& weight_OI, const OnlineTransform& transform) {
  at::Tensor weight = weight_OI;
  if (transform.divisor_I.defined()) weight = weight * transform.divisor_I;
  if (transform.input) weight = transform.input->apply(weight);
  if (transform.output) weight = transform.output->apply(weight.t().contiguous()).t();
  return weight.contiguous();
}

at::Tensor restore_weight(const at::Tensor& weight_OI, const OnlineTransform& transform) {
  at::Tensor weight = weight_OI;
  if (transform.output) weight = transform.output->apply_transposed(weight.t().contiguous()).t().contiguous();
  if (transform.input) weight = transform.input->apply_transposed(weight);
  if (transform.divisor_I.defined()) weight = weight / transform.divisor_I;
  return weight;
}

at::Tensor transform_hessian(const at::Tensor& hessian_II, const OnlineTransform& transform) {
  at::Tensor hessian = hessian_II;
  if (transform.divisor_I.defined()) hessian = hessian / (transform.divisor_I.unsqueeze(0) * transform.divisor_I.unsqueeze(1));
  if (transform.input) hessian = transform.input->apply(transform.input->apply(hessian).t().contiguous()).t().contiguous();
  return hessian;
}

}  // namespace miq::quantizer
