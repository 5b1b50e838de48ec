// SpQR, QuIP, QuIP#, and the orthogonal matrices of QuIP and QuaRot, run by the original implementations.
#include <cmath>

#include "golden_cases.h"
#include "miq/quantizer/transform.h"

namespace miq::quantizer::golden {
namespace {

double or_zero(const json& value) { return value.is_null() ? 0 : value.get<double>(); }

void check_spqr(const Case& c, const json& fallback) {
  const json& p = c.params();
  Grid grid;
  grid.bits = c.bits();
  grid.symmetric = c.symmetric();
  grid.group_size = c.group();
  grid.convention = GridConvention::spqr;
  grid.real_zeros = !c.flag("round_zero");
  grid.bilevel.scale_bits = static_cast<int>(or_zero(p.at("qq_scale_bits")));
  grid.bilevel.zero_bits = static_cast<int>(or_zero(p.at("qq_zero_bits")));
  grid.bilevel.rows = p.at("qq_groupsize");
  grid.bilevel.zero_symmetric = c.flag("qq_zero_sym");
  Rounding rounding;
  rounding.kind = "spqr";
  const std::string order = p.at("permutation_order");
  rounding.act_order = order == "act_order" ? ActOrder::desc : order == "spearman" ? ActOrder::spearman : ActOrder::none;
  rounding.percdamp = p.at("percdamp");
  rounding.block_size = p.at("blocksize");
  rounding.outlier_threshold = or_zero(p.at("outlier_relative_threshold"));
  rounding.simplified_outliers = c.flag("simplified_outliers");
  rounding.outlier_bits = 32;
  StageHessian stage(c.tensor("H"), 1 << 20);
  const at::Tensor weight = c.tensor("W");
  const QuantizedLinear linear = round_linear({c.data.at("name"), weight, &stage}, grid, Range{}, rounding);
  at::Tensor mask = at::zeros_like(weight), kept = at::zeros_like(weight);
  if (linear.outliers.defined()) {
    const at::Tensor rows = at::arange(weight.size(0), weight.options().dtype(at::kLong)).repeat_interleave(linear.outliers.row_offsets.diff().to(at::kLong));
    mask.index_put_({rows, linear.outliers.columns.to(at::kLong)}, at::ones_like(linear.outliers.values));
    kept.index_put_({rows, linear.outliers.columns.to(at::kLong)}, linear.outliers.values);
  }
  const at::Tensor perm = c.tensor("perm").to(at::kLong);
  const auto permuted = [&](const at::Tensor& t) { return t.index_select(1, perm); };
  const BilevelParams& b = linear.bilevel;
  compare(c, {{"W_dq", dequantize(linear, at::kFloat)}, {"codes", permuted(linear.codes_OI)}, {"outlier_mask", permuted(mask)},
              {"outlier_values", permuted(kept)}, {"scale", linear.params.scales_OG}, {"zero", linear.params.zeros_OG}, {"scale_codes", b.scale_codes_OG},
              {"zero_codes", b.zero_codes_OG}, {"scale_qq_scale", b.scale_scales_RG}, {"scale_qq_zero", b.scale_zeros_RG},
              {"zero_qq_scale", b.zero_scales_RG}, {"zero_qq_zero", b.zero_zeros_RG}}, fallback, {"perm", "row_margin", "threshold"});
  EXPECT_NEAR(linear.loss / c.data.at("proxy_loss").at("proxy_H").get<double>(), 1, 1e-3);
}

// QuIP's own preprocessing of W and H, with the case's U and V.
struct Prepared {
  OnlineTransform transform;
  at::Tensor weight, hessian;
};

Prepared prepare(const Case& c) {
  Prepared done;
  at::Tensor weight = c.tensor("W"), hessian = c.tensor("H");
  if (c.flag("pre_rescale")) {
    done.transform.divisor_I = incoherence_rescaling(hessian, {weight});
    hessian = hessian / hessian.abs().max();
  }
  if (c.flag("pre_proj")) {
    done.transform.input = dense_orthogonal(c.tensor("V"));
    done.transform.output = dense_orthogonal(c.tensor("U"));
  }
  OnlineTransform scaling, turning = done.transform;
  scaling.divisor_I = std::exchange(turning.divisor_I, at::Tensor());
  hessian = transform_hessian(hessian, scaling);
  if (c.flag("pre_proj")) {  // normalised, and made a little more definite
    const auto n = static_cast<double>(hessian.size(0));
    hessian = hessian * (n / (hessian.trace().item<double>() + 1e-8)) + 0.01 * at::eye(hessian.size(0), hessian.options());
  }
  done.weight = transform_weight(weight, done.transform);
  done.hessian = transform_hessian(hessian, turning);
  return done;
}

void check_quip(const Case& c, const json& fallback) {
  const json& p = c.params();
  const std::string method = p.at("qmethod");
  const Prepared prepared = prepare(c);
  Grid grid;
  grid.bits = c.bits();
  Range range;
  if (p.at("qfn") == "b") {
    grid.granularity = Granularity::tensor;
    grid.convention = GridConvention::quip;
    range.kind = RangeKind::rms;
    range.rho = p.at("rho");
  } else {
    grid.granularity = Granularity::channel;
    grid.convention = GridConvention::ist;
  }
  Rounding rounding;
  rounding.kind = method == "nearest" ? "nearest" : method == "allbal" ? "greedy" : "error_feedback";
  rounding.act_order = method == "ldlq" ? ActOrder::reverse : method == "ldl_gptqequiv" ? ActOrder::none : ActOrder::desc;
  rounding.group_aware = false;
  rounding.percdamp = p.value("pre_gptqH", false) ? p.at("percdamp").get<double>() : 0;
  rounding.damp_auto_increment = 0;
  rounding.greedy_passes = rounding.kind == "nearest" ? 0 : p.value("npasses", 0);
  rounding.reference_clamping = method != "ldl_gptqequiv" || p.at("qfn") == "b";
  StageHessian stage(prepared.hessian, 1 << 20);
  QuantizedLinear linear = round_linear({c.data.at("name"), prepared.weight.to(at::kFloat), &stage}, grid, range, rounding);
  linear.online = prepared.transform;
  at::Tensor damped = prepared.hessian.clone();
  if (p.value("pre_gptqH", false)) damped.diagonal().add_(rounding.percdamp * damped.diagonal().mean());
  // The reference's one scale is that of [-1, 1], half as many steps as codes.
  const at::Tensor scale = p.at("qfn") == "b" ? linear.params.scales_OG[0] * ((1 << grid.bits) - 1) / 2 : linear.params.scales_OG;
  const bool float64 = p.value("dtype", std::string()) == "float64";
  compare(c, {{"codes", linear.codes_OI}, {"W_dq", dequantize(linear, at::kFloat)}, {"W_pre", prepared.weight}, {"H_pre", damped},
              {"scale", scale}, {"zero", linear.params.zeros_OG}, {"scaleWH", prepared.transform.divisor_I}}, fallback,
          float64 ? std::set<std::string>{"row_margin", "W_dq", "W_dq_gptq"} : std::set<std::string>{"row_margin"});
  if (float64) {  // the tolerance is one of float64
    EXPECT_LT((dequantize(linear, at::kFloat) - c.tensor("W_dq")).abs().max().item<double>(), 1e-5);
    EXPECT_LT((dequantize(linear, at::kFloat) - c.tensor("W_dq_gptq")).abs().max().item<double>(), 1e-5);
  }
}

void check_quip_sharp(const Case& c, const json& fallback) {
  const at::Tensor weight = c.tensor("W");
  const std::int64_t rows = weight.size(0), columns = weight.size(1);
  at::Tensor hessian = c.tensor("H");  // normalised and regularised
  const at::Tensor unit = weight / weight.square().mean().sqrt();
  OnlineTransform transform;
  if (c.flag("rescale")) {
    transform.divisor_I = incoherence_rescaling(hessian, {unit});
    hessian = hessian / hessian.abs().max();
  }
  // Rows r -> r diag(S) A: the transposed of A (S r) is what `apply` does with A^T.
  struct Transposed : Orthogonal {
    std::shared_ptr<const Orthogonal> plain;
    at::Tensor signs;
    std::int64_t order() const override { return plain->order(); }
    at::Tensor apply(const at::Tensor& x) const override { return plain->apply_transposed(x * signs); }
    at::Tensor apply_transposed(const at::Tensor& x) const override { return plain->apply(x) * signs; }
    OrthogonalParts parts() const override { return {}; }
  };
  const auto make = [](std::int64_t n, const at::Tensor& signs) {
    auto q = std::make_shared<Transposed>();
    q->plain = hadamard(n, n % 40 == 0 ? 20 : 0);  // QuIP# knows no had40
    q->signs = signs;
    return q;
  };
  transform.input = make(columns, c.tensor("SU"));
  transform.output = make(rows, c.tensor("SV"));
  const at::Tensor rotated = transform_weight(unit, transform), rotated_hessian = transform_hessian(hessian, transform);
  Grid grid;
  grid.bits = 2;
  grid.granularity = Granularity::tensor;
  grid.convention = GridConvention::quip;
  Range range;
  range.kind = RangeKind::rms;
  range.rho = 1.5 / c.params().at("opt_scale").get<double>();
  Rounding rounding;
  rounding.kind = "error_feedback";
  rounding.act_order = ActOrder::reverse;
  rounding.percdamp = 0;
  StageHessian stage(rotated_hessian, 1 << 20);
  const QuantizedLinear linear = round_linear({c.data.at("name"), rotated, &stage}, grid, range, rounding);
  // The block LDL factor of its vector codebooks: linear algebra of the rotated Hessian.
  const at::Tensor lower = std::get<0>(at::linalg_cholesky_ex(rotated_hessian));
  std::vector<at::Tensor> squares, blocks;
  for (std::int64_t b = 0; b < columns; b += 8) {
    const at::Tensor d = lower.narrow(0, b, 8).narrow(1, b, 8);
    squares.push_back(d.mm(d.t()));
    blocks.push_back(at::linalg_solve(d, lower.narrow(1, b, 8), /*left=*/false));
  }
  compare(c, {{"W_rot", rotated}, {"H_rot", rotated_hessian}, {"L8", at::cat(blocks, 1)}, {"D8", at::stack(squares)}, {"codes", linear.codes_OI},
              {"W_hat", restore_weight(stored_weight(linear), transform)}, {"Wscale", linear.params.scales_OG[0]}, {"scaleWH", transform.divisor_I}}, fallback, {"row_margin"});
}

void check_butterfly(const Case& c, const json& fallback) {
  KroneckerFactors factors;
  factors.first = c.tensor("B0");
  factors.second = c.tensor("B1");
  if (c.file.has("perm_in")) factors.perm_in = c.tensor("perm_in").to(at::kLong);
  if (c.file.has("perm_out")) factors.perm_out = c.tensor("perm_out").to(at::kLong);
  const std::int64_t n = c.params().at("n");
  EXPECT_EQ(kronecker_shape(n), (std::pair<std::int64_t, std::int64_t>{c.params().at("p"), c.params().at("q")}));
  const auto q = make_kronecker(factors);
  const at::Tensor eye = test::on_device(at::eye(n));
  const at::Tensor dense = q->apply_transposed(eye);  // rows e_i -> Q^T e_i
  compare(c, {{"y", q->apply(c.tensor("x").t().contiguous()).t()}, {"dense", dense}}, fallback, {});
  EXPECT_LT((q->apply_transposed(q->apply(eye)) - eye).abs().max().item<double>(), 1e-5);
}

void check_hadamard(const Case& c, const json& fallback) {
  if (c.params().contains("sizes")) {
    std::map<std::string, at::Tensor> tables;
    for (const std::int64_t k : c.params().at("sizes")) tables["had" + std::to_string(k)] = hadamard_matrix(k);
    return compare(c, tables, fallback, {});
  }
  const std::int64_t n = c.params().at("n");
  if (c.params().contains("K")) {
    EXPECT_EQ(hadamard_order(n), c.params().at("K").get<std::int64_t>());
    return compare(c, {{"y", hadamard(n)->apply(c.tensor("x"))}, {"yT", hadamard(n)->apply_transposed(c.tensor("x"))}}, fallback, {});
  }
  const std::string signs = c.data.at("inputs").at(0);  // Q = diag(signs) A^T
  const auto q = signed_hadamard(c.tensor(signs).to(at::kFloat), n);
  compare(c, {{c.data.at("outputs").at(0), q->apply(test::on_device(at::eye(n)))}}, fallback, {});
}

TEST(GoldenIncoherence, Spqr) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("spqr", check_spqr);
}

TEST(GoldenIncoherence, Quip) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("quip", check_quip);
}

TEST(GoldenIncoherence, QuipSharp) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("quip_sharp", check_quip_sharp);
}

TEST(GoldenIncoherence, QuipButterfly) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("quip_butterfly", check_butterfly);
}

TEST(GoldenIncoherence, Hadamard) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("hadamard", check_hadamard);
}

}  // namespace
}  // namespace miq::quantizer::golden
