#include "miq/core/config.h"
#include "miq/quantizer/linear_problem.h"

namespace miq::quantizer {

void visit_fields(FieldVisitor& v, Grid& grid) {
  v.choice<GridType>("type", grid.type, {{"int", GridType::integer}}, "kind of values");
  v.integer("bits", grid.bits, 2, 8, "bits per code, 2 .. 8");
  v.flag("symmetric", grid.symmetric, "zero in the middle of the grid; false: a fitted zero point");
  v.choice<Granularity>("granularity", grid.granularity,
                        {{"group", Granularity::group}, {"channel", Granularity::channel}, {"tensor", Granularity::tensor}},
                        "which weights share a scale");
  if (!v.writes() || grid.granularity == Granularity::group)
    v.integer("group_size", grid.group_size, 1, INT32_MAX, "columns of a group, with granularity group");
  v.choice<GridConvention>("convention", grid.convention,
                           {{"miq", GridConvention::miq}, {"ist", GridConvention::ist}, {"awq", GridConvention::awq}, {"ct", GridConvention::ct}},
                           "corner cases as in: miq itself, GPTQ, AWQ, compressed-tensors");
}

void visit_fields(FieldVisitor& v, Range& range) {
  v.choice<RangeKind>("kind", range.kind, {{"min_max", RangeKind::min_max}, {"mse", RangeKind::mse}}, "how the interval of a group is found");
  v.real("norm", range.norm, 0.1, 10, "mse: exponent of the error");
  v.integer("grid", range.grid, 1, 10000, "mse: steps of the interval");
  v.real("maxshrink", range.maxshrink, 0, 1, "mse: share of the steps that is tried");
  v.flag("adjacent_zeros", range.adjacent_zeros, "mse, 2 bits: also try the other whole zero point");
}

void visit_fields(FieldVisitor& v, Rounding& rounding) {
  FieldVisitor::Names kinds;
  const std::vector<std::string> names = rounding_names();
  int kind = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    kinds.emplace_back(names[i], static_cast<int>(i));
    if (names[i] == rounding.kind) kind = static_cast<int>(i);
  }
  v.choice("kind", kind, kinds, "which rounding");
  rounding.kind = names[static_cast<size_t>(kind)];
  v.real("percdamp", rounding.percdamp, 0, 10, "damping, relative to the mean of diag H");
  v.choice<ActOrder>("act_order", rounding.act_order,
                     {{"false", ActOrder::none}, {"none", ActOrder::none}, {"true", ActOrder::desc}, {"desc", ActOrder::desc}},
                     "columns by descending diag H, groups along with them");
  v.flag("group_aware", rounding.group_aware, "without act_order: that order inside and between groups, which stay as they are");
  v.flag("static_groups", rounding.static_groups, "fit all groups on the original weights");
  v.integer("block_size", rounding.block_size, 1, 65536, "columns per lazily updated block");
  v.choice<GroupFit>("group_fit", rounding.group_fit, {{"fresh", GroupFit::fresh}, {"stale", GroupFit::stale}},
                     "weights a group is fitted on: fully updated, or as the GPTQ reference");
  v.real("damp_auto_increment", rounding.damp_auto_increment, 0, 1, "added to percdamp at each failed Cholesky; 0: give up");
}

}  // namespace miq::quantizer
