// Round to nearest and GPTQ of IST, llm-awq and AutoAWQ, compressed-tensors and llm-compressor,
// GPTQModel, run by the original implementations.
#include "golden_cases.h"

namespace miq::quantizer::golden {
namespace {

Grid grid_of(const Case& c) {
  Grid grid;
  grid.bits = c.bits();
  grid.symmetric = c.symmetric();
  const std::int64_t group = c.group();
  const std::string granularity = c.params().value("granularity", std::string(group > 0 ? "group" : "channel"));
  grid.granularity = granularity == "tensor" ? Granularity::tensor : granularity == "channel" ? Granularity::channel : Granularity::group;
  grid.group_size = group;
  const std::string family = c.family();
  grid.convention = family == "awq"                                                ? GridConvention::awq
                    : family == "compressed-tensors" || family == "llm-compressor" ? GridConvention::ct
                                                                                   : GridConvention::ist;
  return grid;
}

Range range_of(const Case& c) {
  Range range;
  const json mse = c.params().value("mse", json(false));
  if (mse.is_boolean() ? !mse.get<bool>() : mse.get<double>() <= 0) return range;
  range.kind = RangeKind::mse;
  range.norm = mse.is_number() ? mse.get<double>() : c.params().value("mse_norm", 2.4);
  range.grid = c.params().value("mse_grid", 100);
  range.maxshrink = c.params().value("mse_maxshrink", 0.8);
  range.adjacent_zeros = c.family() == "gptqmodel";
  return range;
}

Rounding rounding_of(const Case& c) {
  const json& p = c.params();
  const bool gptqmodel = c.family() == "gptqmodel", llmc = c.family() == "llm-compressor";
  Rounding rounding;
  rounding.kind = "error_feedback";
  rounding.block_size = p.at("blocksize");
  rounding.percdamp = gptqmodel ? p.at("damp_percent") : p.at("percdamp");
  rounding.damp_auto_increment = p.value("damp_auto_increment", 0.0);
  rounding.group_fit = GroupFit::stale;
  rounding.static_groups = llmc || c.flag("static_groups");
  if (c.flag("actorder") || c.flag("desc_act") || (llmc && p.at("actorder") == "weight")) rounding.act_order = ActOrder::desc;
  rounding.group_aware = c.flag("act_group_aware");
  return rounding;
}

std::map<std::string, at::Tensor> outputs_of(const QuantizedLinear& linear) {
  at::Tensor index = linear.group_of_column;
  const std::int64_t columns = linear.in_features();
  if (!index.defined()) index = at::arange(columns).floor_divide(linear.grid.columns_per_group(columns));
  return {{"W_dq", dequantize(linear, at::kFloat)}, {"codes", linear.codes_OI}, {"scale", linear.params.scales_OG},
          {"zero", linear.params.zeros_OG}, {"g_idx", index}};
}

double quadratic(const at::Tensor& change, const at::Tensor& hessian) {
  const at::Tensor d = change.to(at::kDouble);
  return (d.mm(hessian.to(at::kDouble)) * d).sum().item<double>();
}

// The losses a case states: tr(dW H dW^T), and GPTQ's printed error with the damping in it.
void compare_losses(const Case& c, const QuantizedLinear& linear, const HessianFactor& factor) {
  const auto expect_loss = [&](const char* tolerance, const char* field, double actual) {
    const json& stated = c.data.at("proxy_loss");
    if (!c.data.at("tolerance").contains(tolerance) || !stated.contains(field)) return;
    EXPECT_TRUE(test::within(at::scalar_tensor(actual, at::kDouble), at::scalar_tensor(stated.at(field).get<double>(), at::kDouble),
                             c.data.at("tolerance").at(tolerance), {})) << field;
  };
  const at::Tensor hessian = c.tensor("H"), weight = c.tensor("W");
  const at::Tensor change = dequantize(linear, at::kFloat) - weight;
  expect_loss("proxy_loss", "proxy_H", quadratic(change, hessian));
  expect_loss("proxy_loss", "proxy_H", linear.loss);
  if (c.data.at("proxy_loss").contains("relative_H"))
    expect_loss("proxy_loss", "relative_H", linear.loss / quadratic(weight, hessian));
  at::Tensor counted = change;
  if (factor.dead.defined()) counted = counted.masked_fill(factor.dead, 0);
  const double printed = quadratic(counted, hessian + at::eye(hessian.size(0), hessian.options()) * factor.damp) / 2;
  expect_loss("gptq_loss", "gptq_printed_error", printed);
  expect_loss("gptq_loss", "gptq_loss", printed);
}

void check_rtn(const Case& c, const json& fallback) {
  LinearProblem problem{c.data.at("name"), c.tensor("W"), nullptr};
  const QuantizedLinear linear = round_linear(problem, grid_of(c), range_of(c), Rounding{});
  compare(c, outputs_of(linear), fallback, {});
}

// llm-compressor's actorder "group": a problem whose columns are permuted beforehand.
bool is_permuted_beforehand(const Case& c) { return c.params().value("actorder", json()) == "group"; }

void check_gptq(const Case& c, const json& fallback) {
  Rounding rounding = rounding_of(c);
  const Grid grid = grid_of(c);
  at::Tensor weight = c.tensor("W"), hessian = c.tensor("H"), given;
  if (is_permuted_beforehand(c)) {
    given = c.tensor("perm").to(at::kLong);
    weight = weight.index_select(1, given);
    hessian = hessian.index_select(0, given).index_select(1, given);
  }
  StageHessian stage(hessian, 1 << 20);
  LinearProblem problem{c.data.at("name"), weight, &stage};
  QuantizedLinear linear = round_linear(problem, grid, range_of(c), rounding);
  const HessianFactor& factor = stage.factor(rounding, grid.columns_per_group(weight.size(1)));
  if (given.defined()) {
    const at::Tensor inverse = given.argsort();
    linear.codes_OI = linear.codes_OI.index_select(1, inverse);
    linear.group_of_column = inverse.floor_divide(grid.group_size);
  }
  auto outputs = outputs_of(linear);
  outputs["damp_used"] = at::scalar_tensor(factor.percdamp_used, at::kDouble);
  compare(c, outputs, fallback, {"perm", "row_margin"});
  if (c.file.has("perm") && !given.defined()) {  // equal but for the order of columns with the same diagonal
    const at::Tensor expected = c.stored("perm").to(at::kLong), diagonal = c.stored("H").diagonal();
    EXPECT_TRUE(at::equal(diagonal.index_select(0, factor.perm.cpu()), diagonal.index_select(0, expected))) << "perm";
  }
  compare_losses(c, linear, factor);
}

TEST(GoldenAlgorithms, Rtn) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("rtn", check_rtn);
}

TEST(GoldenAlgorithms, Gptq) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("gptq", check_gptq);
}

TEST(GoldenAlgorithms, EveryAlgorithmIsKnown) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  // awq_layer, quarot: tests/executor.
  const std::set<std::string> compared = {"rtn", "gptq", "fp8", "hqq", "zeroquant", "smoothquant", "awq_scale", "awq_clip", "awq_linear", "spqr",
                                          "quip", "quip_sharp", "quip_butterfly", "hadamard", "combo", "awq_layer", "quarot"};
  const json cases = load_cases();
  for (const json& data : cases.at("cases"))
    EXPECT_TRUE(compared.count(data.at("algorithm"))) << "nobody compares '" << data.at("algorithm") << "' (" << data.at("name") << ")";
}

}  // namespace
}  // namespace miq::quantizer::golden
