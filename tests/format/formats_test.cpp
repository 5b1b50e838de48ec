// Properties of the formats beyond the golden checkpoints: all widths, shapes and mixtures, refusals and warnings.
#include <gmock/gmock.h>

#include "random_linears.h"

namespace miq::format {
namespace {

using namespace test;
using testing::HasSubstr;

const auto kHalf = at::kHalf;
const auto kBFloat16 = at::kBFloat16;

FormatOptions version(const std::string& name) {
  FormatOptions options;
  options.variant = name;
  return options;
}

TEST(Gptq, EveryWidthAndGrouping) {
  for (const int bits : {2, 3, 4, 8})
    for (const bool symmetric : {true, false})
      for (const std::int64_t group : {0, 32, 64, 96})
        for (const std::int64_t rows : {32, 96}) {
          const Grid grid =
              group == 0 ? integer_grid(bits, symmetric, Granularity::channel) : integer_grid(bits, symmetric, Granularity::group, group);
          SCOPED_TRACE(std::to_string(bits) + " bits, groups of " + std::to_string(group));
          const auto linear = random_linear(rows, 192, grid, kHalf);
          expect_round_trip(find_format("gptq"), {{"m", linear}}, version("v2"));
          if (symmetric) expect_round_trip(find_format("gptq"), {{"m", linear}}, version("v1"));
        }
}

TEST(Gptq, VersionOneHoldsZeroPointsFromOne) {
  for (const int bits : {2, 3, 4, 8}) {
    const auto linear = random_linear(64, 96, integer_grid(bits, false, Granularity::group, 32), kHalf, {}, 1);
    const QuantizedLinear out = written(find_format("gptq"), {{"m", linear}}, version("v1"))->linear("m");
    EXPECT_TRUE(at::equal(out.params.zeros_OG, linear->params.zeros_OG)) << bits;
    EXPECT_TRUE(at::equal(out.codes_OI, linear->codes_OI)) << bits;
  }
}

TEST(Gptq, GroupsThatAreNoRunsOfColumns) {
  const auto linear = random_linear(32, 128, integer_grid(4, true, Granularity::group, 32), kHalf);
  linear->group_of_column = at::randperm(128, at::kLong).div_(32, "floor");
  expect_round_trip(find_format("gptq"), {{"m", linear}}, {});
}

TEST(Gptq, ScalesOfATensorOrBlockAreThoseOfItsRows) {
  for (const Granularity granularity : {Granularity::tensor, Granularity::block})
    expect_round_trip(find_format("gptq"), {{"m", random_linear(64, 128, integer_grid(4, true, granularity, 32), kHalf)}}, {}, false);
}

TEST(Gptq, MixedSettings) {
  const Grid common = integer_grid(4, true, Granularity::group, 64);
  std::vector<NamedLinear> linears;
  for (const std::string name : {"model.layers.0.q", "model.layers.0.k", "model.layers.10.q"})
    linears.push_back({name, random_linear(32, 128, common, kHalf)});
  linears.push_back({"model.layers.1.q", random_linear(32, 128, integer_grid(8, true, Granularity::group, 64), kHalf)});
  linears.push_back({"model.layers.1.down+x", random_linear(32, 128, integer_grid(4, false, Granularity::channel), kHalf)});
  linears.push_back({"lm_head", random_linear(64, 128, integer_grid(8, true, Granularity::group, 32), kHalf)});
  std::sort(linears.begin(), linears.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  expect_round_trip(find_format("gptq"), linears, version("v2"));
  std::vector<Scheme> schemes;
  for (const NamedLinear& l : linears) schemes.push_back(scheme_of(l.name, *l.linear));
  Declaration declaration;
  find_format("gptq").declare(schemes, {"model.layers.2.q", "lm_head"}, version("v2"), declaration);
  const auto& config = declaration.config.at("quantization_config");
  EXPECT_EQ(nlohmann::ordered_json::parse(declaration.files.at("quantize_config.json")), config);
  EXPECT_EQ(config.at("group_size"), 64);
  EXPECT_EQ(config.at("lm_head"), true);
  const auto& dynamic = config.at("dynamic");
  EXPECT_EQ(dynamic.size(), 4u);
  EXPECT_EQ(dynamic.at("+:^model\\.layers\\.1\\.q$"), (nlohmann::ordered_json{{"bits", 8}}));
  EXPECT_EQ(dynamic.at("-:^model\\.layers\\.2\\.q$"), nlohmann::ordered_json::object());
  EXPECT_THAT(find_format("gptq").warnings(schemes, {}), testing::Contains(HasSubstr("transformers reads one setting")));
}

// vLLM asks for the setting of qkv_proj and gate_up_proj.
TEST(Gptq, FusedLinearsHaveASettingOfTheirOwn) {
  const Grid base = integer_grid(4, true, Granularity::group), other = integer_grid(8, true, Granularity::group);
  std::vector<Scheme> schemes;
  const auto add = [&](const std::string& name, const Grid& grid) {
    schemes.push_back(scheme_of("layers.0." + name, *random_linear(32, 128, grid, kHalf)));
  };
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) add(name, other);
  for (const char* name : {"o_proj", "down_proj", "up_proj", "x_proj"}) add(name, base);
  add("gate_proj", other);
  Declaration declaration;
  find_format("gptq").declare(schemes, {"layers.1.gate_proj", "layers.1.up_proj", "layers.1.q_proj"}, {}, declaration);
  const auto& dynamic = declaration.config.at("quantization_config").at("dynamic");
  std::vector<std::string> patterns;
  for (const auto& [pattern, value] : dynamic.items()) patterns.push_back(pattern);
  EXPECT_THAT(patterns, testing::UnorderedElementsAre("+:^layers\\.0\\.q_proj$", "+:^layers\\.0\\.k_proj$", "+:^layers\\.0\\.v_proj$",
                                                      "+:^layers\\.0\\.qkv_proj$", "+:^layers\\.0\\.gate_proj$", "-:^layers\\.1\\.gate_proj$",
                                                      "-:^layers\\.1\\.up_proj$", "-:^layers\\.1\\.gate_up_proj$", "-:^layers\\.1\\.q_proj$"));
  EXPECT_THAT(find_format("gptq").warnings(schemes, {}), testing::Contains(HasSubstr("vLLM needs one scheme for q, k, v")));
}

TEST(Awq, EveryGrouping) {
  for (const bool symmetric : {true, false})
    for (const std::int64_t group : {0, 16, 40, 128})
      for (const auto dtype : {kHalf, kBFloat16}) {
        const Grid grid = group == 0 ? integer_grid(4, symmetric, Granularity::channel) : integer_grid(4, symmetric, Granularity::group, group);
        expect_round_trip(find_format("awq"), {{"m", random_linear(24, group == 0 ? 100 : 3 * group, grid, dtype)}}, {});
      }
}

TEST(Awq, OneGroupSizeForAll) {
  const auto of = [](const char* name, std::int64_t group) {
    return scheme_of(name, *random_linear(8, 128, integer_grid(4, true, Granularity::group, group), kHalf));
  };
  const auto why_not_together = find_format("awq").why_not_together;
  EXPECT_EQ(why_not_together({of("a", 32), of("b", 32)}), std::nullopt);
  EXPECT_EQ(why_not_together({of("a", 32), of("b", 64)}),
            "AWQ has one group size for all linears, and b has another than a; compressed-tensors and miq can");
}

TEST(CompressedTensors, EveryPackedWidth) {
  for (int bits = 2; bits <= 8; ++bits)
    for (const bool symmetric : {true, false})
      for (const std::int64_t group : {0, 1, 7, 32})
        for (const std::int64_t rows : {5, 33}) {
          SCOPED_TRACE(std::to_string(bits) + " bits, groups of " + std::to_string(group));
          const Grid grid =
              group == 0 ? integer_grid(bits, symmetric, Granularity::channel) : integer_grid(bits, symmetric, Granularity::group, group);
          expect_round_trip(find_format("compressed-tensors"), {{"m", random_linear(rows, 224, grid, bits % 2 ? kBFloat16 : at::kFloat)}}, {});
        }
  for (const Granularity granularity : {Granularity::tensor, Granularity::block})
    expect_round_trip(find_format("compressed-tensors"), {{"m", random_linear(40, 96, integer_grid(4, false, granularity, 32), kHalf)}}, {}, false);
}

TEST(CompressedTensors, IntegersWithActivations) {
  const Activation token = activation(GridType::integer, ActivationGranularity::token, true);
  for (const int bits : {2, 4, 7, 8})
    for (const bool symmetric : {true, false})
      for (const Granularity granularity : {Granularity::tensor, Granularity::channel, Granularity::group, Granularity::block}) {
        SCOPED_TRACE(std::to_string(bits) + " bits");
        expect_round_trip(find_format("compressed-tensors"),
                          {{"m", random_linear(40, 96, integer_grid(bits, symmetric, granularity, 32), kBFloat16, token)}}, {});
      }
  for (const bool symmetric : {true, false}) {  // a scale that is no bfloat16 stays as it is
    const Activation fixed = activation(GridType::integer, ActivationGranularity::tensor, false, symmetric);
    expect_round_trip(find_format("compressed-tensors"), {{"m", random_linear(8, 96, integer_grid(8, true, Granularity::channel), kBFloat16, fixed)}},
                      {});
  }
  Activation groups = activation(GridType::integer, ActivationGranularity::group, true);
  groups.group_size = 48;
  groups.bits = 4;
  expect_round_trip(find_format("compressed-tensors"), {{"m", random_linear(8, 96, integer_grid(8, true, Granularity::channel), kBFloat16, groups)}},
                    {});
}

TEST(CompressedTensors, Fp8) {
  const std::vector<Activation> activations = {{},
                                               activation(GridType::fp8_e4m3, ActivationGranularity::token, true),
                                               activation(GridType::fp8_e4m3, ActivationGranularity::tensor, false),
                                               activation(GridType::fp8_e4m3, ActivationGranularity::tensor, true),
                                               activation(GridType::fp8_e4m3, ActivationGranularity::group, true)};
  for (const Activation& a : activations)
    for (const Granularity granularity : {Granularity::tensor, Granularity::channel, Granularity::group, Granularity::block})
      expect_round_trip(find_format("compressed-tensors"), {{"m", random_linear(130, 256, fp8_grid(granularity), kBFloat16, a)}}, {});
  // Blocks may be cut off at both ends.
  expect_round_trip(find_format("compressed-tensors"), {{"m", random_linear(130, 200, fp8_grid(Granularity::block), at::kFloat)}}, {});
  const Activation fp8 = activations[1];
  expect_round_trip(find_format("compressed-tensors"), {{"m", random_linear(16, 256, integer_grid(4, true, Granularity::group), kBFloat16, fp8)}},
                    {});
}

TEST(CompressedTensors, MixedGroupsAreNamed) {
  const Activation token = activation(GridType::fp8_e4m3, ActivationGranularity::token, true);
  const std::vector<NamedLinear> linears = {
      {"model.layers.0.mlp.down_proj", random_linear(16, 64, integer_grid(4, true, Granularity::group, 32), kBFloat16)},
      {"model.layers.0.self_attn.q_proj", random_linear(16, 64, fp8_grid(Granularity::channel), kBFloat16, token)},
      {"model.layers.1.mlp.down_proj", random_linear(16, 64, integer_grid(3, false, Granularity::channel), kBFloat16)}};
  expect_round_trip(find_format("compressed-tensors"), linears, {});
  std::vector<Scheme> schemes;
  for (const NamedLinear& l : linears) schemes.push_back(scheme_of(l.name, *l.linear));
  Declaration declaration;
  find_format("compressed-tensors").declare(schemes, {"model.layers.0.self_attn.o_proj"}, {}, declaration);
  const auto& config = declaration.config.at("quantization_config");
  EXPECT_EQ(config.at("format"), "mixed-precision");
  EXPECT_EQ(config.at("config_groups").size(), 3u);
  EXPECT_EQ(config.at("ignore"), (nlohmann::ordered_json{"model.layers.0.self_attn.o_proj", "lm_head"}));
  EXPECT_THAT(find_format("compressed-tensors").warnings(schemes, {}), testing::Contains(HasSubstr("vLLM needs one scheme for q, k, v")));
}

TEST(CompressedTensors, Rotations) {
  const auto rotated = [](std::int64_t rows, std::shared_ptr<const quantizer::Orthogonal> in, std::shared_ptr<const quantizer::Orthogonal> out) {
    auto linear = random_linear(rows, 96, integer_grid(4, true, Granularity::channel), kBFloat16);
    linear->online.input = std::move(in);
    linear->online.output = std::move(out);
    return linear;
  };
  const auto shared = quantizer::random_kronecker(96, 1);
  const at::Tensor block = quantizer::random_kronecker(16, 5)->apply(at::eye(16));
  const std::vector<NamedLinear> linears = {{"a.q_proj", rotated(48, shared, quantizer::random_hadamard(48, 2))},
                                            {"b.k_proj", rotated(64, shared, nullptr)},
                                            {"c.down", rotated(20, quantizer::hadamard(96), quantizer::random_kronecker(20, 4))},
                                            {"d.up", rotated(64, quantizer::block_diagonal(block, 96), quantizer::block_diagonal(block, 64))},
                                            {"e.plain", rotated(64, nullptr, nullptr)}};
  const Format& format = find_format("compressed-tensors");
  const auto decoder = written(format, linears, {});
  for (const NamedLinear& l : linears) {
    SCOPED_TRACE(l.name);
    const QuantizedLinear out = decoder->linear(l.name);
    expect_same_scheme(scheme_of(l.name, out), scheme_of(l.name, *l.linear));
    EXPECT_TRUE(at::allclose(quantizer::dequantize(out, at::kFloat), quantizer::dequantize(*l.linear, at::kFloat), 1e-4, 1e-4));
  }
  Scheme unknown = scheme_of(linears[0].name, *linears[0].linear);
  unknown.input_rotation.clear();
  Declaration declaration;
  EXPECT_THROW(format.declare({unknown}, {}, {}, declaration), Error) << "before its rotations are known";
  const auto matrices = [&](const FormatOptions& options, const std::vector<NamedLinear>& some) {
    int count = 0;
    for (const NamedTensor& t : format.encode(some, options)) count += t.tensor.scalar_type() == at::kDouble;
    return count;
  };
  EXPECT_EQ(matrices({}, linears), 6) << "a matrix that is shared stands once";
  FormatOptions options;
  options.stored_rotations = std::make_shared<std::set<std::string>>();
  EXPECT_EQ(matrices(options, {linears[0]}), 2);
  EXPECT_EQ(matrices(options, {linears[1]}), 0) << "nor in a later call";
  EXPECT_EQ(matrices({}, {linears[1]}), 1);
}

// actorder "group", which writers before 0.19 stored with the group of each column.
TEST(CompressedTensors, OldGroupIndices) {
  const auto linear = random_linear(16, 96, integer_grid(4, true, Granularity::group, 32), kBFloat16);
  const Format& format = find_format("compressed-tensors");
  const auto source = std::make_shared<MemorySource>(format.encode({{"m", linear}}, {}));
  const at::Tensor index = at::randperm(96, at::kLong).div_(32, "floor");
  source->tensors["m.weight_g_idx"] = index.to(at::kInt);
  Declaration declaration;
  format.declare({scheme_of("m", *linear)}, {}, {}, declaration);
  const auto decoder = format.open(source, json::parse(declaration.config.at("quantization_config").dump()), {}, "old");
  EXPECT_TRUE(decoder->linears().at(0).group_of_column);
  EXPECT_TRUE(decoder->owns("m.weight_g_idx"));
  EXPECT_TRUE(at::equal(decoder->linear("m").group_of_column, index));
}

TEST(CompressedTensors, ANameGoesBeforeAPatternAndThatBeforeTheClass) {
  std::vector<NamedLinear> linears;
  for (const char* name : {"a.x", "a.y", "b.x"})
    linears.push_back({name, random_linear(8, 64, integer_grid(4, true, Granularity::channel), kBFloat16)});
  const Format& format = find_format("compressed-tensors");
  const auto source = std::make_shared<MemorySource>(format.encode(linears, {}));
  const auto group = [](const char* target, int bits) {
    return json{{"targets", {target}},
                {"weights", {{"num_bits", 4}, {"type", "int"}, {"symmetric", true}, {"strategy", "channel"}}},
                {"input_activations", {{"num_bits", bits}, {"type", "int"}, {"strategy", "token"}, {"dynamic", true}}}};
  };
  const json config = {{"quant_method", "compressed-tensors"},
                       {"config_groups", {{"0", group("Linear", 8)}, {"1", group("a.y", 6)}, {"2", group("re:a", 7)}}}};
  const auto decoder = format.open(source, config, {}, "three groups");
  std::vector<int> bits;
  for (const Scheme& s : decoder->linears()) bits.push_back(s.activation.bits);
  EXPECT_THAT(bits, testing::ElementsAre(7, 6, 8));
}

Scheme plain(const Grid& grid, std::int64_t rows = 64, std::int64_t columns = 256, const Activation& a = {}) {
  Scheme s;
  s.name = "model.layers.0.mlp.down_proj";
  s.out_features = rows;
  s.in_features = columns;
  s.grid = grid;
  s.activation = a;
  return s;
}

void expect_refused(const std::string& format, const Scheme& s, const std::string& part, const FormatOptions& options = {}) {
  const auto reason = find_format(format).why_not(s, options);
  ASSERT_TRUE(reason) << format << ": " << part;
  EXPECT_THAT(*reason, HasSubstr(part));
  EXPECT_THAT(*reason, testing::EndsWith(" can"));
}

TEST(WhyNot, WhatNoServerHolds) {
  const Grid grid = integer_grid(4, true, Granularity::group);
  for (const Format* f : {&find_format("gptq"), &find_format("awq"), &find_format("compressed-tensors")}) {
    const std::string format = f->name;
    EXPECT_EQ(f->why_not(plain(grid), {}), std::nullopt);
    Scheme s = plain(grid);
    s.outliers = true;
    expect_refused(format, s, "outliers");
    s = plain(grid);
    s.grid.bilevel.scale_bits = 3;
    expect_refused(format, s, "quantized scales");
    s = plain(grid);
    s.grid.real_zeros = true;
    expect_refused(format, s, "zero points that are not whole");
    s = plain(grid);
    s.grid.convention = quantizer::GridConvention::quip;
    expect_refused(format, s, "zero points that are not whole");
    s = plain(grid);
    s.divisor = true;
    expect_refused(format, s, "division");
    expect_refused(format, plain(grid, 64, 192), "shorter last group");
  }
  for (const std::string format : {"gptq", "awq"}) {
    Scheme s = plain(grid);
    s.rotated_input = true;
    expect_refused(format, s, "rotations");
    expect_refused(format, plain(fp8_grid(Granularity::channel)), "fp8");
    expect_refused(format, plain(grid, 64, 256, activation(GridType::integer, ActivationGranularity::token, true)), "activations");
    expect_refused(format, plain(integer_grid(5, true, Granularity::channel)), "not 5");
  }
}

TEST(WhyNot, Gptq) {
  const Grid rows = integer_grid(4, true, Granularity::channel);
  expect_refused("gptq", plain(rows, 64, 72), "32 inputs at a time, not 72");
  expect_refused("gptq", plain(rows, 40), "32 outputs at a time, not 40");
  Scheme asymmetric = plain(integer_grid(4, false, Granularity::channel));
  EXPECT_EQ(find_format("gptq").why_not(asymmetric, {}), std::nullopt);
  asymmetric.zero_point_of_zero = true;
  expect_refused("gptq", asymmetric, "version v2");
  EXPECT_EQ(find_format("gptq").why_not(asymmetric, version("v2")), std::nullopt);
  EXPECT_THROW(find_format("gptq").why_not(plain(rows), version("v3")), Error);
}

TEST(WhyNot, Awq) {
  expect_refused("awq", plain(integer_grid(4, true, Granularity::channel), 20), "8 outputs at a time, not 20");
  Scheme s = plain(integer_grid(4, true, Granularity::group));
  s.group_of_column = true;
  expect_refused("awq", s, "runs of columns");
}

TEST(WhyNot, CompressedTensors) {
  const std::string ct = "compressed-tensors";
  Scheme s = plain(integer_grid(4, true, Granularity::group));
  s.group_of_column = true;
  expect_refused(ct, s, "runs of columns");
  Grid e5m2 = fp8_grid(Granularity::channel);
  e5m2.type = GridType::fp8_e5m2;
  expect_refused(ct, plain(e5m2), "e5m2");
  expect_refused(ct, plain(fp8_grid(Granularity::channel), 64, 256, activation(GridType::integer, ActivationGranularity::token, true)),
                 "integer activations");
  expect_refused(ct, plain(fp8_grid(Granularity::channel), 64, 256, activation(GridType::fp8_e4m3, ActivationGranularity::token, false)), "static");
  expect_refused(ct, plain(fp8_grid(Granularity::channel), 64, 200, activation(GridType::fp8_e4m3, ActivationGranularity::group, true)),
                 "group of activations");
}

TEST(Encode, ScalesThatWouldChangeAreRefused) {
  const auto linear = random_linear(32, 64, integer_grid(4, true, Granularity::channel), at::kFloat);
  linear->params.scales_OG.fill_(0.1f);
  for (const std::string format : {"gptq", "awq"}) EXPECT_THROW(find_format(format).encode({{"m", linear}}, {}), Error) << format;
  linear->params.scales_OG.fill_(0.125f);
  linear->params.zeros_OG.fill_(7);
  EXPECT_THROW(find_format("compressed-tensors").encode({{"m", linear}}, {}), Error) << "a symmetric grid with another zero point";
  linear->params.zeros_OG.fill_(7.5f);
  for (const Format* format : {&find_format("gptq"), &find_format("awq"), &find_format("compressed-tensors")})
    EXPECT_THROW(format->encode({{"m", linear}}, {}), Error) << format->name;
}

TEST(Warnings, NameTheFirstLinear) {
  const auto of = [](const std::string& format, const Scheme& s) { return find_format(format).warnings({s}, {}); };
  const std::string first = "model.layers.0.mlp.down_proj";
  EXPECT_THAT(of("gptq", plain(integer_grid(3, true, Granularity::group))),
              testing::Contains(testing::AllOf(HasSubstr("vLLM"), HasSubstr(first + " has 3 bits"))));
  EXPECT_THAT(of("gptq", plain(integer_grid(4, true, Granularity::group), 96)), testing::Contains(HasSubstr("has 96 outputs")));
  EXPECT_THAT(of("awq", plain(integer_grid(4, true, Granularity::group))), testing::Contains(HasSubstr("slow kernel")));
  const std::string ct = "compressed-tensors";
  EXPECT_THAT(of(ct, plain(integer_grid(3, true, Granularity::group))), testing::Contains(HasSubstr("humming")));
  const Activation token = activation(GridType::integer, ActivationGranularity::token, true);
  EXPECT_THAT(of(ct, plain(integer_grid(8, true, Granularity::channel), 64, 256, token)),
              testing::Contains(HasSubstr("takes int8 weights with int8 activations for fp8")));
  EXPECT_THAT(of(ct, plain(integer_grid(8, true, Granularity::channel), 64, 256, token)), testing::Not(testing::Contains(HasSubstr("vLLM"))));
  Scheme rotated = plain(integer_grid(4, true, Granularity::group));
  rotated.rotated_input = true;
  EXPECT_THAT(of(ct, rotated), testing::Contains(HasSubstr("silently")));
  EXPECT_THAT(of(ct, plain(fp8_grid(Granularity::channel), 64, 256, activation(GridType::fp8_e4m3, ActivationGranularity::token, true))),
              testing::IsEmpty());
}

}  // namespace
}  // namespace miq::format
