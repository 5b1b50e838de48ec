// One layer's rounding problem: minimise tr((W - Q) H (W - Q)^T) over Q on a grid, and the options of
// the roundings that solve it.
#pragma once

#include <memory>
#include <string>

#include "miq/core/error.h"
#include "miq/quantizer/quantized_linear.h"
#include "miq/quantizer/range.h"

namespace miq {
class FieldVisitor;
}

namespace miq::quantizer {

enum class GroupFit {
  fresh,  ///< a group's grid is fitted when its first column comes, on fully updated weights
  stale,  ///< as the GPTQ reference: only errors of finished column blocks are in it
};
/// Column order of error feedback: natural, or by descending diag(H), where groups that are fitted on
/// the way then need group_of_column. `reverse`: from the last column to the first (QuIP's ldlq).
enum class ActOrder { none, desc, reverse, spearman };

/// Options of a rounding; each kind reads its own.
struct Rounding {
  std::string kind = "nearest";   ///< a name in roundings.def
  double percdamp = 0.01;         ///< damping relative to mean(diag H)
  ActOrder act_order = ActOrder::none;
  /// Without act_order: columns by descending diag(H) inside their group, groups by their largest
  /// (GPTQModel's act_group_aware, arXiv 2505.14638). Groups stay natural, and nothing is paid for it.
  bool group_aware = true;
  bool static_groups = false;     ///< fit all groups on the original weights first
  std::int64_t block_size = 128;  ///< columns per lazily updated block
  GroupFit group_fit = GroupFit::fresh;
  double damp_auto_increment = 0.01;  ///< added to percdamp at each failed Cholesky; 0: fail at once
  int greedy_passes = 0;          ///< coordinate descent over all columns afterwards (QuIP)
  /// As QuIP's code: weights are clamped to the grid before, codes of a greedy pass only after it.
  bool reference_clamping = false;
  double outlier_threshold = 0.2; ///< spqr: relative to the mean error of a weight; 0: no outliers
  bool simplified_outliers = false;  ///< spqr: groups are fitted without leaving outliers out
  int outlier_bits = 16;          ///< spqr: float16 or (32) float32 values
  int iterations = 20;            ///< hqq
  double lp_norm = 0.7, beta = 10, kappa = 1.01;  ///< hqq: the shrinkage
  bool early_stop = true;         ///< hqq: stop when the error rises; false: all iterations, beta grows by kappa
};

/// H's factor for one (percdamp, order) choice: shared by all linears of a stage.
struct HessianFactor {
  at::Tensor perm;          ///< int64 [I], perm[k] = original column at position k; undefined: identity
  at::Tensor dead;          ///< bool [I], original order: columns whose input is always zero; undefined: none
  at::Tensor upper_II;      ///< float32 U with (H + damp I)^-1 = U^T U, in permuted order
  double damp = 0;          ///< what was added to the diagonal
  double percdamp_used = 0; ///< damp / mean(diag H)
  std::vector<Event> events;

  /// The original column at each position: perm, or 0, 1, 2 ...
  std::vector<std::int64_t> columns() const;
};

/// A stage's Hessian with its factors, made once per distinct choice. Not thread-safe.
class StageHessian {
 public:
  explicit StageHessian(at::Tensor hessian_II, std::int64_t num_tokens);
  ~StageHessian();
  const at::Tensor& matrix() const { return hessian_II_; }
  std::int64_t num_tokens() const { return num_tokens_; }
  /// @throws NotPositiveDefinite when damping and float64 cannot make it so. `group_size`: columns per
  /// group, for group_aware. `order`: int64 [I] columns in a given order instead of act_order's.
  const HessianFactor& factor(const Rounding& rounding, std::int64_t group_size, const at::Tensor& order = {});

 private:
  struct Cache;
  at::Tensor hessian_II_;
  std::int64_t num_tokens_;
  std::unique_ptr<Cache> cache_;
};

/// Thrown by StageHessian::factor when neither damping nor float64 makes a factor.
class NotPositiveDefinite : public Error {
 public:
  using Error::Error;
};

struct LinearProblem {
  std::string name;                  ///< "model.layers.3.mlp.down_proj"; for errors and events
  at::Tensor weight_OI;              ///< float32, contiguous; not modified
  StageHessian* hessian = nullptr;   ///< null for roundings that need no data
  /// The Hessian, or undefined.
  at::Tensor hessian_matrix() const { return hessian != nullptr ? hessian->matrix() : at::Tensor(); }
};

/// Solves `problem` with the rounding named by `rounding.kind`, fills loss and relative_error. A Hessian
/// without a factor makes it nearest, which an event says.
/// @throws Error{numeric} for weights or Hessians that are not finite, Error{config} for an unknown kind.
QuantizedLinear round_linear(const LinearProblem& problem, const Grid& grid, const Range& range,
                             const Rounding& rounding);

/// Whether the rounding of that name reads the Hessian.
bool needs_hessian(const std::string& rounding_kind);
/// Names in roundings.def, in its order.
std::vector<std::string> rounding_names();

/// The keys of `grid`, `range` and `rounding` in a recipe.
void visit_fields(FieldVisitor& visitor, Grid& grid);
void visit_fields(FieldVisitor& visitor, Bilevel& bilevel);
void visit_fields(FieldVisitor& visitor, Range& range);
void visit_fields(FieldVisitor& visitor, Rounding& rounding);

}  // namespace miq::quantizer
