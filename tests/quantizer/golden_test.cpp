// RTN and GPTQ against what the original implementations gave (golden/algorithms/cases.json).
#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <set>

#include "miq/core/safetensors.h"
#include "miq/quantizer/linear_problem.h"
#include "support/golden.h"
#include "support/tolerance.h"

namespace miq::quantizer {
namespace {

using Json = nlohmann::json;

// Conventions that miq leaves out on purpose: grids of these families, and why.
const std::map<std::string, std::string> kLeftOutFamilies = {
    {"mi", "MI-optimize: NaN for an all-zero channel; its GPTQ takes torch's observer, with zero point 7 and a product with 1/scale"},
    {"deepspeed", "saturates the largest weight"},
    {"quarot", "never uses the lowest code; AutoAWQ's symmetric grid is the same"},
};

// Methods of later versions.
const std::set<std::string> kLater = {"awq_clip", "awq_layer", "awq_linear", "awq_scale", "combo", "fp8", "hadamard", "hqq", "quarot",
                                      "quip", "quip_butterfly", "quip_sharp", "smoothquant", "spqr", "zeroquant", "gptaq"};

struct Case {
  Json description;
  std::map<std::string, at::Tensor> tensors;
  const Json& params() const { return description["params"]; }
  std::string family() const { return params().value("family", std::string("ist")); }
  bool has(const std::string& name) const { return tensors.count(name) != 0; }
  double param(const char* key, double fallback) const {
    return params().contains(key) && params()[key].is_number() ? params()[key].get<double>() : fallback;
  }
  bool flag(const char* key) const { return params().contains(key) && params()[key] == Json(true); }
};

std::vector<Json> load_cases() {
  std::ifstream in(test::golden_dir() / "algorithms" / "cases.json");
  if (!in) return {};
  return Json::parse(in)["cases"].get<std::vector<Json>>();
}

Case load_case(const Json& description) {
  Case c{description, {}};
  const auto file = SafetensorsFile::open(test::golden_dir() / "algorithms" / description["file"].get<std::string>());
  for (const auto& [name, spec] : file.specs()) c.tensors[name] = file.tensor(name);
  return c;
}

Grid grid_of(const Case& c) {
  static const std::map<std::string, GridConvention> kConventions = {
      {"ist", GridConvention::ist}, {"gptqmodel", GridConvention::ist}, {"awq", GridConvention::awq},
      {"compressed-tensors", GridConvention::ct}, {"llm-compressor", GridConvention::ct}};
  Grid grid;
  grid.bits = static_cast<int>(c.param("bits", 4));
  grid.symmetric = c.flag("symmetric") || c.flag("sym");
  const double group = c.param("group", c.param("group_size", -1));
  grid.group_size = group > 0 ? static_cast<std::int64_t>(group) : 128;
  grid.granularity = group > 0 ? Granularity::group : Granularity::channel;
  if (c.params().value("granularity", std::string()) == "tensor") grid.granularity = Granularity::tensor;
  grid.convention = kConventions.at(c.family());
  return grid;
}

Range range_of(const Case& c) {
  Range range;
  const Json mse = c.params().value("mse", Json(false));
  if (mse == Json(true) || (mse.is_number() && mse.get<double>() > 0)) range.kind = RangeKind::mse;
  range.norm = mse.is_number() && mse.get<double>() > 0 ? mse.get<double>() : c.param("mse_norm", 2.4);
  range.grid = static_cast<int>(c.param("mse_grid", 100));
  range.maxshrink = c.param("mse_maxshrink", 0.8);
  range.adjacent_zeros = c.family() == "gptqmodel";
  return range;
}

Rounding rounding_of(const Case& c) {
  Rounding rounding;
  if (c.description["algorithm"] == "rtn") return rounding;
  rounding.kind = "error_feedback";
  rounding.percdamp = c.param("percdamp", c.param("damp_percent", 0.01));
  rounding.damp_auto_increment = c.param("damp_auto_increment", 0.01);
  rounding.block_size = static_cast<std::int64_t>(c.param("blocksize", 128));
  rounding.group_fit = GroupFit::stale;
  rounding.static_groups = c.flag("static_groups") || c.family() == "llm-compressor";
  if (c.flag("actorder") || c.flag("desc_act") || c.params().value("actorder", Json()) == Json("weight")) rounding.act_order = ActOrder::desc;
  rounding.group_aware = c.flag("act_group_aware");
  return rounding;
}

// Unsigned codes and zeros in the case's convention.
at::Tensor shifted(const at::Tensor& t, const Case& c) {
  const bool is_signed = c.params().value("code", std::string("unsigned")) == "signed";
  return is_signed ? t.to(at::kDouble) - (1 << static_cast<int>(c.param("bits", 4)) >> 1) : t;
}

void expect_match(const Case& c, const std::string& output, const at::Tensor& got) {
  if (!c.has(output)) return;
  const Json& tolerances = c.description["tolerance"];
  const Json tolerance = tolerances.contains(output) ? tolerances[output] : Json{{"kind", "exact"}};
  const auto problem = test::mismatch(got, c.tensors.at(output), tolerance, c.has("row_margin") ? c.tensors.at("row_margin") : at::Tensor());
  EXPECT_FALSE(problem.has_value()) << output << ": " << problem.value_or("");
}

void expect_losses(const Case& c, const QuantizedLinear& result, const at::Tensor& change, StageHessian& hessian, const Rounding& rounding,
                   std::int64_t group) {
  const Json losses = c.description.value("proxy_loss", Json::object());
  const Json& tolerances = c.description["tolerance"];
  if (tolerances.contains("proxy_loss") && losses.contains("proxy_H")) {
    const double want = losses["proxy_H"].get<double>();
    EXPECT_NEAR(result.loss, want, want * std::max(1e-3, tolerances["proxy_loss"]["rtol"].get<double>())) << "loss";
  }
  if (tolerances.contains("gptq_loss") && losses.contains("gptq_printed_error")) {
    const double want = losses["gptq_printed_error"].get<double>();
    const double got = (result.loss + hessian.factor(rounding, group).damp * change.square().sum(at::kDouble).item<double>()) / 2;
    EXPECT_NEAR(got, want, want * tolerances["gptq_loss"]["rtol"].get<double>() * 2) << "printed error";
  }
}

// llm-compressor's actorder `group`: everything happens on permuted columns.
void permute_columns(Case& c) {
  const at::Tensor perm = c.tensors.at("perm").to(at::kLong);
  c.tensors["W"] = c.tensors.at("W").index_select(1, perm);
  c.tensors["H"] = c.tensors.at("H").index_select(0, perm).index_select(1, perm);
  for (const char* output : {"codes", "W_dq"}) c.tensors[output] = c.tensors.at(output).index_select(1, perm);
  c.tensors["g_idx"] = c.tensors.at("g_idx").index_select(0, perm);
  c.tensors.erase("perm");
}

void run_case(Case c) {
  if (c.params().value("actorder", Json()) == Json("group")) permute_columns(c);
  const Grid grid = grid_of(c);
  const Rounding rounding = rounding_of(c);
  const at::Tensor weight = c.tensors.at("W").contiguous();
  const std::int64_t columns = weight.size(1), group = grid.columns_per_group(columns);
  std::unique_ptr<StageHessian> hessian;
  if (c.has("H")) hessian = std::make_unique<StageHessian>(c.tensors.at("H").clone(), std::int64_t{1} << 20);
  const QuantizedLinear result = round_linear({c.description["name"], weight, hessian.get()}, grid, range_of(c), rounding);
  const at::Tensor values = dequantize(result, at::kFloat);
  expect_match(c, "codes", shifted(result.codes_OI, c));
  const std::int64_t scales = c.has("scale") ? c.tensors.at("scale").numel() : 0;  // per tensor: one, or one a row
  const bool one = scales == 1;
  expect_match(c, "scale", one ? result.params.scales_OG.narrow(0, 0, 1) : result.params.scales_OG);
  expect_match(c, "zero", shifted(one ? result.params.zeros_OG.narrow(0, 0, 1) : result.params.zeros_OG, c));
  expect_match(c, "W_dq", values);
  const at::Tensor natural = at::arange(columns, at::kLong).floor_divide(group);
  if (grid.granularity == Granularity::group) expect_match(c, "g_idx", result.group_of_column.defined() ? result.group_of_column : natural);
  if (!hessian) return;
  const HessianFactor& factor = hessian->factor(rounding, group);
  if (factor.perm.defined() && c.has("perm")) {  // columns with equal diagonals (dead ones) may change places
    const at::Tensor diagonal = c.tensors.at("H").diagonal();
    EXPECT_TRUE(at::equal(diagonal.index_select(0, factor.perm), diagonal.index_select(0, c.tensors.at("perm").to(at::kLong)))) << "perm";
  }
  expect_match(c, "damp_used", at::tensor({factor.percdamp_used}, at::kDouble));
  at::Tensor change = values - weight;
  if (factor.dead.defined()) change = change.masked_fill(factor.dead, 0);
  expect_losses(c, result, change, *hessian, rounding, group);
}

class GoldenAlgorithms : public testing::TestWithParam<Json> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenAlgorithms);

TEST_P(GoldenAlgorithms, MatchesTheOriginal) {
  const std::string algorithm = GetParam()["algorithm"];
  if (kLater.count(algorithm)) GTEST_SKIP() << "later: " << algorithm;
  ASSERT_THAT((std::set<std::string>{"rtn", "gptq"}), testing::Contains(algorithm)) << "an unknown algorithm";
  Case c = load_case(GetParam());
  if (const auto reason = kLeftOutFamilies.find(c.family()); reason != kLeftOutFamilies.end())
    GTEST_SKIP() << "left out: " << c.family() << ": " << reason->second;
  run_case(std::move(c));
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenAlgorithms, testing::ValuesIn(load_cases()),
                         [](const auto& info) { return info.param["name"].template get<std::string>(); });

TEST(GoldenFolder, IsThere) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  EXPECT_FALSE(load_cases().empty());
}

}  // namespace
}  // namespace miq::quantizer
