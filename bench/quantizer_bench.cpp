// What the quantizer spends its time on, beside the rates of LibTorch's matrix products on the same
// machine. GFLOP/s count the useful operations: T n^2 for the statistics of T tokens (half a matrix
// product, by symmetry), n^3 for the factor (Cholesky and inverse: n^3 / 3 + n^3 / 3, shown as 2/3 n^3),
// m n^2 for error feedback.
#include <benchmark/benchmark.h>

#include "miq/quantizer/linear_problem.h"
#include "miq/quantizer/statistics.h"

namespace miq::quantizer {
namespace {

void set_rate(benchmark::State& state, double operations) {
  state.counters["GFLOP/s"] = benchmark::Counter(operations * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

at::Tensor normal(std::int64_t rows, std::int64_t columns) {
  at::manual_seed(1);
  return at::randn({rows, columns});
}

at::Tensor positive_definite(std::int64_t n) {
  const at::Tensor x = normal(n + 64, n) * at::rand({n}).add(0.1);
  return x.t().mm(x).mul_(2.0 / static_cast<double>(n));
}

// The yardsticks.
void BM_MatrixProduct(benchmark::State& state, at::ScalarType dtype) {
  const at::Tensor a = normal(2048, 2048).to(dtype), b = normal(2048, 2048).to(dtype);
  for (auto _ : state) benchmark::DoNotOptimize(at::mm(a, b));
  set_rate(state, 2.0 * 2048 * 2048 * 2048);
}
BENCHMARK_CAPTURE(BM_MatrixProduct, float32, at::kFloat)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_MatrixProduct, bfloat16, at::kBFloat16)->UseRealTime()->Unit(benchmark::kMillisecond);

void BM_Statistics(benchmark::State& state, at::ScalarType dtype) {
  const std::int64_t tokens = 4096, columns = state.range(0);
  const at::Tensor x = normal(tokens, columns).to(dtype);
  InputStatistics statistics(columns, at::kCPU, {.hessian = true});
  for (auto _ : state) statistics.add(x, 2);
  set_rate(state, static_cast<double>(tokens * columns * columns));
}
BENCHMARK_CAPTURE(BM_Statistics, bfloat16, at::kBFloat16)->Arg(576)->Arg(1536)->Arg(4096)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Statistics, float32, at::kFloat)->Arg(576)->Arg(1536)->Arg(4096)->UseRealTime()->Unit(benchmark::kMillisecond);

void BM_Factor(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  const at::Tensor hessian = positive_definite(n);
  for (auto _ : state) {
    StageHessian stage(hessian, 1 << 20);
    benchmark::DoNotOptimize(stage.factor(Rounding{}, 128));
  }
  const auto size = static_cast<double>(n);
  set_rate(state, 2.0 / 3 * size * size * size);
}
BENCHMARK(BM_Factor)->Arg(576)->Arg(1536)->Arg(4096)->UseRealTime()->Unit(benchmark::kMillisecond);

// The whole of round_linear, without the factor, which the linears of a stage share.
void BM_Round(benchmark::State& state, const char* kind, RangeKind range_kind) {
  const std::int64_t rows = state.range(0), columns = state.range(1);
  StageHessian stage(positive_definite(columns), 1 << 20);
  const LinearProblem problem{"bench", normal(rows, columns), &stage};
  Grid grid;
  grid.granularity = Granularity::group;
  grid.group_size = state.range(2);
  Range range;
  range.kind = range_kind;
  Rounding rounding;
  rounding.kind = kind;
  stage.factor(rounding, grid.group_size);
  for (auto _ : state) benchmark::DoNotOptimize(round_linear(problem, grid, range, rounding));
  set_rate(state, static_cast<double>(rows * columns * columns));
}
void shapes(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t group : {64, 128})
    for (const auto& [rows, columns] : {std::pair{192, 576}, {576, 576}, {1536, 576}, {576, 1536}, {4096, 4096}})
      bench->Args({rows, columns, group});
  bench->UseRealTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(BM_Round, error_feedback, "error_feedback", RangeKind::min_max)->Apply(shapes);
BENCHMARK_CAPTURE(BM_Round, error_feedback_mse, "error_feedback", RangeKind::mse)->Args({1536, 576, 64})->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Round, nearest, "nearest", RangeKind::min_max)->Apply(shapes);
BENCHMARK_CAPTURE(BM_Round, nearest_mse, "nearest", RangeKind::mse)->Args({1536, 576, 64})->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace miq::quantizer

BENCHMARK_MAIN();
