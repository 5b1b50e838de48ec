// Cases run by the original implementations: round to nearest and GPTQ of IST, llm-awq and AutoAWQ,
// compressed-tensors and llm-compressor, GPTQModel.
#include <fstream>
#include <iostream>
#include <set>

#include "miq/core/error.h"
#include "miq/core/safetensors.h"
#include "miq/core/text.h"
#include "miq/quantizer/linear_problem.h"
#include "support/golden.h"
#include "support/tolerance.h"

namespace miq::quantizer {
namespace {

using nlohmann::json;

// Conventions that miq leaves out on purpose.
const std::map<std::string, std::string> kLeftOut = {
    {"mi", "MI-optimize's grids: NaN for constant rows, unclamped zeros, products with the reciprocal scale"},
    {"deepspeed", "saturates the maximum"},
    {"quarot", "the awq convention without its zero point"},
    {"torch", "products with the reciprocal scale"},
};

// Algorithms whose time has not come.
const std::set<std::string> kLater = {"spqr", "quip", "quip_butterfly", "quip_sharp", "fp8", "awq_scale", "awq_clip",
                                      "awq_layer", "awq_linear", "smoothquant", "hadamard", "quarot", "hqq", "zeroquant",
                                      "combo", "gptaq", "gptq_v2", "autoround"};

struct Case {
  json data;
  SafetensorsFile file;

  const json& params() const { return data.at("params"); }
  std::string family() const { return params().value("family", std::string("ist")); }
  bool flag(const char* key) const { return params().contains(key) && params().at(key).is_boolean() && params().at(key).get<bool>(); }
  bool symmetric() const { return flag("symmetric") || flag("sym"); }
  int bits() const { return params().at("bits"); }
  std::int64_t group() const { return params().contains("group") ? params().at("group") : params().at("group_size"); }
  at::Tensor tensor(const std::string& name) const { return file.tensor(name).clone(); }
  // Signed codes and zeros are stored unsigned here.
  double code_offset() const { return params().value("code", std::string()) == "signed" ? 1 << (bits() - 1) : 0; }
};

json load_cases() {
  std::ifstream in(test::golden_dir() / "algorithms" / "cases.json");
  return parse_json({std::istreambuf_iterator<char>(in), {}}, "cases.json");
}

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

// Every output of the case that `outputs` holds, under the case's tolerance; the others are listed as
// not compared in `ignored`.
void compare(const Case& c, const std::map<std::string, at::Tensor>& outputs, const json& fallback, const std::set<std::string>& ignored) {
  const auto lookup = [&](const std::string& name) { return c.tensor(name); };
  for (const std::string name : c.data.at("outputs")) {
    if (ignored.count(name)) continue;
    ASSERT_TRUE(outputs.count(name)) << "no output '" << name << "'";
    at::Tensor expected = c.tensor(name);
    if (name == "codes" || name == "zero") expected = expected.to(at::kDouble) + c.code_offset();
    EXPECT_TRUE(test::within(outputs.at(name), expected, test::tolerance_of(c.data.at("tolerance"), name, fallback), lookup)) << name;
  }
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
  const double printed = quadratic(counted, hessian + at::eye(hessian.size(0)) * factor.damp) / 2;
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
    const at::Tensor expected = c.tensor("perm").to(at::kLong), diagonal = c.tensor("H").diagonal();
    EXPECT_TRUE(at::equal(diagonal.index_select(0, factor.perm), diagonal.index_select(0, expected))) << "perm";
  }
  compare_losses(c, linear, factor);
}

template <class Check>
void for_each_case(const std::string& algorithm, const Check& check) {
  const json cases = load_cases();
  int checked = 0;
  std::map<std::string, std::vector<std::string>> skipped;
  for (const json& data : cases.at("cases")) {
    if (data.at("algorithm") != algorithm) continue;
    const std::string name = data.at("name"), family = data.at("params").value("family", std::string());
    SCOPED_TRACE(name);
    if (name.find("_act_") != std::string::npos || name.find("_forward") != std::string::npos) {
      skipped["later: activation grids"].push_back(name);
    } else if (const auto reason = kLeftOut.find(family); reason != kLeftOut.end()) {
      skipped["left out: " + reason->second].push_back(name);
    } else {
      check(Case{data, SafetensorsFile::open(test::golden_dir() / "algorithms" / data.at("file").get<std::string>())},
            cases.at("default_tolerance"));
      ++checked;
    }
  }
  for (const auto& [reason, names] : skipped) {
    std::cout << "[  skipped ] " << reason << ":";
    for (const std::string& name : names) std::cout << " " << name;
    std::cout << "\n";
  }
  std::cout << "[  checked ] " << checked << " cases\n";
  EXPECT_GT(checked, 0);
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
  std::set<std::string> later;
  const json cases = load_cases();
  for (const json& data : cases.at("cases")) {
    const std::string algorithm = data.at("algorithm");
    if (algorithm == "rtn" || algorithm == "gptq") continue;
    EXPECT_TRUE(kLater.count(algorithm)) << "nobody compares '" << algorithm << "' (" << data.at("name") << ")";
    later.insert(algorithm);
  }
  std::cout << "[  skipped ] later:";
  for (const std::string& algorithm : later) std::cout << " " << algorithm;
  std::cout << "\n";
}

}  // namespace
}  // namespace miq::quantizer
