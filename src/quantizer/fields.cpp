#include "miq/core/config.h"
#include "miq/quantizer/recipe.h"

namespace miq::quantizer {

void visit_fields(FieldVisitor& v, Grid& grid) {
  v.choice<GridType>("type", grid.type, {{"int", GridType::integer}, {"fp8", GridType::fp8_e4m3}, {"fp8_e4m3", GridType::fp8_e4m3}, {"fp8_e5m2", GridType::fp8_e5m2}}, "kind of values");
  v.integer("bits", grid.bits, 2, 8, "bits per code, 2 .. 8");
  v.flag("symmetric", grid.symmetric, "zero in the middle of the grid; false: a fitted zero point");
  v.choice<Granularity>("granularity", grid.granularity,
                        {{"group", Granularity::group}, {"channel", Granularity::channel}, {"tensor", Granularity::tensor}, {"block", Granularity::block}},
                        "which weights share a scale");
  if (!v.writes() || grid.granularity == Granularity::group || grid.granularity == Granularity::block)
    v.integer("group_size", grid.group_size, 1, INT32_MAX, "columns of a group, rows and columns of a block");
  v.choice<GridConvention>("convention", grid.convention,
                           {{"miq", GridConvention::miq}, {"ist", GridConvention::ist}, {"awq", GridConvention::awq}, {"ct", GridConvention::ct},
                            {"absmax", GridConvention::absmax}, {"spqr", GridConvention::spqr}, {"quip", GridConvention::quip}, {"hqq", GridConvention::hqq}},
                           "corner cases as in: miq itself, GPTQ, AWQ, compressed-tensors, SmoothQuant, SpQR, QuIP, HQQ");
  v.flag("real_zeros", grid.real_zeros, "conventions spqr, hqq: zero points need not be whole");
  if (!v.writes() || grid.bilevel.enabled()) v.object("bilevel", grid.bilevel, "scales and zeros are quantized themselves (spqr)");
}

void visit_fields(FieldVisitor& v, Bilevel& bilevel) {
  v.integer("scale_bits", bilevel.scale_bits, 0, 8, "bits of a scale; 0: no second level");
  v.integer("zero_bits", bilevel.zero_bits, 0, 8, "bits of a zero point; 0: no second level");
  v.integer("rows", bilevel.rows, 1, INT32_MAX, "rows that share a second level");
  v.flag("zero_symmetric", bilevel.zero_symmetric, "the zero points' second level is symmetric");
}

void visit_fields(FieldVisitor& v, Range& range) {
  v.choice<RangeKind>("kind", range.kind,
                      {{"min_max", RangeKind::min_max}, {"mse", RangeKind::mse}, {"awq_clip", RangeKind::awq_clip},
                       {"percentile", RangeKind::percentile}, {"rms", RangeKind::rms}},
                      "how the interval of a group is found");
  const auto of = [&](RangeKind kind) { return !v.writes() || range.kind == kind; };
  if (of(RangeKind::mse)) {
    v.real("norm", range.norm, 0.1, 10, "mse: exponent of the error");
    v.integer("grid", range.grid, 1, 10000, "mse: steps of the interval");
    v.real("maxshrink", range.maxshrink, 0, 1, "mse: share of the steps that is tried");
    v.flag("adjacent_zeros", range.adjacent_zeros, "mse, 2 bits: also try the other whole zero point");
  }
  if (of(RangeKind::awq_clip)) {
    v.integer("n_grid", range.n_grid, 1, 10000, "awq_clip: steps of the interval");
    v.real("max_shrink", range.max_shrink, 0, 1, "awq_clip: share of the steps that is tried");
    v.text("clip_skip", range.clip_skip, "awq_clip: min_max for linears in whose name this regex is found");
  }
  if (of(RangeKind::percentile)) v.real("percentile", range.percentile, 50, 100, "percentile: share of the weights inside the interval");
  if (of(RangeKind::rms)) v.real("rho", range.rho, 0, 100, "rms: the interval is +- rho root mean squares; 0: searched");
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
  const std::string& name = rounding.kind;
  const auto of = [&](std::initializer_list<const char*> wanted) {
    return !v.writes() || std::any_of(wanted.begin(), wanted.end(), [&](const char* one) { return name == one; });
  };
  if (of({"error_feedback", "spqr", "greedy"})) {
    v.real("percdamp", rounding.percdamp, 0, 10, "damping, relative to the mean of diag H");
    v.choice<ActOrder>("act_order", rounding.act_order,
                       {{"false", ActOrder::none}, {"none", ActOrder::none}, {"true", ActOrder::desc}, {"desc", ActOrder::desc},
                        {"reverse", ActOrder::reverse}, {"spearman", ActOrder::spearman}},
                       "columns by descending diag H, groups along with them; reverse: from the last; spearman: spqr's");
    v.real("damp_auto_increment", rounding.damp_auto_increment, 0, 1, "added to percdamp at each failed Cholesky; 0: no second try");
    v.integer("block_size", rounding.block_size, 1, 65536, "columns per lazily updated block: matters to group_fit stale, and to groups that straddle blocks in spqr");
  }
  if (of({"error_feedback"})) {
    v.flag("group_aware", rounding.group_aware, "without act_order: that order inside and between groups, which stay as they are");
    v.flag("static_groups", rounding.static_groups, "fit all groups on the original weights");
    v.choice<GroupFit>("group_fit", rounding.group_fit, {{"fresh", GroupFit::fresh}, {"stale", GroupFit::stale}},
                       "weights a group is fitted on: fully updated, or as the GPTQ reference");
  }
  if (of({"error_feedback", "greedy"})) {
    v.integer("greedy_passes", rounding.greedy_passes, 0, 1000, "passes of coordinate descent afterwards");
    v.flag("reference_clamping", rounding.reference_clamping, "clamp weights before and codes only after each pass, as the QuIP reference");
  }
  if (of({"spqr"})) {
    v.real("outlier_threshold", rounding.outlier_threshold, 0, 1e9, "spqr: errors above this share of the mean stay exact; 0: no outliers");
    v.flag("simplified_outliers", rounding.simplified_outliers, "spqr: groups are fitted with their outliers");
    v.integer("outlier_bits", rounding.outlier_bits, 16, 32, "spqr: outliers as float16 or float32");
  }
  if (of({"hqq"})) {
    v.integer("iterations", rounding.iterations, 0, 100000, "hqq: of the solver");
    v.real("lp_norm", rounding.lp_norm, 0, 1, "hqq: p of |W - Q|^p");
    v.real("beta", rounding.beta, 0, 1e9, "hqq: weight of the splitting");
    v.real("kappa", rounding.kappa, 1, 10, "hqq, without early_stop: growth of beta");
    v.flag("early_stop", rounding.early_stop, "hqq: stop when the error rises");
  }
}

void visit_fields(FieldVisitor& v, Allocation& allocation) {
  v.real("bits", allocation.bits, 0, 8, "average bits of a code over all linears; 0: every layer its grid's");
  v.text("choices", allocation.choices, "bits a layer may get");
  v.flag("relative", allocation.relative, "errors relative to each layer's output");
}

void visit_fields(FieldVisitor& v, Distillation& distillation) {
  v.integer("steps", distillation.steps, 0, 1000000, "of Adam for each block; 0: none");
  v.real("learning_rate", distillation.learning_rate, 0, 1, "of Adam");
  v.integer("batch", distillation.batch, 1, 100000, "samples of a step");
}

}  // namespace miq::quantizer
