// Products of packed codes with one row of x, beside the rate at which this machine reads memory. GB/s count
// the packed matrix; `Read` streams a buffer larger than the caches, on all threads, in the same run. Matrices
// are many copies of one, so that none waits in a cache.
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include <numeric>

#include "miq/core/vectorised.h"
#include "miq/quantizer/linear_problem.h"
#include "miq/quantizer/packed_linear.h"

namespace miq::quantizer {
namespace {

constexpr std::int64_t kBeyondCaches = std::int64_t{256} << 20;

void set_rate(benchmark::State& state, std::int64_t bytes) {
  state.counters["GB/s"] = benchmark::Counter(static_cast<double>(bytes) * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

MIQ_VECTORISED std::uint64_t sum_words(const std::uint64_t* words, std::int64_t count) {
  std::uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += words[i];
  return sum;
}

void BM_Read(benchmark::State& state) {
  const at::Tensor buffer = at::ones({kBeyondCaches / 8}, at::kLong);
  const auto* const words = reinterpret_cast<const std::uint64_t*>(buffer.const_data_ptr<std::int64_t>());
  for (auto _ : state)
    at::parallel_for(0, buffer.numel(), 1 << 20, [&](std::int64_t begin, std::int64_t end) { benchmark::DoNotOptimize(sum_words(words + begin, end - begin)); });
  set_rate(state, kBeyondCaches);
}
BENCHMARK(BM_Read)->UseRealTime()->Unit(benchmark::kMillisecond);

QuantizedLinear quantized(std::int64_t rows, std::int64_t columns, int bits, std::int64_t group) {
  at::manual_seed(1);
  QuantizedLinear linear;
  linear.grid.bits = bits;
  linear.grid.group_size = group;
  linear.grid.symmetric = true;
  linear.codes_OI = at::randint(1 << bits, {rows, columns}, at::kByte);
  linear.params.scales_OG = at::rand({rows, columns / group}).add(0.5).to(at::kHalf).to(at::kFloat);
  linear.params.zeros_OG = at::full({rows, columns / group}, 1 << (bits - 1), at::kFloat);
  return linear;
}

void BM_Packed(benchmark::State& state) {
  const std::int64_t rows = state.range(0), columns = state.range(1), group = state.range(3), x_rows = state.range(4);
  const auto bits = static_cast<int>(state.range(2));
  const QuantizedLinear linear = quantized(rows, columns, bits, group);
  std::vector<PackedLinear> copies;
  do copies.emplace_back(linear);
  while (static_cast<std::int64_t>(copies.size()) * copies.front().bytes() < kBeyondCaches / 2);
  const at::Tensor x = at::randn({x_rows, columns});
  const c10::InferenceMode inference;
  size_t next = 0;
  for (auto _ : state) benchmark::DoNotOptimize(copies[next++ % copies.size()].forward(x));
  set_rate(state, copies.front().bytes());
}
void shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"O", "I", "bits", "group", "rows"});
  for (const auto& [rows, columns] : {std::pair{576, 1536}, {1536, 576}, {2048, 8192}, {4096, 11008}})
    for (const int bits : {2, 3, 4, 8})
      for (const int group : {32, 64, 128})
        if (columns % group == 0) bench->Args({rows, columns, bits, group, 1});
  for (const int x_rows : {2, 4, 8}) bench->Args({4096, 11008, 4, 128, x_rows});
  bench->UseRealTime()->Unit(benchmark::kMicrosecond);
}
BENCHMARK(BM_Packed)->Apply(shapes);

}  // namespace
}  // namespace miq::quantizer

BENCHMARK_MAIN();
