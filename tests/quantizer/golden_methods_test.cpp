// fp8, HQQ, ZeroQuant, SmoothQuant, AWQ (scales, clip) and MI-optimize's combinations, run by the original
// implementations.
#include "golden_cases.h"
#include "miq/quantizer/transform.h"

namespace miq::quantizer::golden {
namespace {

Grid fp8_grid(const Case& c) {
  Grid grid;
  grid.type = c.params().at("format") == "e5m2" ? GridType::fp8_e5m2 : GridType::fp8_e4m3;
  grid.bits = 8;
  grid.symmetric = true;
  const std::string granularity = c.params().value("granularity", std::string("tensor"));
  grid.granularity = granularity == "channel" ? Granularity::channel : granularity == "block" ? Granularity::block : Granularity::tensor;
  if (grid.granularity == Granularity::block) grid.group_size = c.params().at("block").at(0);
  return grid;
}

Activation fp8_activation(const Case& c) {
  Activation activation;
  activation.type = fp8_grid(c).type;
  activation.bits = 8;
  activation.dynamic = c.flag("dynamic");
  activation.granularity = c.params().at("granularity") == "tensor" ? ActivationGranularity::tensor : ActivationGranularity::token;
  return activation;
}

at::Tensor bytes(const at::Tensor& fp8) { return fp8.view(at::kByte); }

// The table of all codes, and casts of every number and midpoint.
void check_cast_table(const Case& c, const json& fallback) {
  const Grid grid = fp8_grid(c);
  Activation activation;
  activation.type = grid.type;
  activation.bits = 8;
  activation.dynamic = false;
  activation.granularity = ActivationGranularity::tensor;
  const at::Tensor x = c.tensor("x"), one = test::on_device(at::scalar_tensor(1.0f));
  const GridParams plain = {test::on_device(at::ones({1, 1})), test::on_device(at::zeros({1, 1}))};
  const at::Tensor clamped = quantize_activation(x, activation, {one, {}}).codes;
  const at::Tensor all = test::on_device(at::arange(256, at::kLong).to(at::kByte).view({1, 256}));
  const at::Tensor decoded = values_of_codes(all, grid, plain);
  compare(c, {{"codes_sat_u8", bytes(clamped)}, {"codes_nosat_u8", bytes(x.to(clamped.scalar_type()))}, {"decode", decoded}}, fallback, {});
  // Our own rounding of weights gives the same bytes.
  const at::Tensor finite = x.masked_select(x.isfinite()).view({1, -1});
  const at::Tensor codes = nearest_codes(finite, grid, plain);
  const at::Tensor expected = bytes(quantize_activation(finite, activation, {one, {}}).codes);
  EXPECT_TRUE(at::equal(codes, expected)) << codes.ne(expected).sum().item<int>() << " differ";
}

void check_fp8(const Case& c, const json& fallback) {
  if (c.data.at("name").get<std::string>().find("table") != std::string::npos) return check_cast_table(c, fallback);
  if (c.file.has("W")) {
    const LinearProblem problem{c.data.at("name"), c.tensor("W"), nullptr};
    const QuantizedLinear linear = round_linear(problem, fp8_grid(c), Range{}, Rounding{});
    at::Tensor scale = linear.params.scales_OG;
    const Grid grid = linear.grid;
    if (grid.granularity == Granularity::block) scale = scale.slice(0, 0, scale.size(0), grid.group_size);
    if (grid.granularity == Granularity::tensor) scale = scale[0];
    compare(c, {{"codes_u8", linear.codes_OI}, {"scale", scale}, {"W_dq", dequantize(linear, at::kFloat)}}, fallback, {});
    return;
  }
  ActivationParams params;
  if (c.file.has("scale") && !c.flag("dynamic")) params.scale = c.tensor("scale");
  const QuantizedActivation x = quantize_activation(c.tensor("X"), fp8_activation(c), params);
  compare(c, {{"codes_u8", bytes(x.codes)}, {"scale", x.scales}, {"X_dq", fake_quantize(c.tensor("X"), fp8_activation(c), params)}}, fallback, {});
}

void check_hqq(const Case& c, const json& fallback) {
  const json& p = c.params();
  Grid grid;
  grid.bits = p.at("bits");
  grid.granularity = Granularity::channel;  // the groups of either axis as rows
  grid.convention = GridConvention::hqq;
  grid.real_zeros = !c.flag("round_zero");
  const std::int64_t group = p.at("group");
  const bool rows = p.at("axis") == 1;
  const at::Tensor weight = c.tensor("W");
  Rounding rounding;
  rounding.kind = "hqq";
  rounding.iterations = p.at("solver") == "none" ? 0 : p.at("iters").get<int>();
  rounding.lp_norm = p.at("lp_norm");
  rounding.beta = p.at("beta");
  rounding.kappa = p.at("kappa");
  rounding.early_stop = p.at("solver") != "v2";
  const at::Tensor grouped = rows ? weight.reshape({-1, group}) : weight.reshape({group, -1}).t().contiguous();
  const QuantizedLinear linear = round_linear({c.data.at("name"), grouped, nullptr}, grid, Range{}, rounding);
  const auto layout = [&](const at::Tensor& t) { return rows ? t : t.t().contiguous(); };
  compare(c, {{"codes", layout(linear.codes_OI)}, {"scale", layout(linear.params.scales_OG)}, {"zero", layout(linear.params.zeros_OG)},
              {"W_dq", layout(dequantize(linear, at::kFloat)).reshape(weight.sizes())}}, fallback, {});
}

Grid absmax_grid(int bits, std::int64_t group) {
  Grid grid;
  grid.bits = bits;
  grid.symmetric = true;
  grid.convention = GridConvention::absmax;
  grid.granularity = group > 0 ? Granularity::group : Granularity::channel;
  if (group > 0) grid.group_size = group;
  return grid;
}

void check_zeroquant(const Case& c, const json& fallback) {
  QuantizedLinear linear = round_linear({c.data.at("name"), c.tensor("W"), nullptr}, absmax_grid(c.params().at("wbits"), c.group()), Range{}, Rounding{});
  linear.activation.bits = c.params().at("abits");
  compare(c, {{"W_dq", dequantize(linear, at::kFloat)}, {"w_scale", linear.params.scales_OG}, {"Y", forward(linear, c.tensor("X"))}}, fallback, {});
}

Grid weight_grid(const Case& c, int bits) {
  const json& p = c.params();
  const std::string granularity = p.at("weight");
  Grid grid = absmax_grid(bits, granularity == "per_group" ? p.at("group").get<std::int64_t>() : -1);
  if (granularity == "per_tensor") grid.granularity = Granularity::tensor;
  return grid;
}

Activation input_of(const Case& c, int bits) {
  Activation activation;
  activation.bits = bits;
  activation.granularity = c.params().at("activation") == "per_tensor" ? ActivationGranularity::tensor : ActivationGranularity::token;
  return activation;
}

at::Tensor max_abs(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}).abs().amax(0); }

// MIT's: one scale for all linears of a norm, folded into it.
void check_smoothquant_group(const Case& c, const json& fallback) {
  std::vector<at::Tensor> weights;
  for (int i = 0; c.file.has("W" + std::to_string(i)); ++i) weights.push_back(c.tensor("W" + std::to_string(i)));
  const at::Tensor x = c.tensor("X"), largest = max_abs(x);
  const at::Tensor scales = smoothquant_scales(largest, weights, c.params().at("alpha"));
  std::map<std::string, at::Tensor> outputs = {{"act_absmax", largest}, {"smooth_scale", scales}, {"norm_weight_out", c.tensor("norm_weight") / scales}};
  if (c.file.has("norm_bias")) outputs["norm_bias_out"] = c.tensor("norm_bias") / scales;
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::string number = std::to_string(i);
    OnlineTransform transform;
    transform.divisor_I = scales;
    const at::Tensor smooth = transform_weight(weights[i], transform);
    QuantizedLinear linear = round_linear({c.data.at("name"), smooth, nullptr}, weight_grid(c, 8), Range{}, Rounding{});
    linear.activation = input_of(c, 8);
    outputs["W" + number + "_smooth"] = smooth;
    outputs["W" + number + "_dq"] = dequantize(linear, at::kFloat);
    outputs["w_scale" + number] = linear.grid.granularity == Granularity::tensor ? linear.params.scales_OG[0] : linear.params.scales_OG;
    outputs["Y" + number] = forward(linear, x / scales);
  }
  const QuantizedActivation quantized = quantize_activation(x / scales, input_of(c, 8), {});
  outputs["act_scale"] = quantized.scales;
  outputs["X_dq"] = fake_quantize(x / scales, input_of(c, 8), {});
  compare(c, outputs, fallback, {});
}

void check_smoothquant(const Case& c, const json& fallback) {
  if (c.family() == "mit") return check_smoothquant_group(c, fallback);
  const at::Tensor x = c.tensor("X").reshape({-1, c.tensor("X").size(-1)});
  if (c.family() == "llm-compressor") {  // its statistics: the span of x, twice the largest weight
    const at::Tensor span = x.amax(0) - x.amin(0);
    compare(c, {{"smooth_scale", smoothquant_scales(span, {c.tensor("W0") * 2, c.tensor("W1") * 2}, c.params().at("alpha"))}}, fallback, {});
    return;
  }
  // MI-optimize's: the linear alone, x divided at run time.
  OnlineTransform transform;
  transform.divisor_I = smoothquant_scales(max_abs(x), {c.tensor("W")}, c.params().at("alpha"));
  QuantizedLinear linear = round_linear({c.data.at("name"), transform_weight(c.tensor("W"), transform), nullptr},
                                        weight_grid(c, c.params().at("wbits")), Range{}, Rounding{});
  linear.activation = input_of(c, c.params().at("abits"));
  const at::Tensor stored = dequantize(linear, at::kFloat);
  linear.online = transform;
  compare(c, {{"smooth_scale", transform.divisor_I}, {"W_dq", stored}, {"w_scale", linear.params.scales_OG}, {"Y", forward(linear, c.tensor("X"))}}, fallback, {});
}

std::vector<ScaleCandidate> candidates_of(const Case& c) {
  std::vector<ScaleCandidate> candidates;
  if (c.params().contains("grid")) {
    Transform transform;
    transform.n_grid = c.params().at("n_grid");
    transform.duo_scaling = c.params().at("duo") == "both" ? DuoScaling::both : DuoScaling::duo;
    candidates = awq_candidates(transform);  // ours are llm-compressor's
    const json& stated = c.params().at("grid");
    EXPECT_EQ(candidates.size(), stated.size());
    for (size_t i = 0; i < candidates.size(); ++i) {
      EXPECT_NEAR(candidates[i].ratio, stated[i][0].get<double>(), 1e-12) << i;
      EXPECT_EQ(candidates[i].duo, stated[i][1].get<bool>()) << i;
    }
    return candidates;
  }
  const int n = c.params().at("n_grid");
  for (int i = 0; i < n; ++i) candidates.push_back({static_cast<double>(i) / n, c.family() == "autoawq"});
  return candidates;
}

void check_awq_scale(const Case& c, const json& fallback) {
  const at::Tensor weight = c.tensor("W"), x = c.tensor("X");
  const at::Tensor hessian = x.t().to(at::kDouble).mm(x.to(at::kDouble)).to(at::kFloat);
  Grid grid;
  grid.bits = c.bits();
  grid.symmetric = c.symmetric();
  grid.granularity = c.group() > 0 ? Granularity::group : Granularity::channel;
  if (c.group() > 0) grid.group_size = c.group();
  grid.convention = c.family() == "llm-compressor" ? GridConvention::ct : GridConvention::awq;
  const at::Tensor mean_abs = x.abs().mean(0), weight_mean = awq_weight_mean({weight}, grid);
  std::vector<at::Tensor> scales;
  for (const ScaleCandidate& candidate : candidates_of(c)) scales.push_back(awq_scales(mean_abs, weight_mean, candidate));
  const std::vector<double> losses = awq_losses({weight}, hessian, scales, {grid}, 0);
  const auto best = std::min_element(losses.begin(), losses.end()) - losses.begin();
  const at::Tensor best_scales = scales[static_cast<size_t>(best)];
  const at::Tensor scaled = weight * best_scales;
  const GridParams params = fit_grid(scaled, grid, Range{});
  if (c.family() == "llm-compressor" && c.symmetric()) {
    // absmax / 7.5 puts the largest weight of each group on a rounding tie, so that the last bit of a
    // scale decides codes: losses scatter by 1 %, more than the best point's gap to the next.
    const auto expected = c.stored("losses");
    const double least = expected.min().item<double>();
    EXPECT_LE(expected[best].item<double>(), 1.006 * least);
    compare(c, {{"act_mean", mean_abs}, {"w_mean", weight_mean}}, fallback, {"best_index", "losses", "scales"});
    EXPECT_TRUE(test::within(at::tensor(losses, at::kDouble) / static_cast<double>(x.size(0) * weight.size(0)), expected, {{"kind", "rel"}, {"rtol", 0.02}}, {}));
    return;
  }
  compare(c, {{"H", hessian}, {"act_mean", mean_abs}, {"w_mean", weight_mean}, {"best_index", at::scalar_tensor(best, at::kLong)},
              {"scales", best_scales}, {"losses", at::tensor(losses, at::kDouble) / static_cast<double>(x.size(0) * weight.size(0))},
              {"W_dq", values_of_codes(nearest_codes(scaled, grid, params), grid, params) / best_scales}}, fallback, {});
}

// MI-optimize's search; its clip (one token, mean |error|) is a fault of its own.
void check_awq_linear(const Case& c, const json& fallback) {
  const at::Tensor weight = c.tensor("W"), x = c.tensor("X");
  Grid grid;
  grid.bits = c.bits();
  grid.group_size = c.group();
  grid.convention = GridConvention::awq;
  const at::Tensor hessian = x.t().mm(x), mean_abs = x.abs().mean(0);
  const at::Tensor magnitude = (weight.abs().unflatten(1, {-1, c.group()}) / weight.abs().unflatten(1, {-1, c.group()}).amax(2, true)).flatten(1).mean(0);
  std::vector<at::Tensor> scales;
  for (int i = 0; i < 20; ++i) {
    const double r = i / 20.0;
    const at::Tensor s = (mean_abs.pow(r) / magnitude.pow(1 - r)).clamp_min(1e-4);
    scales.push_back(s / (s.max() * s.min()).sqrt());
  }
  const std::vector<double> losses = awq_losses({weight}, hessian, scales, {grid}, 0);
  const auto best = std::min_element(losses.begin(), losses.end()) - losses.begin();
  compare(c, {{"best_index", at::scalar_tensor(best, at::kLong)}, {"scales", scales[static_cast<size_t>(best)]},
              {"losses", at::tensor(losses, at::kDouble) / static_cast<double>(x.size(0) * weight.size(0))}}, fallback, {"W_dq", "w_scale", "w_zero"});
}

void check_awq_clip(const Case& c, const json& fallback) {
  const at::Tensor weight = c.tensor("W");
  const at::Tensor x = c.tensor("X").slice(0, 0, c.tensor("X").size(0), c.params().at("token_step").get<std::int64_t>());
  Grid grid;
  grid.bits = c.bits();
  grid.group_size = c.group();
  grid.convention = GridConvention::awq;
  Range range;
  range.kind = RangeKind::awq_clip;
  range.n_grid = c.params().at("n_grid");
  range.max_shrink = c.params().at("max_shrink");
  at::Tensor errors;
  const at::Tensor limits = awq_clip(weight, grid, range, x.t().mm(x) / static_cast<double>(x.size(0)), &errors);
  const at::Tensor largest = weight.abs().unflatten(1, {-1, c.group()}).amax(2);
  compare(c, {{"max_val", limits}, {"best_err", errors}, {"index", ((1 - limits / largest) * range.n_grid).round()}}, fallback, {"gap"});
}

// Two methods after one another: ours is the case's *_fixed result; *_mi documents MI-optimize's fault.
void check_combo(const Case& c, const json& fallback) {
  const json& p = c.params();
  const at::Tensor weight = c.tensor("W");
  OnlineTransform transform;
  transform.divisor_I = c.tensor("smooth_scale");  // awq: by MI-optimize's own formula, see awq_linear
  if (p.at("kind") == "smoothquant+gptq") {
    const at::Tensor x = c.tensor("X").reshape({-1, weight.size(1)});
    transform.divisor_I = smoothquant_scales(max_abs(x), {weight}, p.at("alpha"));
  }
  StageHessian stage(transform_hessian(c.tensor("H"), transform), 1 << 20);
  Grid grid;
  grid.bits = p.at("wbits");
  grid.granularity = Granularity::channel;
  grid.convention = GridConvention::ist;
  Rounding rounding;
  rounding.kind = "error_feedback";
  rounding.act_order = ActOrder::desc;
  rounding.percdamp = p.at("percdamp");
  const QuantizedLinear linear = round_linear({c.data.at("name"), transform_weight(weight, transform), &stage}, grid, Range{}, rounding);
  compare(c, {{"smooth_scale", transform.divisor_I}, {"W_dq_fixed", dequantize(linear, at::kFloat)}, {"codes_fixed", linear.codes_OI}}, fallback,
          {"W_dq_mi", "codes_mi", "w_scale", "w_zero"});
  // The stated losses are sums over tokens.
  const at::Tensor x = (c.tensor("X").reshape({-1, weight.size(1)}) / transform.divisor_I).to(at::kDouble);
  const at::Tensor change = (dequantize(linear, at::kFloat) - transform_weight(weight, transform)).to(at::kDouble);
  const double loss = x.mm(change.t()).square().sum().item<double>();
  EXPECT_TRUE(test::within(at::scalar_tensor(loss, at::kDouble), at::scalar_tensor(c.data.at("proxy_loss").at("loss_fixed").get<double>(), at::kDouble),
                           c.data.at("tolerance").at("proxy_loss"), {}));
}

TEST(GoldenMethods, SmoothQuant) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("smoothquant", check_smoothquant);
}

TEST(GoldenMethods, AwqScale) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("awq_scale", check_awq_scale);
}

TEST(GoldenMethods, AwqLinear) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("awq_linear", check_awq_linear);
}

TEST(GoldenMethods, AwqClip) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("awq_clip", check_awq_clip);
}

TEST(GoldenMethods, Combinations) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("combo", check_combo);
}

TEST(GoldenMethods, Fp8) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("fp8", check_fp8);
}

TEST(GoldenMethods, Hqq) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("hqq", check_hqq);
}

TEST(GoldenMethods, ZeroQuant) {
  MIQ_REQUIRE_GOLDEN("algorithms/cases.json");
  for_each_case("zeroquant", check_zeroquant);
}

}  // namespace
}  // namespace miq::quantizer::golden
