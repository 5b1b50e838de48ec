// Error feedback on a GPU: one launch rounds a block of columns, one more applies its errors to the columns behind it.
// Each weight receives the same fused multiply-adds in the same order as in the tiles of error_feedback.cpp.
#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include "../device_rounding.h"
#include "feedback_plan.h"
#include "miq/core/gpu_kernels.h"

namespace miq::quantizer {
namespace {

struct DeviceSweep {
  const FeedbackPlan& plan;
  const miq_gpu_kernels& gpu;
  void* stream;
  at::Tensor weights, codes, scales_OG, zeros_OG, errors, squares, slot, upper;

  void fit(std::int64_t position) {
    const std::int64_t end = std::min(position + plan.group, plan.columns);
    const miq_group_fit call{weights.const_data_ptr<float>(), plan.rows, plan.columns, position, end, plan.group, nullptr, scales_OG.mutable_data_ptr<float>(),
                             zeros_OG.mutable_data_ptr<float>(), scales_OG.size(1), plan.slot[static_cast<size_t>(position)], gpu_grid(plan.grid), gpu_range(plan.range)};
    check_launch(gpu.fit_groups(&call, stream), "fit_groups");
  }

  void round(Span block) {
    // Groups longer than a block are fitted in front of it; those inside a block, by its launch.
    const bool inside = plan.fresh() && plan.group <= kFeedbackBlock;
    if (plan.dynamic && !plan.fresh())
      for (const std::int64_t position : plan.stale_groups(block.begin)) fit(position);
    else if (plan.fresh() && !inside && block.begin % plan.group == 0)
      fit(block.begin);
    const miq_column_block call{weights.mutable_data_ptr<float>(), plan.rows, plan.columns, block.begin, block.end, upper.const_data_ptr<float>(),
                                codes.mutable_data_ptr<std::uint8_t>(), errors.mutable_data_ptr<float>(), squares.mutable_data_ptr<float>(),
                                scales_OG.mutable_data_ptr<float>(), zeros_OG.mutable_data_ptr<float>(), scales_OG.size(1), slot.const_data_ptr<std::int32_t>(),
                                inside ? plan.group : 0, gpu_grid(plan.grid), gpu_range(plan.range)};
    check_launch(gpu.gptq_columns(&call, stream), "gptq_columns");
    const std::int64_t behind = plan.columns - block.end, depth = block.end - block.begin;
    if (behind == 0) return;
    check_launch(gpu.subtract_products(weights.mutable_data_ptr<float>() + block.end, plan.columns, plan.rows, behind, errors.const_data_ptr<float>(), depth,
                                       upper.const_data_ptr<float>() + block.begin * plan.columns + block.end, plan.columns, stream),
                 "subtract_products");
  }
};

}  // namespace

bool sweeps_on_device(const FeedbackPlan& plan) {
  return rounds_on_device(plan.start_OI, plan.grid) && (!plan.dynamic || fits_on_device(plan.start_OI, plan.grid, plan.range));
}

SweptCodes sweep_on_device(const FeedbackPlan& plan, const HessianFactor& factor) {
  const at::Device device = plan.start_OI.device();
  const c10::DeviceGuard guard(device);
  const auto floats = at::TensorOptions().dtype(at::kFloat).device(device);
  const at::Tensor start = factor.dead.defined() ? plan.start_OI.masked_fill(factor.dead.to(device), 0) : plan.start_OI;
  const at::Tensor perm = factor.perm.defined() ? factor.perm.to(device) : at::Tensor();
  const std::int64_t groups = plan.grid.num_groups(plan.columns);
  DeviceSweep sweep{plan, *gpu_kernels(device), native_stream(device), {}, {}, {}, {}, {}, {}, {}, {}};
  sweep.weights = perm.defined() ? start.index_select(1, perm) : start.clone();
  sweep.codes = at::empty({plan.rows, plan.columns}, floats.dtype(at::kByte));
  sweep.scales_OG = plan.dynamic ? at::ones({plan.rows, groups}, floats) : plan.params.scales_OG.to(device).contiguous();
  sweep.zeros_OG = plan.dynamic ? at::zeros({plan.rows, groups}, floats) : plan.params.zeros_OG.to(device).contiguous();
  sweep.errors = at::empty({plan.rows, kFeedbackBlock}, floats);
  sweep.squares = at::zeros({plan.rows}, floats);
  sweep.slot = at::tensor(plan.slot, at::kLong).to(at::kInt).to(device);
  sweep.upper = factor.upper_II.to(device).contiguous();
  for (const Span block : plan.blocks()) sweep.round(block);

  SweptCodes swept{sweep.codes, {sweep.scales_OG, sweep.zeros_OG}, sweep.squares.sum(at::kDouble).item<double>()};
  if (perm.defined()) swept.codes_OI = sweep.codes.index_select(1, perm.argsort());
  return swept;
}

}  // namespace miq::quantizer
