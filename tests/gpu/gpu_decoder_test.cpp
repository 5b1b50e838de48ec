// The decoder's kernels against the CPU's. Sums over a row and exponentials are taken in another way, so that results agree to the rounding of their type.
#include <gtest/gtest.h>

#include "device.h"
#include "model/attention.h"
#include "model/kernels.h"

namespace miq::model::kernels {
namespace {

using test::data, test::expect_started, test::near, test::same, test::there, test::unwritten;

constexpr at::ScalarType kTypes[] = {at::kFloat, at::kHalf, at::kBFloat16};

double tolerance(at::ScalarType type) { return type == at::kFloat ? 2e-6 : type == at::kHalf ? 1.1e-3 : 8e-3; }

TEST(DecoderKernels, RmsNorm) {
  for (const at::ScalarType type : kTypes)
    for (const bool wide : {true, false})
      for (const std::int64_t columns : {64, 77, 1500}) {
        at::manual_seed(columns);
        const at::Tensor x = at::randn({5, columns}).to(wide ? at::kFloat : type), weight = at::rand({columns}) + 0.5, x_there = there(x), weight_there = there(weight);
        const at::Tensor out = unwritten({5, columns}, type);
        expect_started(test::kernels().rms_norm(x_there.data_ptr(), gpu_store(x.scalar_type()), data<float>(weight_there), 5, columns, 1e-5f, gpu_store(type), out.data_ptr(), test::stream()));
        EXPECT_TRUE(near(out, rms_norm(x, weight, 1e-5, type), tolerance(type))) << type << ", " << columns;
      }
}

TEST(DecoderKernels, SiluTimesUpOfSlices) {
  for (const at::ScalarType type : kTypes)
    for (const std::int64_t columns : {64, 61}) {
      const at::Tensor both = (at::randn({7, 2 * columns}) * 4).to(type), both_there = there(both), out = unwritten({7, columns}, type);
      const auto* const first = static_cast<const char*>(both_there.data_ptr());
      expect_started(test::kernels().silu_mul(first, 2 * columns, first + columns * both.element_size(), 2 * columns, 7, columns, gpu_store(type), out.data_ptr(), test::stream()));
      EXPECT_TRUE(near(out, silu_mul(both.narrow(1, 0, columns), both.narrow(1, columns, columns)), tolerance(type))) << type << ", " << columns;
    }
}

TEST(DecoderKernels, AddToIsTheCpuToTheBit) {
  for (const at::ScalarType type : kTypes)
    for (const std::int64_t count : {1024, 333}) {
      at::Tensor hidden = at::randn({count});
      const at::Tensor x = at::randn({count}).to(type), x_there = there(x), hidden_there = there(hidden);
      expect_started(test::kernels().add_to(data<float>(hidden_there), x_there.data_ptr(), gpu_store(type), count, test::stream()));
      add_to(hidden, x);
      EXPECT_TRUE(same(hidden_there, hidden)) << type;
    }
}

TEST(DecoderKernels, RotatePairs) {
  for (const at::ScalarType type : kTypes)
    for (const bool interleaved : {false, true})
      for (const std::int64_t half : {16, 12, 0}) {
        // Heads that lie in a fused product: [B, T, N, D] seen as [B, N, T, D].
        const at::Tensor x = at::randn({2, 5, 3, 32}).to(type), x_there = there(x), view = x.transpose(1, 2);
        const at::Tensor angles = at::rand({5, half}) * 6, cos = angles.cos(), sin = angles.sin(), cos_there = there(cos), sin_there = there(sin), out = unwritten({2, 3, 5, 32}, type);
        expect_started(test::kernels().rotate_pairs(x_there.data_ptr(), view.stride(0), view.stride(1), view.stride(2), 2, 3, 5, 32, data<float>(cos_there), data<float>(sin_there), half,
                                                    interleaved, gpu_store(type), out.data_ptr(), test::stream()));
        EXPECT_TRUE(near(out, rotate_pairs(view, cos, sin, interleaved), tolerance(type))) << type << ", " << half;
      }
}

struct AttentionCase {
  std::int64_t batch, heads, kv_heads, dim, capacity, past, half, window;
  bool interleaved, slopes;
};

void expect_attention(const AttentionCase& c, at::ScalarType type) {
  at::manual_seed(c.past + c.dim);
  // q, k and v as one fused product gives them: rows of a text follow one another.
  const std::int64_t width = (c.heads + 2 * c.kv_heads) * c.dim;
  const at::Tensor fused = at::randn({c.batch, 1, width}).to(type), fused_there = there(fused);
  const auto part = [&](const at::Tensor& t, std::int64_t first, std::int64_t heads) { return t.narrow(2, first * c.dim, heads * c.dim).unflatten(2, {heads, c.dim}); };
  at::Tensor keys = at::randn({c.batch, c.kv_heads, c.capacity, c.dim}).to(type), values = at::randn({c.batch, c.kv_heads, c.capacity, c.dim}).to(type);
  const at::Tensor keys_there = there(keys), values_there = there(values), past_there = there(at::tensor({c.past}, at::kLong));
  const at::Tensor angles = at::rand({c.capacity, c.half}) * 6, cos = angles.cos(), sin = angles.sin(), cos_there = there(cos), sin_there = there(sin);
  AttentionMask mask;
  mask.window = c.window;
  if (c.slopes) mask.alibi_slopes_N = at::rand({c.heads});
  const at::Tensor slopes_there = there(mask.alibi_slopes_N);
  const at::Tensor out = unwritten({c.batch, 1, c.heads * c.dim}, type);
  const at::Tensor scratch = unwritten({static_cast<std::int64_t>(test::kernels().decode_attention_scratch(c.batch, c.heads, c.dim))}, at::kByte);
  const auto* const q = static_cast<const char*>(fused_there.data_ptr());
  const std::int64_t size = fused.element_size();
  const miq_decode_attention call{gpu_store(type), q, q + c.heads * c.dim * size, q + (c.heads + c.kv_heads) * c.dim * size, width, width, width,
                                  c.half > 0 ? data<float>(cos_there) : nullptr, c.half > 0 ? data<float>(sin_there) : nullptr, c.half, c.interleaved, keys_there.data_ptr(),
                                  values_there.data_ptr(), c.capacity, data<std::int64_t>(past_there), c.batch, c.heads, c.kv_heads, c.dim, c.window,
                                  c.slopes ? data<float>(slopes_there) : nullptr, out.data_ptr(), scratch.data_ptr()};
  expect_started(test::kernels().decode_attention(&call, test::stream()));

  const Rotation rotation{cos.const_data_ptr<float>() + c.past * c.half, sin.const_data_ptr<float>() + c.past * c.half, c.half, c.interleaved};
  const at::Tensor expected =
      decode_attention(part(fused, 0, c.heads), part(fused, c.heads, c.kv_heads), part(fused, c.heads + c.kv_heads, c.kv_heads), rotation, keys, values, c.past, mask);
  EXPECT_TRUE(near(out, expected, 2 * tolerance(type))) << type << ", past " << c.past << ", heads " << c.heads << "/" << c.kv_heads << ", dim " << c.dim;
  EXPECT_TRUE(near(keys_there, keys, tolerance(type)));
  EXPECT_TRUE(same(values_there, values));
}

TEST(DecodeAttentionKernel, IsTheCpu) {
  const AttentionCase cases[] = {
      {1, 4, 4, 64, 40, 0, 32, 0, false, false},     // the first token
      {2, 4, 2, 64, 200, 150, 32, 0, false, false},  // the last tile ragged
      {1, 4, 1, 128, 700, 640, 64, 0, true, false},  // several parts
      {2, 3, 1, 32, 100, 63, 12, 0, false, false},   // a tile to the key, rotation of a part
      {1, 9, 1, 64, 300, 200, 0, 0, false, true},    // more query heads than a block of threads takes, ALiBi
      {1, 2, 2, 80, 300, 290, 40, 100, false, false},  // a window
      {1, 16, 2, 256, 150, 140, 128, 0, false, false},
      {1, 2, 1, 30, 70, 66, 15, 0, false, false},    // no vector load fits
      {40, 8, 8, 16, 170, 150, 8, 0, false, false},  // a full card: one part of three tiles
      {1, 2, 1, 32, 2300, 2250, 16, 0, false, false},  // more tiles than parts
  };
  for (const AttentionCase& c : cases)
    for (const at::ScalarType type : kTypes) expect_attention(c, type);
}

TEST(DecodeAttentionKernel, RefusesWiderHeads) {
  miq_decode_attention call{};
  call.type = MIQ_FLOAT32;
  call.batch = call.heads = call.kv_heads = 1;
  call.dim = 257;
  EXPECT_NE(test::kernels().decode_attention(&call, test::stream()), 0);
}

}  // namespace
}  // namespace miq::model::kernels
