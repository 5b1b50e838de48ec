// Transforms: a scale group (the linears that read one input) rewritten so that it quantizes better,
// its function unchanged. x' = V (x / d), W' = W diag(d) V^T, H' = V diag(1/d) H diag(1/d) V^T; on the
// output side y = U^T y', W' = U W. Methods see W' and H' only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "miq/quantizer/linear_problem.h"
#include "miq/quantizer/orthogonal.h"
#include "miq/quantizer/statistics.h"

namespace miq::quantizer {

enum class TransformKind {
  none,
  awq,          ///< d from the mean |x|, its exponent searched (arXiv 2306.00978)
  smoothquant,  ///< d from the max |x| and max |w| (arXiv 2211.10438)
  incoherence,  ///< random orthogonal matrices on both sides (QuIP, arXiv 2307.13304)
  rotation,     ///< of the residual stream, of the whole model (QuaRot, arXiv 2404.00456)
};
/// Whether the weights' own magnitudes enter AWQ's scale: no (llm-awq), at every ratio (AutoAWQ), both
/// kinds tried.
enum class DuoScaling { none, duo, both };
enum class OrthogonalKind { kronecker, hadamard };

struct Transform {
  TransformKind kind = TransformKind::none;
  int n_grid = 20;                          ///< awq: ratios tried
  DuoScaling duo_scaling = DuoScaling::none;
  bool module_search = true;                ///< awq: q,k,v and gate,up are decided by their module's own output
  std::int64_t search_rows = 128;           ///< awq: rows of the group's weights that the search looks at; 0: all
  /// smoothquant: how much of the difficulty moves to the weights; 0: searched for each stage, by the error
  /// of its output.
  double alpha = 0;
  OrthogonalKind orthogonal = OrthogonalKind::kronecker;  ///< incoherence, rotation
  bool rescale = false;                     ///< incoherence: QuIP's diagonal rescaling first
  bool online = false;                      ///< rotation: also a Hadamard product before down, at run time
  std::int64_t seed = 42;
  bool operator==(const Transform&) const = default;
};

void visit_fields(FieldVisitor& visitor, Transform& transform);

/// What a transform reads of the data.
StatisticsNeeds transform_needs(const Transform& transform);

/// Candidates of the AWQ search, in its order.
struct ScaleCandidate {
  double ratio;
  bool duo;
};
std::vector<ScaleCandidate> awq_candidates(const Transform& transform);

/// s = clamp(xm^r [/ (wm^(1-r) + 1e-4)], 1e-4), / sqrt(max s * min s); llm-awq auto_scale.py, AutoAWQ
/// _compute_best_scale. mean_abs_I: mean |x|; weight_mean_I: from awq_weight_mean (duo only).
at::Tensor awq_scales(const at::Tensor& mean_abs_I, const at::Tensor& weight_mean_I, const ScaleCandidate& candidate);
/// Mean over all rows of |w| / (group max |w| + 1e-6), [I].
at::Tensor awq_weight_mean(const std::vector<at::Tensor>& weights_OI, const Grid& grid);

/// Q(W diag s) diag(1/s) - W with nearest min-max rounding, float32 [O, I]: one pass over the weight.
at::Tensor scaled_rounding_error(const at::Tensor& weight_OI, const at::Tensor& scales_I, const Grid& grid);

/// The H-only losses sum_l tr(dW_l H dW_l^T), dW = Q(W diag s) diag(1/s) - W with nearest min-max
/// rounding, one per candidate (float64).
std::vector<double> awq_losses(const std::vector<at::Tensor>& weights_OI, const at::Tensor& hessian_II,
                               const std::vector<at::Tensor>& candidate_scales, const std::vector<Grid>& grids,
                               std::int64_t search_rows);

/// s = clamp(max|x|^alpha / max|w|^(1-alpha), 1e-5), max|w| over the sharing linears and at least 1e-5;
/// smoothquant/smooth.py:smooth_ln_fcs.
at::Tensor smoothquant_scales(const at::Tensor& max_abs_I, const std::vector<at::Tensor>& weights_OI, double alpha);

/// QuIP's rescaling: D_j = (clamp(H_jj / max|H|, 1e-8) / clamp(sum w_rj^2, 1e-8))^(1/4), at least 1e-8;
/// the divisor of x is D (W' = W diag(D)).
at::Tensor incoherence_rescaling(const at::Tensor& hessian_II, const std::vector<at::Tensor>& weights_OI);

/// The transform's kind of seeded random matrix. @throws Error{unsupported} as random_hadamard.
std::shared_ptr<const Orthogonal> random_orthogonal(OrthogonalKind kind, std::int64_t n, std::uint64_t seed);

/// W diag(d) V^T with U on the other side; undefined or null parts are the identity. float32.
at::Tensor transform_weight(const at::Tensor& weight_OI, const OnlineTransform& transform);
/// Back to the basis of x and y.
at::Tensor restore_weight(const at::Tensor& weight_OI, const OnlineTransform& transform);
/// V diag(1/d) H diag(1/d) V^T.
at::Tensor transform_hessian(const at::Tensor& hessian_II, const OnlineTransform& transform);

}  // namespace miq::quantizer
