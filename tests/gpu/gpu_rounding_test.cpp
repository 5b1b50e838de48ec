// The kernels that choose codes, against the tiles of the CPU. Both fit and round by gpu/grid_math.h with the same fused multiply-adds
// in the same order, so that codes, scales, zeros and weights are the same to the last bit. Sums of squared errors are added in another order.
#include <gtest/gtest.h>

#include "device.h"
#include "quantizer/device_rounding.h"
#include "quantizer/row_tile.h"
#include "quantizer/tile_grid.h"
#include "quantizer/tile_update.h"

namespace miq::quantizer {
namespace {

using test::data, test::expect_started, test::near, test::same, test::there, test::unwritten;

// Without fused multiply-adds the CPU's loops round differently, and nothing is left to compare bit for bit.
bool cpu_fuses() {
  float weights[kLanes], codes[kLanes], errors[kLanes], squares[kLanes] = {};
  TileGrid grid;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    weights[lane] = 1.0f + static_cast<float>(lane + 1) * 0x1p-23f;
    set_lane(grid, lane, {0.1f, 0, 0, 0, 255, 0});
  }
  round_column(weights, 1.0f, grid, codes, errors, squares);
  for (std::int64_t lane = 0; lane < kLanes; ++lane)
    if (errors[lane] != std::fma(-0.1f, codes[lane], weights[lane])) return false;
  return true;
}
#define NEEDS_FUSED_LOOPS() \
  if (!cpu_fuses()) GTEST_SKIP() << "this build's CPU loops have no fused multiply-adds"

struct GridCase {
  GridType type;
  GridConvention convention;
  int bits;
  bool symmetric, real_zeros;
  at::ScalarType scale_dtype;
};

std::string name_of(const GridCase& c) {
  static const char* const conventions[] = {"miq", "ist", "awq", "ct", "absmax", "spqr", "quip", "hqq"};
  if (c.type != GridType::integer) return std::string(c.type == GridType::fp8_e4m3 ? "e4m3" : "e5m2") + (c.scale_dtype == at::kFloat ? "" : "_narrow");
  return std::string(conventions[static_cast<int>(c.convention)]) + std::to_string(c.bits) + (c.symmetric ? "_symmetric" : "") + (c.real_zeros ? "_real" : "") +
         (c.scale_dtype == at::kHalf ? "_half" : c.scale_dtype == at::kBFloat16 ? "_bfloat16" : "");
}

std::vector<GridCase> grid_cases() {
  using C = GridConvention;
  std::vector<GridCase> cases;
  for (const C convention : {C::miq, C::ist, C::awq, C::ct, C::absmax, C::spqr, C::quip, C::hqq})
    for (const int bits : {2, 3, 4, 8})
      for (const bool symmetric : {false, true}) {
        const bool always = convention == C::absmax || convention == C::quip;
        if (always != symmetric && always) continue;
        if (convention == C::hqq && symmetric) continue;
        const at::ScalarType stored = bits == 4 ? at::kHalf : bits == 3 ? at::kBFloat16 : at::kFloat;
        cases.push_back({GridType::integer, convention, bits, symmetric, false, stored});
        if ((convention == C::spqr || convention == C::hqq) && !symmetric) cases.push_back({GridType::integer, convention, bits, symmetric, true, stored});
      }
  for (const GridType type : {GridType::fp8_e4m3, GridType::fp8_e5m2})
    for (const at::ScalarType stored : {at::kFloat, at::kBFloat16}) cases.push_back({type, C::miq, 8, true, false, stored});
  return cases;
}

Grid grid_of(const GridCase& c, std::int64_t group) {
  Grid grid;
  grid.type = c.type;
  grid.bits = c.bits;
  grid.convention = c.convention;
  grid.symmetric = c.symmetric;
  grid.real_zeros = c.real_zeros;
  grid.scale_dtype = c.scale_dtype;
  grid.granularity = group == 0 ? Granularity::channel : Granularity::group;
  grid.group_size = group;
  return grid;
}

Range mse() {
  Range range;
  range.kind = RangeKind::mse;
  range.maxshrink = 0.6;
  range.adjacent_zeros = true;
  return range;
}

// Weights with rows of all kinds: normal, tiny, huge, of one sign, zeros, a lone outlier.
at::Tensor weights(std::int64_t rows, std::int64_t columns) {
  at::manual_seed(rows * 1000 + columns);
  at::Tensor w = at::randn({rows, columns}) * 0.05;
  if (rows < 8) return w;
  w[1].mul_(1e-6);
  w[2].mul_(1e4);
  w[3].abs_();
  w[4].abs_().neg_();
  w[5].zero_();
  w[6].zero_();
  w[6][columns / 2] = 3;
  w[7].fill_(0.25);
  return w;
}

class RoundingKernels : public testing::TestWithParam<GridCase> {};

TEST_P(RoundingKernels, FitGroupsAsTheCpu) {
  NEEDS_FUSED_LOOPS();
  for (const std::int64_t group : {0, 16, 32, 100})
    for (const bool search : {false, true}) {
      if (search && group % 10 != 0) continue;
      const Grid grid = grid_of(GetParam(), group);
      const Range range = search ? mse() : Range();
      const std::int64_t rows = search ? 9 : 35, columns = 170, groups = grid.num_groups(columns);
      const at::Tensor w = weights(rows, columns);
      const at::Tensor on_device = there(w), scales = unwritten({rows, groups}, at::kFloat), zeros = unwritten({rows, groups}, at::kFloat);
      const miq_group_fit fit{data<float>(on_device), rows, columns, 0, columns, grid.columns_per_group(columns), nullptr, data<float>(scales), data<float>(zeros), groups, 0,
                              gpu_grid(grid), gpu_range(range)};
      expect_started(test::kernels().fit_groups(&fit, test::stream()));
      const GridParams expected = fit_grid(w, grid, range);
      EXPECT_TRUE(same(scales, expected.scales_OG)) << "scales, group " << group << ", mse " << search;
      EXPECT_TRUE(same(zeros, expected.zeros_OG)) << "zeros, group " << group << ", mse " << search;
    }
}

TEST_P(RoundingKernels, FitClippedGroupsAsTheCpu) {
  const Grid grid = grid_of(GetParam(), 32);
  const at::Tensor w = weights(33, 70), limits = at::rand({33, 3}) * 0.1 + 0.01;
  const at::Tensor on_device = there(w), bounds = there(limits), scales = unwritten({33, 3}, at::kFloat), zeros = unwritten({33, 3}, at::kFloat);
  const miq_group_fit fit{data<float>(on_device), 33, 70, 0, 70, 32, data<float>(bounds), data<float>(scales), data<float>(zeros), 3, 0, gpu_grid(grid), {}};
  expect_started(test::kernels().fit_groups(&fit, test::stream()));
  at::Tensor expected_scales = at::empty({33, 3}), expected_zeros = at::empty({33, 3});
  const at::Tensor by_group = at::stack({w.narrow(1, 0, 32).amin(1), w.narrow(1, 32, 32).amin(1), w.narrow(1, 64, 6).amin(1)}, 1);
  const at::Tensor by_group_high = at::stack({w.narrow(1, 0, 32).amax(1), w.narrow(1, 32, 32).amax(1), w.narrow(1, 64, 6).amax(1)}, 1);
  for (std::int64_t g = 0; g < 3; ++g)
    for (std::int64_t first = 0; first < 33; first += kLanes) {
      float low[kLanes], high[kLanes], limit[kLanes];
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        const std::int64_t row = std::min<std::int64_t>(first + lane, 32);
        low[lane] = by_group[row][g].item<float>();
        high[lane] = by_group_high[row][g].item<float>();
        limit[lane] = limits[row][g].item<float>();
      }
      TileGrid fitted;
      fit_clipped(low, high, limit, grid, fitted);
      for (std::int64_t lane = 0; lane < kLanes && first + lane < 33; ++lane) {
        expected_scales[first + lane][g] = fitted.scale[lane];
        expected_zeros[first + lane][g] = fitted.zero[lane];
      }
    }
  EXPECT_TRUE(same(scales, expected_scales));
  EXPECT_TRUE(same(zeros, expected_zeros));
}

TEST_P(RoundingKernels, NearestCodesAndValuesAsTheCpu) {
  for (const std::int64_t group : {0, 16, 100}) {
    const Grid grid = grid_of(GetParam(), group);
    const at::Tensor w = weights(35, 200);
    const GridParams params = fit_grid(w, grid, Range());
    const std::int64_t groups = grid.num_groups(200);
    const at::Tensor on_device = there(w * 1.1), scales = there(params.scales_OG), zeros = there(params.zeros_OG);  // beyond the range too
    const at::Tensor codes = unwritten({35, 200}, at::kByte), values = unwritten({35, 200}, at::kFloat);
    miq_nearest nearest{data<float>(on_device), 35, 200, grid.columns_per_group(200), groups, data<float>(scales), data<float>(zeros), data<std::uint8_t>(codes), data<float>(values),
                        gpu_grid(grid)};
    expect_started(test::kernels().round_nearest(&nearest, test::stream()));
    const at::Tensor expected = nearest_codes(w * 1.1, grid, params);
    EXPECT_TRUE(same(codes, expected)) << "group " << group;
    EXPECT_TRUE(same(values, values_of_codes(expected, grid, params))) << "group " << group;
    const at::Tensor alone = unwritten({35, 200}, at::kFloat);
    nearest.codes = nullptr;
    nearest.values = data<float>(alone);
    expect_started(test::kernels().round_nearest(&nearest, test::stream()));
    EXPECT_TRUE(same(alone, values));
  }
}

// A block of a sweep: its inputs, and what the tiles of the CPU make of them.
struct Sweep {
  Grid grid;
  Range range;
  std::int64_t rows, columns, begin, end, fit_group;
  at::Tensor weights, upper, slot, codes, errors, squares, scales, zeros;
};

Sweep make_sweep(const Grid& grid, const Range& range, std::int64_t rows, std::int64_t columns, std::int64_t begin, std::int64_t end, std::int64_t fit_group, bool shuffled) {
  Sweep s{grid, range, rows, columns, begin, end, fit_group, {}, {}, {}, {}, {}, {}, {}, {}};
  s.weights = weights(rows, columns);
  s.upper = at::triu(at::randn({columns, columns}) * 0.1, 1) + at::diag(at::rand({columns}) + 0.5);
  const std::int64_t groups = grid.num_groups(columns), group = grid.columns_per_group(columns);
  const at::Tensor natural = at::arange(columns).floor_divide(group);
  s.slot = (shuffled ? natural.index_select(0, at::randperm(columns)) : natural).to(at::kInt);
  const GridParams params = fit_grid(s.weights, grid, Range());
  s.scales = params.scales_OG.clone();
  s.zeros = params.zeros_OG.clone();
  s.codes = at::full({rows, columns}, 7, at::kByte);
  s.errors = at::zeros({rows, end - begin});
  s.squares = at::ones({rows});
  EXPECT_EQ(s.scales.size(1), groups);
  return s;
}

void sweep_on_cpu(Sweep& s) {
  const std::int64_t width = s.end - s.begin;
  const auto* const slot = s.slot.const_data_ptr<std::int32_t>();
  for (std::int64_t first = 0; first < s.rows; first += kLanes) {
    const std::int64_t valid = std::min(kLanes, s.rows - first);
    std::vector<float> tile(static_cast<size_t>(width * kLanes)), codes(kLanes), errors(kLanes), squares(kLanes);
    load_tile(s.weights.const_data_ptr<float>(), s.rows, s.columns, first, s.begin, s.end, tile.data());
    TileGrid grid;
    for (std::int64_t k = s.begin; k < s.end; ++k) {
      float* const column = tile.data() + (k - s.begin) * kLanes;
      const std::int64_t at = slot[k];
      if (s.fit_group > 0 && k % s.fit_group == 0) {
        fit_tile(column, std::min(s.fit_group, s.columns - k), s.grid, s.range, grid);
        for (std::int64_t lane = 0; lane < valid; ++lane) {
          s.scales[first + lane][at] = grid.scale[lane];
          s.zeros[first + lane][at] = grid.zero[lane];
        }
      } else if (s.fit_group == 0 || k == s.begin) {
        const std::int64_t groups = s.scales.size(1);
        load_tile_grid(s.scales.const_data_ptr<float>() + first * groups + at, s.zeros.const_data_ptr<float>() + first * groups + at, groups, valid, s.grid, grid);
      }
      const float* const row = s.upper.const_data_ptr<float>() + k * s.columns;
      round_column(column, row[k], grid, codes.data(), errors.data(), squares.data());
      subtract_products(column + kLanes, s.end - k - 1, errors.data(), 1, row + k + 1, s.columns);
      for (std::int64_t lane = 0; lane < valid; ++lane) {
        const auto l = static_cast<size_t>(lane);
        s.codes.mutable_data_ptr<std::uint8_t>()[(first + lane) * s.columns + k] = code_byte(codes[l], s.grid);
        s.errors.mutable_data_ptr<float>()[(first + lane) * width + k - s.begin] = errors[l];
      }
    }
    for (std::int64_t lane = 0; lane < valid; ++lane) {
      s.squares[first + lane] += squares[static_cast<size_t>(lane)];
      for (std::int64_t k = 0; k < width; ++k) s.weights.mutable_data_ptr<float>()[(first + lane) * s.columns + s.begin + k] = tile[static_cast<size_t>(k * kLanes + lane)];
    }
  }
}

void expect_same_sweep(Sweep s) {
  const at::Tensor w = there(s.weights), upper = there(s.upper), slot = there(s.slot), codes = there(s.codes), squares = there(s.squares), scales = there(s.scales),
                   zeros = there(s.zeros), errors = unwritten(s.errors.sizes(), at::kFloat);
  const miq_column_block block{data<float>(w), s.rows, s.columns, s.begin, s.end, data<float>(upper), data<std::uint8_t>(codes), data<float>(errors), data<float>(squares),
                               data<float>(scales), data<float>(zeros), s.scales.size(1), data<std::int32_t>(slot), s.fit_group, gpu_grid(s.grid), gpu_range(s.range)};
  expect_started(test::kernels().gptq_columns(&block, test::stream()));
  sweep_on_cpu(s);
  EXPECT_TRUE(same(codes, s.codes)) << "codes";
  EXPECT_TRUE(same(scales, s.scales)) << "scales";
  EXPECT_TRUE(same(zeros, s.zeros)) << "zeros";
  EXPECT_TRUE(same(errors, s.errors)) << "errors";
  EXPECT_TRUE(same(w, s.weights)) << "weights";
  EXPECT_TRUE(near(squares, s.squares, 1e-5)) << "squares";
}

TEST_P(RoundingKernels, SweepWithGivenGroups) {
  NEEDS_FUSED_LOOPS();
  expect_same_sweep(make_sweep(grid_of(GetParam(), 32), Range(), 9, 200, 64, 192, 0, /*shuffled=*/false));
  expect_same_sweep(make_sweep(grid_of(GetParam(), 20), Range(), 9, 150, 96, 150, 0, /*shuffled=*/true));
  expect_same_sweep(make_sweep(grid_of(GetParam(), 0), Range(), 9, 50, 0, 1, 0, false));
}

TEST_P(RoundingKernels, SweepThatFitsItsGroups) {
  NEEDS_FUSED_LOOPS();
  expect_same_sweep(make_sweep(grid_of(GetParam(), 32), Range(), 9, 200, 64, 192, 32, false));
  expect_same_sweep(make_sweep(grid_of(GetParam(), 128), mse(), 8, 300, 128, 256, 128, false));
  expect_same_sweep(make_sweep(grid_of(GetParam(), 48), mse(), 8, 230, 144, 230, 48, false));  // the last one is ragged
  expect_same_sweep(make_sweep(grid_of(GetParam(), 64), mse(), 8, 200, 96, 192, 64, false));   // the first one began before
}

INSTANTIATE_TEST_SUITE_P(Grids, RoundingKernels, testing::ValuesIn(grid_cases()), [](const auto& info) { return name_of(info.param); });

TEST(ManyRows, AreSweptAsByTheCpu) {
  NEEDS_FUSED_LOOPS();
  const Grid grid = grid_of({GridType::integer, GridConvention::miq, 4, false, false, at::kHalf}, 128);
  expect_same_sweep(make_sweep(grid, mse(), 70, 256, 128, 256, 128, false));
  expect_same_sweep(make_sweep(grid, Range(), 70, 256, 0, 128, 0, true));
}

TEST(SubtractProducts, IsTheCpuToTheBit) {
  if (!__builtin_cpu_supports("fma")) GTEST_SKIP() << "this CPU has no fused multiply-adds";
  struct Size {
    std::int64_t rows, columns, depth, stride, offset;
  };
  // Whole tiles, ragged ones, rows that no vector load may touch, depths that no step divides.
  for (const Size size : {Size{128, 128, 128, 128, 0}, {130, 260, 128, 264, 4}, {37, 131, 128, 200, 1}, {5, 1, 13, 7, 3}, {200, 300, 16, 300, 0}, {1, 129, 1, 140, 2}, {64, 64, 8, 64, 0}}) {
    at::manual_seed(size.rows + size.columns);
    const at::Tensor whole = at::randn({size.rows, size.stride}), errors = at::randn({size.rows, size.depth}), upper = at::randn({size.depth, size.stride});
    const at::Tensor target = there(whole), e = there(errors), u = there(upper);
    const std::int64_t columns = std::min(size.columns, size.stride - size.offset);
    expect_started(test::kernels().subtract_products(data<float>(target) + size.offset, size.stride, size.rows, columns, data<float>(e), size.depth, data<float>(u) + size.offset,
                                                     size.stride, test::stream()));
    at::Tensor expected = whole.clone();
    float* const out = expected.mutable_data_ptr<float>();
    for (std::int64_t first = 0; first < size.rows; first += kLanes) {
      std::vector<float> tile(static_cast<size_t>(columns * kLanes)), turned(static_cast<size_t>(size.depth * kLanes));
      load_tile(out, size.rows, size.stride, first, size.offset, size.offset + columns, tile.data());
      load_tile(errors.const_data_ptr<float>(), size.rows, size.depth, first, 0, size.depth, turned.data());
      // In two pieces of depth: where columns are cut changes nothing.
      const std::int64_t half = size.depth / 2;
      const float* const from = upper.const_data_ptr<float>() + size.offset;
      subtract_products(tile.data(), columns, turned.data(), half, from, size.stride);
      subtract_products(tile.data(), columns, turned.data() + half * kLanes, size.depth - half, from + half * size.stride, size.stride);
      for (std::int64_t lane = 0; lane < std::min(kLanes, size.rows - first); ++lane)
        for (std::int64_t c = 0; c < columns; ++c) out[(first + lane) * size.stride + size.offset + c] = tile[static_cast<size_t>(c * kLanes + lane)];
    }
    EXPECT_TRUE(same(target, expected)) << size.rows << " x " << columns << " x " << size.depth;
  }
}

TEST(RefusedRounding, NamesItsReason) {
  const Grid grid = grid_of({GridType::integer, GridConvention::miq, 4, false, false, at::kFloat}, 32);
  const miq_column_block wide{nullptr, 1, 200, 0, 129, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 1, nullptr, 0, gpu_grid(grid), {}};
  EXPECT_NE(test::kernels().gptq_columns(&wide, test::stream()), 0);
  const miq_nearest mismatched{nullptr, 1, 64, 32, 3, nullptr, nullptr, nullptr, nullptr, gpu_grid(grid)};
  const int code = test::kernels().round_nearest(&mismatched, test::stream());
  EXPECT_NE(code, 0);
  EXPECT_STRNE(test::kernels().error_text(code), test::kernels().error_text(0));
}

}  // namespace
}  // namespace miq::quantizer
