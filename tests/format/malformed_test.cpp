// Checkpoints from strangers: whatever is missing, misshapen or absurd is an error that names it.
#include <gmock/gmock.h>

#include "random_linears.h"

namespace miq::format {
namespace {

using namespace test;

struct Checkpoint {
  const Format* format;
  std::map<std::string, at::Tensor> tensors;
  json quantization;
};

Checkpoint checkpoint(const std::string& format, const std::vector<NamedLinear>& linears, const std::string& version = "") {
  FormatOptions options;
  options.variant = version;
  std::vector<Scheme> schemes;
  for (const NamedLinear& l : linears) schemes.push_back(scheme_of(l.name, *l.linear));
  Declaration declaration;
  const Format& f = find_format(format);
  f.declare(schemes, {}, options, declaration);
  return {&f, MemorySource(f.encode(linears, options)).tensors, json::parse(declaration.config.at("quantization_config").dump())};
}

// One of each kind of tensor and key.
std::vector<Checkpoint> checkpoints() {
  const auto group = integer_grid(4, false, Granularity::group, 32);
  const auto static_int8 = activation(GridType::integer, ActivationGranularity::tensor, false, false);
  auto act_order = random_linear(32, 128, integer_grid(3, true, Granularity::group, 32), at::kHalf);
  act_order->group_of_column = at::randperm(128, at::kLong).div_(32, "floor");
  auto rotated = random_linear(32, 64, integer_grid(3, false, Granularity::group, 32), at::kBFloat16);
  rotated->online.input = quantizer::random_kronecker(64, 1);
  rotated->online.output = quantizer::random_hadamard(32, 1);
  const auto static_fp8 = activation(GridType::fp8_e4m3, ActivationGranularity::tensor, false);
  auto divided = random_linear(32, 64, integer_grid(4, true, Granularity::group, 32), at::kFloat, static_fp8);
  divided->online.divisor_I = at::full({64}, 2.0f);
  auto everything = random_linear(32, 64, integer_grid(3, false, Granularity::group, 32), at::kHalf, static_int8);
  everything->online = rotated->online;
  everything->online.divisor_I = divided->online.divisor_I;
  everything->group_of_column = at::arange(64, at::kLong).remainder(2);
  everything->outliers = {at::arange(33, at::kInt), at::zeros({32}, at::kInt), at::ones({32}), 16};
  return {checkpoint("gptq", {{"m", random_linear(32, 128, group, at::kHalf)}, {"n", act_order}}, "v2"),
          checkpoint("awq", {{"m", random_linear(32, 128, group, at::kHalf)}}),
          checkpoint("compressed-tensors", {{"m", rotated},
                                            {"n", random_linear(32, 128, integer_grid(7, false, Granularity::channel), at::kBFloat16, static_int8)},
                                            {"o", random_linear(130, 256, fp8_grid(Granularity::block), at::kBFloat16)}}),
          checkpoint("fp8", {{"m", random_linear(130, 256, fp8_grid(Granularity::block), at::kFloat, activation(GridType::fp8_e4m3, ActivationGranularity::group, true))}}),
          checkpoint("modelopt", {{"m.down_proj", divided}}),
          checkpoint("miq", {{"m", everything}, {"n", random_linear(32, 64, integer_grid(8, true, Granularity::tensor), at::kFloat)}})};
}

// Reads everything. Returns whether it worked; anything but an Error of the two kinds fails the test.
bool reads(const Checkpoint& c) {
  auto source = std::make_shared<MemorySource>();
  source->tensors = c.tensors;
  try {
    const auto decoder = c.format->open(source, c.quantization, {}, "damaged");
    for (const Scheme& s : decoder->linears()) quantizer::dequantize(decoder->linear(s.name), at::kFloat);
    return true;
  } catch (const Error& error) {
    EXPECT_TRUE(error.kind() == ErrorKind::io || error.kind() == ErrorKind::unsupported) << error.what();
    return false;
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
    return false;
  }
}

TEST(Malformed, UndamagedOnesAreRead) {
  for (const Checkpoint& c : checkpoints()) EXPECT_TRUE(reads(c)) << c.format->name;
}

TEST(Malformed, MissingTensors) {
  for (const Checkpoint& c : checkpoints())
    for (const auto& [name, tensor] : c.tensors) {
      SCOPED_TRACE(std::string(c.format->name) + " without " + name);
      Checkpoint damaged = c;
      damaged.tensors.erase(name);
      // One without a name of its own left is no quantized linear; natural groups need no index.
      const bool harmless = name == "m.g_idx" || (std::string(c.format->name) == "gptq" && name.ends_with(".qweight")) || name == "n.g_idx";
      EXPECT_EQ(reads(damaged), harmless);
    }
}

TEST(Malformed, OtherShapes) {
  for (const Checkpoint& c : checkpoints())
    for (const auto& [name, tensor] : c.tensors) {
      SCOPED_TRACE(std::string(c.format->name) + " with " + name);
      Checkpoint damaged = c;
      if (tensor.dim() == 0) {
        damaged.tensors[name] = tensor.expand({2}).contiguous();
        EXPECT_FALSE(reads(damaged));
        continue;
      }
      for (const at::Tensor& other : {tensor.narrow(0, 0, 0), at::cat({tensor.view(at::kByte), tensor.view(at::kByte)}, 0).view(tensor.scalar_type()),
                                      tensor.reshape({-1}).narrow(0, 0, 1).reshape({1, 1, 1})}) {
        damaged.tensors[name] = other;
        if (tensor.numel() > 1 || other.numel() != 1) {
          EXPECT_FALSE(reads(damaged)) << other.sizes();
        }
      }
      if (tensor.dim() == 2 && tensor.size(1) > 1 && !name.ends_with(".weight") && name != "m.down_proj.weight_scale") {  // groups may be shorter, or longer
        damaged.tensors[name] = tensor.narrow(1, 0, tensor.size(1) - 1);
        EXPECT_FALSE(reads(damaged)) << damaged.tensors[name].sizes();
      }
    }
}

TEST(Malformed, OtherTypes) {
  for (const Checkpoint& c : checkpoints())
    for (const auto& [name, tensor] : c.tensors)
      for (const at::ScalarType type : {at::kByte, at::kShort, at::kBool, at::kComplexFloat}) {
        if (type == tensor.scalar_type() || (type == at::kShort && name.ends_with("outlier_columns"))) continue;  // which it may be
        Checkpoint damaged = c;
        damaged.tensors[name] = at::zeros(tensor.sizes(), type);
        EXPECT_FALSE(reads(damaged)) << c.format->name << " " << name << " " << type;
      }
}

TEST(Malformed, AbsurdContents) {
  const std::vector<Checkpoint> all = checkpoints();
  const auto with = [](Checkpoint c, const std::string& name, const at::Tensor& tensor) {
    EXPECT_TRUE(c.tensors.count(name)) << name;
    c.tensors[name] = tensor;
    return reads(c);
  };
  EXPECT_FALSE(with(all[0], "n.g_idx", at::full({128}, 4, at::kInt)));
  EXPECT_FALSE(with(all[0], "n.g_idx", at::full({128}, -1, at::kInt)));
  for (const std::vector<std::int64_t>& shape :
       {std::vector<std::int64_t>{32, 1ll << 62}, {32, -64}, {1ll << 40, 64}, {32, 0}, {32, INT64_MAX}, {INT64_MIN, INT64_MIN}})
    EXPECT_FALSE(with(all[2], "m.weight_shape", at::tensor(shape, at::kLong)));
  EXPECT_FALSE(with(all[2], "n.weight", at::full({32, 128}, 64, at::kChar))) << "a code of 8 bits among those of 7";
  for (const auto& [name, tensor] : all[2].tensors)
    if (tensor.scalar_type() == at::kDouble) {
      EXPECT_FALSE(with(all[2], name, at::full_like(tensor, NAN)));
      EXPECT_FALSE(with(all[2], name, tensor * 2));
    }
}

// Every value in the configuration, one after the other, replaced by what does not belong there.
void for_each_value(json& value, const std::function<void(const std::string&)>& check, const std::string& path = "") {
  static const std::vector<json> kOthers = {nullptr,
                                            0,
                                            -1,
                                            -7,
                                            1,
                                            5,
                                            INT64_MAX,
                                            UINT64_MAX,
                                            1e300,
                                            "",
                                            "x",
                                            "re:[",
                                            "(((((((((((((((",
                                            std::string(100000, 'a'),
                                            true,
                                            false,
                                            json::array(),
                                            json::object(),
                                            {1, 2},
                                            {{"a", 1}},
                                            {"re:("},
                                            {nullptr}};
  for (const json& other : kOthers) {
    const json kept = value;
    value = other;
    check(path + " = " + other.dump().substr(0, 40));
    value = kept;
  }
  if (value.is_structured())
    for (auto it = value.begin(); it != value.end(); ++it) for_each_value(*it, check, path + "/" + (value.is_object() ? it.key() : "?"));
}

TEST(Malformed, AnyValueOfTheConfiguration) {
  for (const Checkpoint& c : checkpoints()) {
    int refused = 0, read = 0;
    Checkpoint damaged = c;
    for_each_value(damaged.quantization, [&](const std::string& what) {
      SCOPED_TRACE(what);
      reads(damaged) ? ++read : ++refused;
      (void)c.format->recognises(damaged.quantization);
    });
    EXPECT_GT(refused, 20) << c.format->name;
    EXPECT_GT(read, 0) << c.format->name;
  }
}

void expect_error(const Checkpoint& c, ErrorKind kind, const std::string& part) {
  auto source = std::make_shared<MemorySource>();
  source->tensors = c.tensors;
  try {
    const auto decoder = c.format->open(source, c.quantization, {}, "damaged");
    for (const Scheme& s : decoder->linears()) decoder->linear(s.name);
    ADD_FAILURE() << "no error; expected '" << part << "'";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_THAT(error.what(), testing::HasSubstr(part));
  }
}

TEST(Malformed, ErrorsNameTheTensorOrKey) {
  const std::vector<Checkpoint> all = checkpoints();
  const auto damaged = [&](size_t i, const std::function<void(Checkpoint&)>& damage) {
    Checkpoint c = all[i];
    damage(c);
    return c;
  };
  expect_error(damaged(0, [](Checkpoint& c) { c.tensors.erase("m.qzeros"); }), ErrorKind::io, "m.qzeros");
  expect_error(damaged(0, [](Checkpoint& c) { c.tensors["m.scales"] = at::ones({3, 32}, at::kHalf); }), ErrorKind::io, "m.qweight");
  expect_error(damaged(0, [](Checkpoint& c) { c.quantization["bits"] = 0; }), ErrorKind::io, "'bits'");
  expect_error(damaged(0, [](Checkpoint& c) { c.quantization["bits"] = 5; }), ErrorKind::unsupported, "5 bits");
  expect_error(damaged(0, [](Checkpoint& c) { c.quantization["group_size"] = -5; }), ErrorKind::io, "'group_size'");
  expect_error(damaged(0, [](Checkpoint& c) { c.quantization["group_size"] = 0; }), ErrorKind::io, "'group_size'");
  expect_error(damaged(0, [](Checkpoint& c) { c.quantization["checkpoint_format"] = "gptq_p"; }), ErrorKind::unsupported, "gptq_p");
  expect_error(damaged(0, [](Checkpoint& c) { c.quantization["dynamic"] = {{"+:(", {{"bits", 8}}}}; }), ErrorKind::io, "no regular expression");
  expect_error(damaged(1, [](Checkpoint& c) { c.quantization["version"] = "gemv"; }), ErrorKind::unsupported, "gemv");
  expect_error(damaged(1, [](Checkpoint& c) { c.quantization["bits"] = 8; }), ErrorKind::unsupported, "8 bits");
  expect_error(damaged(1, [](Checkpoint& c) { c.tensors.clear(); }), ErrorKind::io, "qweight");
  expect_error(damaged(2, [](Checkpoint& c) { c.tensors.erase("m.weight_shape"); }), ErrorKind::io, "m.weight_shape");
  expect_error(damaged(2, [](Checkpoint& c) { c.tensors.erase("n.input_scale"); }), ErrorKind::io, "n.input_scale");
  expect_error(damaged(2, [](Checkpoint& c) { c.tensors.erase("o.weight"); }), ErrorKind::io, "o.weight");
  expect_error(damaged(2, [](Checkpoint& c) { c.quantization["format"] = "nvfp4-pack-quantized"; }), ErrorKind::unsupported, "nvfp4");
  expect_error(damaged(2, [](Checkpoint& c) { c.quantization["config_groups"]["group_0"]["targets"] = {"other"}; }), ErrorKind::io, "m: no group");
  expect_error(damaged(2, [](Checkpoint& c) { c.quantization["config_groups"]["group_0"]["weights"]["num_bits"] = 1; }), ErrorKind::unsupported,
               "int1");
  expect_error(damaged(2,
                       [](Checkpoint& c) {
                         c.quantization["sparsity_config"] = {{"format", "sparse-24-bitmask"}};
                       }),
               ErrorKind::unsupported, "sparse-24");
}

}  // namespace
}  // namespace miq::format
