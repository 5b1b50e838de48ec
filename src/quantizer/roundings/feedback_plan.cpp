#include "feedback_plan.h"

#include "../greedy_descent.h"

namespace miq::quantizer {

std::vector<Span> FeedbackPlan::blocks() const {
  std::vector<Span> spans;
  for (std::int64_t at = 0; at < columns;) {
    std::int64_t end = std::min(at + kFeedbackBlock, columns);
    if (dynamic && stale_block > 0) {
      end = std::min(end, (at / stale_block + 1) * stale_block);
    } else if (dynamic && end < columns) {
      const std::int64_t last_start = end / group * group;
      const std::int64_t next_start = (at / group + 1) * group;
      end = last_start > at ? last_start : std::min(end, next_start);
    }
    spans.push_back({at, end});
    at = end;
  }
  return spans;
}

std::vector<std::int64_t> FeedbackPlan::stale_groups(std::int64_t begin) const {
  std::vector<std::int64_t> starts;
  if (begin % stale_block != 0) return starts;
  const std::int64_t end = std::min(begin + stale_block, columns);
  for (std::int64_t k = (begin + group - 1) / group * group; k < end; k += group) starts.push_back(k);
  return starts;
}

FeedbackPlan make_plan(const at::Tensor& weight_OI, const at::Tensor& hessian_II, const HessianFactor& factor, const Grid& grid, const Range& range,
                       const Rounding& rounding) {
  FeedbackPlan plan;
  plan.grid = grid;
  plan.range = range;
  plan.rows = weight_OI.size(0);
  plan.columns = weight_OI.size(1);
  plan.group = grid.columns_per_group(plan.columns);
  // awq_clip looks at the Hessian of a group's own columns, which are there before the sweep.
  plan.dynamic = grid.granularity == Granularity::group && !rounding.static_groups && range.kind != RangeKind::awq_clip;
  plan.stale_block = rounding.group_fit == GroupFit::stale ? rounding.block_size : 0;
  plan.column = factor.columns();
  // Groups are the natural ones, except with act_order desc and groups fitted on the way: those follow the sweep.
  const bool natural = !plan.dynamic || rounding.act_order == ActOrder::none;
  for (std::int64_t k = 0; k < plan.columns; ++k) plan.slot.push_back((natural ? plan.column[static_cast<size_t>(k)] : k) / plan.group);
  plan.start_OI = weight_OI;
  if (!plan.dynamic) {
    // Fitted on the weights as they are, before dead columns are cleared, as the reference does.
    plan.params = fit_grid(weight_OI, grid, range, hessian_II);
    if (rounding.reference_clamping) plan.start_OI = clamp_to_grid(weight_OI, grid, plan.params);
  }
  return plan;
}

}  // namespace miq::quantizer
