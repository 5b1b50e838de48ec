// What a sweep of error feedback does in which order: the same for the tiles of the CPU and the kernels of a GPU.
#pragma once

#include "miq/quantizer/linear_problem.h"

namespace miq::quantizer {

/// Columns whose errors are applied together to those behind them, at most.
constexpr std::int64_t kFeedbackBlock = 128;

/// A span of columns, in sweep order.
struct Span {
  std::int64_t begin, end;
};

/// Positions are in sweep order (permuted columns).
struct FeedbackPlan {
  Grid grid;
  Range range;
  bool dynamic = false;               ///< groups are fitted during the sweep
  std::int64_t stale_block = 0;       ///< dynamic: 0, or groups are fitted when the block they start in begins
  std::int64_t group = 0;             ///< columns per group
  std::int64_t rows = 0, columns = 0;
  std::vector<std::int64_t> column;   ///< of each position
  std::vector<std::int64_t> slot;     ///< group of each position
  at::Tensor start_OI;                ///< the weights that are rounded, float32, original order
  GridParams params;                  ///< not dynamic: of all groups

  bool fresh() const { return dynamic && stale_block == 0; }
  /// Blocks whose errors are applied to the columns behind them together. A group that is fitted must lie in front of all
  /// updates it lacks: stale blocks end where the reference's do, and with fresh groups none reaches from inside a block into the next.
  std::vector<Span> blocks() const;
  /// The first columns of the groups that are fitted when the block at `begin` begins (stale).
  std::vector<std::int64_t> stale_groups(std::int64_t begin) const;
};

/// weight_OI: float32, contiguous.
FeedbackPlan make_plan(const at::Tensor& weight_OI, const at::Tensor& hessian_II, const HessianFactor& factor, const Grid& grid, const Range& range,
                       const Rounding& rounding);

struct SweptCodes {
  at::Tensor codes_OI;       ///< original columns
  GridParams params;
  double squared_error = 0;  ///< sum e^2
};

/// Whether the fused kernels can do all of it.
bool sweeps_on_device(const FeedbackPlan& plan);
SweptCodes sweep_on_device(const FeedbackPlan& plan, const HessianFactor& factor);

}  // namespace miq::quantizer
