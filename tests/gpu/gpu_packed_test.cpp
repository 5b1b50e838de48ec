// Packed codes and quantized activations, against the CPU: codes, values and activations to the last bit; products to the order in which float32 is summed.
#include <gtest/gtest.h>

#include "device.h"
#include "miq/quantizer/activation.h"
#include "miq/quantizer/packed_linear.h"
#include "quantizer/packed/codes.h"

namespace miq::quantizer {
namespace {

using packed::CodeType;
using test::data, test::expect_started, test::near, test::same, test::there, test::unwritten;

constexpr at::ScalarType kFloats[] = {at::kFloat, at::kHalf, at::kBFloat16};

// A matrix of random codes with its parameters, on the CPU and there.
struct Packed {
  CodeType type;
  int bits;
  std::int64_t rows, columns, group, groups;
  at::Tensor codes, scales, zeros, order;           // host
  at::Tensor packed;                                // host
  at::Tensor packed_there, scales_there, zeros_there, order_there;

  miq_packed_matrix matrix() const {
    const auto of = [](const at::Tensor& t) { return t.dim() == 0 ? miq_parameters{MIQ_CONSTANT, t.item<float>(), nullptr} : miq_parameters{gpu_store(t.scalar_type()), 0, t.data_ptr()}; };
    return {static_cast<int>(type), bits, data<std::uint8_t>(packed_there), rows, columns, groups, group, of(scales_there), of(zeros_there), data<std::int32_t>(order_there)};
  }
};

Packed random_matrix(CodeType type, int bits, std::int64_t rows, std::int64_t columns, std::int64_t group, bool ordered, at::ScalarType scale_type = at::kHalf,
                     bool real_zeros = false) {
  at::manual_seed(bits * 100 + rows);
  Packed p{type, bits, rows, columns, group, (columns + group - 1) / group, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  p.codes = at::randint(0, type == CodeType::integer ? 1 << bits : 0x7c, {rows, columns}).to(at::kByte);  // finite fp8 numbers
  p.scales = (at::rand({rows, p.groups}) * 0.01 + 0.001).to(scale_type).to(at::kFloat);
  p.zeros = type != CodeType::integer ? at::zeros({rows, p.groups}) : real_zeros ? at::rand({rows, p.groups}) * 7 : at::randint(0, 1 << bits, {rows, p.groups}).to(at::kFloat);
  if (ordered) p.order = at::randperm(columns).to(at::kInt);
  p.packed = packed::pack_codes(p.codes, type, bits, p.order);
  p.packed_there = there(p.packed);
  p.scales_there = packed::pack_parameters(p.scales);
  p.zeros_there = packed::pack_parameters(p.zeros);
  if (p.scales_there.dim() > 0) p.scales_there = there(p.scales_there);
  if (p.zeros_there.dim() > 0) p.zeros_there = there(p.zeros_there);
  p.order_there = there(p.order);
  return p;
}

std::vector<Packed> matrices() {
  std::vector<Packed> all;
  for (int bits = 2; bits <= 8; ++bits)
    for (const bool ordered : {false, true}) {
      all.push_back(random_matrix(CodeType::integer, bits, 50, 160, 32, ordered));
      all.push_back(random_matrix(CodeType::integer, bits, 16, 101, 101, ordered, at::kFloat, true));  // a ragged chunk
      all.push_back(random_matrix(CodeType::integer, bits, 5, 300, 20, ordered, at::kBFloat16));       // groups across chunks
    }
  for (const CodeType type : {CodeType::fp8_e4m3, CodeType::fp8_e5m2})
    for (const bool ordered : {false, true}) all.push_back(random_matrix(type, 8, 50, 150, 64, ordered));
  return all;
}

TEST(PackedKernels, PackAndUnpackAsTheCpu) {
  for (const Packed& p : matrices()) {
    const std::string what = std::to_string(p.bits) + " bits, type " + std::to_string(static_cast<int>(p.type)) + ", columns " + std::to_string(p.columns);
    const at::Tensor codes = there(p.codes), packed = unwritten(p.packed.sizes(), at::kByte), back = unwritten(p.codes.sizes(), at::kByte);
    const miq_packed_matrix matrix = p.matrix();
    expect_started(test::kernels().pack_codes(data<std::uint8_t>(codes), &matrix, data<std::uint8_t>(packed), test::stream()));
    EXPECT_TRUE(same(packed, p.packed)) << what;
    expect_started(test::kernels().unpack_codes(&matrix, data<std::uint8_t>(back), test::stream()));
    EXPECT_TRUE(same(back, p.codes)) << what;
    for (const at::ScalarType type : kFloats) {
      const at::Tensor values = unwritten(p.codes.sizes(), type);
      expect_started(test::kernels().unpack_values(&matrix, gpu_store(type), values.data_ptr(), test::stream()));
      EXPECT_TRUE(same(values, packed::dequantize_codes(p.packed, p.scales, p.zeros, p.columns, p.type, p.bits, p.group, p.order, type))) << what << ", " << type;
    }
  }
}

TEST(PackedKernels, EveryFp8ByteIsItsValue) {
  for (const CodeType type : {CodeType::fp8_e4m3, CodeType::fp8_e5m2}) {
    Packed p = random_matrix(type, 8, 16, 256, 256, false);
    p.codes = at::arange(256).to(at::kByte).repeat({16, 1});
    p.scales.fill_(1);
    p.packed = packed::pack_codes(p.codes, type, 8, {});
    p.packed_there = there(p.packed);
    p.scales_there = at::scalar_tensor(1.0f);
    const miq_packed_matrix matrix = p.matrix();
    const at::Tensor values = unwritten({16, 256}, at::kFloat), expected = packed::dequantize_codes(p.packed, p.scales, p.zeros, 256, type, 8, 256, {}, at::kFloat);
    expect_started(test::kernels().unpack_values(&matrix, MIQ_FLOAT32, values.data_ptr(), test::stream()));
    EXPECT_TRUE(same(values.nan_to_num(12345), expected.nan_to_num(12345)));
  }
}

// The linear that the CPU multiplies.
QuantizedLinear linear_of(const Packed& p) {
  QuantizedLinear linear;
  linear.grid.bits = p.bits;
  linear.grid.granularity = p.groups == 1 ? Granularity::channel : Granularity::group;
  linear.grid.group_size = p.group;
  linear.grid.real_zeros = true;
  linear.codes_OI = p.codes;
  linear.params = {p.scales, p.zeros};
  if (p.order.defined()) {
    linear.group_of_column = at::empty({p.columns}, at::kLong);
    linear.group_of_column.index_put_({p.order.to(at::kLong)}, at::arange(p.columns).floor_divide(p.group));
  }
  return linear;
}

void expect_products(const std::vector<Packed>& matrices, std::int64_t x_rows, at::ScalarType type) {
  const std::int64_t columns = matrices.front().columns;
  const at::Tensor x = at::randn({x_rows, columns}).to(type), x_there = there(x);
  const at::Tensor scratch = unwritten({static_cast<std::int64_t>(test::kernels().matvec_scratch(columns, x_rows))}, at::kByte);
  std::vector<miq_packed_matrix> descriptions;
  std::vector<at::Tensor> outputs;
  std::vector<void*> targets;
  for (const Packed& p : matrices) {
    descriptions.push_back(p.matrix());
    outputs.push_back(unwritten({x_rows, p.rows}, type));
    targets.push_back(outputs.back().data_ptr());
  }
  expect_started(test::kernels().matvec(descriptions.data(), static_cast<int>(matrices.size()), x_there.data_ptr(), x_rows, gpu_store(type), targets.data(), scratch.data_ptr(),
                                        test::stream()));
  for (size_t i = 0; i < matrices.size(); ++i) {
    const Packed& p = matrices[i];
    // A stable sort of the groups gives another order inside them, which changes no block's numbers but its sums' order.
    const at::Tensor expected = PackedLinear(linear_of(p)).forward(x);
    const double tolerance = type == at::kFloat ? 2e-6 : type == at::kHalf ? 2e-3 : 1e-2;
    EXPECT_TRUE(near(outputs[i], expected, tolerance)) << p.bits << " bits, " << p.rows << " x " << p.columns << ", group " << p.group << ", " << x_rows << " rows of " << type;
  }
}

TEST(PackedProducts, AreTheCpus) {
  for (int bits = 2; bits <= 8; ++bits) {
    expect_products({random_matrix(CodeType::integer, bits, 50, 320, 64, false)}, 1, at::kFloat);
    expect_products({random_matrix(CodeType::integer, bits, 33, 101, 101, false, at::kFloat, true)}, 3, at::kFloat);  // one group, a ragged chunk
    expect_products({random_matrix(CodeType::integer, bits, 20, 256, 32, true, at::kBFloat16)}, 8, at::kFloat);
  }
  for (const std::int64_t x_rows : {1, 2, 4, 5, 7}) expect_products({random_matrix(CodeType::integer, 4, 40, 4224, 128, false)}, x_rows, at::kFloat);  // several turns
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16}) expect_products({random_matrix(CodeType::integer, 4, 64, 512, 128, false)}, 2, type);
}

TEST(PackedProducts, OfSeveralMatrices) {
  std::vector<Packed> several;
  for (const int bits : {4, 4, 3, 4, 4, 4, 4, 4}) several.push_back(random_matrix(CodeType::integer, bits, 17 + 8 * static_cast<std::int64_t>(several.size()), 384, 128, false));
  expect_products(several, 2, at::kFloat);
  several.push_back(random_matrix(CodeType::integer, 4, 20, 384, 32, false));  // another block of x
  std::vector<miq_packed_matrix> descriptions;
  for (const Packed& p : several) descriptions.push_back(p.matrix());
  std::vector<void*> none(several.size(), nullptr);
  EXPECT_NE(test::kernels().matvec(descriptions.data(), static_cast<int>(descriptions.size()), nullptr, 1, MIQ_FLOAT32, none.data(), nullptr, test::stream()), 0);
}

// What is not finite in x must not come out as a number.
TEST(PackedProducts, KeepWhatIsNotFinite) {
  const Packed p = random_matrix(CodeType::integer, 4, 32, 128, 128, false);
  at::Tensor x = at::randn({1, 128});
  x[0][40] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor x_there = there(x), y = unwritten({1, 32}, at::kFloat).zero_(), scratch = unwritten({static_cast<std::int64_t>(test::kernels().matvec_scratch(128, 1))}, at::kByte);
  const miq_packed_matrix matrix = p.matrix();
  void* target = y.data_ptr();
  expect_started(test::kernels().matvec(&matrix, 1, x_there.data_ptr(), 1, MIQ_FLOAT32, &target, scratch.data_ptr(), test::stream()));
  EXPECT_TRUE(y.isnan().all().item<bool>());
}

TEST(ActivationKernel, IsTheCpu) {
  at::manual_seed(3);
  at::Tensor x = at::randn({13, 192});
  x[1].mul_(1e-7);
  x[2].abs_();
  x[3].abs_().neg_();
  x[4].zero_();
  x[5].mul_(3000);
  for (const at::ScalarType dtype : kFloats)
    for (const bool grouped : {false, true})
      for (const GridType type : {GridType::integer, GridType::fp8_e4m3, GridType::fp8_e5m2})
        for (const int bits : {2, 4, 8})
          for (const bool symmetric : {true, false}) {
            if (type != GridType::integer && (bits != 8 || !symmetric)) continue;
            Activation activation;
            activation.type = type;
            activation.bits = bits;
            activation.symmetric = symmetric;
            activation.granularity = grouped ? ActivationGranularity::group : ActivationGranularity::token;
            activation.group_size = 32;
            const at::Tensor in = x.to(dtype), in_there = there(in);
            const QuantizedActivation expected = quantize_activation(in, activation, {});
            const std::int64_t group = grouped ? 32 : 192;
            const at::Tensor codes = unwritten({13, 192}, at::kByte), values = unwritten({13, 192}, dtype), scales = unwritten({13, 192 / group}, at::kFloat),
                             zeros = unwritten({13, 192 / group}, at::kFloat);
            const miq_activation call{in_there.data_ptr(), gpu_store(dtype), 13, 192, group, static_cast<int>(type), bits, symmetric, values.data_ptr(), codes.data_ptr(),
                                      data<float>(scales), data<float>(zeros)};
            expect_started(test::kernels().quantize_activation(&call, test::stream()));
            EXPECT_TRUE(same(codes, expected.codes.view(at::kByte).reshape({13, 192}))) << dtype << ", " << bits << " bits";
            EXPECT_TRUE(same(scales, expected.scales.reshape({13, 192 / group}))) << dtype << ", " << bits << " bits";
            if (expected.zeros.defined()) {
              EXPECT_TRUE(same(zeros, expected.zeros.reshape({13, 192 / group})));
            }
            EXPECT_TRUE(same(values, fake_quantize(in, activation, {}))) << dtype << ", " << bits << " bits";
          }
}

}  // namespace
}  // namespace miq::quantizer
