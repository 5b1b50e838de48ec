// Decodes with packed weights: MODEL BITS GROUP HEAD_BITS TOKENS DTYPE -> a line of JSON with tokens per second and memory.
// Weights are rounded to nearest with float16 scales, as in llama.cpp's Q4_0; HEAD_BITS 0 leaves the head as it is.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <malloc.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <numeric>

#include "miq/core/dtype.h"
#include "miq/core/vectorised.h"
#include "miq/model/language_model.h"
#include "miq/quantizer/linear_problem.h"
#include "quantized_kernel.h"

namespace {

using namespace miq;

// A line of /proc/self/status in bytes: RssAnon is what no file stands behind.
std::int64_t memory(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(key + ":", 0) == 0) return std::stoll(line.substr(key.size() + 1)) * 1024;
  return 0;
}

MIQ_VECTORISED std::uint64_t sum_words(const std::uint64_t* words, std::int64_t count) {
  std::uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += words[i];
  return sum;
}

// Bytes a second that all threads read together from a buffer larger than the caches, and for each second of processor
// time, which a machine shared with others distorts less; the best of a few times.
struct ReadRate {
  double wall = 0, cpu = 0;
};
ReadRate read_rate() {
  const at::Tensor buffer = at::ones({std::int64_t{24} << 20}, at::kLong);
  const auto* const words = reinterpret_cast<const std::uint64_t*>(buffer.const_data_ptr<std::int64_t>());
  std::atomic<std::uint64_t> total = 0;
  ReadRate best;
  for (int i = 0; i < 20; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    const std::clock_t cpu_begin = std::clock();
    at::parallel_for(0, buffer.numel(), 1 << 20, [&](std::int64_t from, std::int64_t to) { total += sum_words(words + from, to - from); });
    const auto bytes = static_cast<double>(buffer.nbytes());
    best.cpu = std::max(best.cpu, bytes * CLOCKS_PER_SEC / static_cast<double>(std::clock() - cpu_begin));
    best.wall = std::max(best.wall, bytes / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return total > 0 ? best : ReadRate();
}

std::shared_ptr<const model::LinearKernel> packed(const at::Tensor& weight_OI, int bits, std::int64_t group) {
  quantizer::Grid grid;
  grid.bits = bits;
  grid.symmetric = true;
  grid.group_size = group;
  const at::Tensor weight = weight_OI.to(at::kFloat);
  quantizer::GridParams params = quantizer::fit_grid(weight, grid, {});
  params.scales_OG = params.scales_OG.to(at::kHalf).to(at::kFloat);
  auto linear = std::make_shared<quantizer::QuantizedLinear>();
  linear->grid = grid;
  linear->codes_OI = quantizer::nearest_codes(weight, grid, params);
  linear->params = params;
  return executor::make_quantized_kernel(linear);
}

void run(const char* const* arguments) {
  const c10::InferenceMode inference;
  const int bits = std::atoi(arguments[1]), head_bits = std::atoi(arguments[3]);
  const std::int64_t group = std::atoll(arguments[2]), tokens = std::atoll(arguments[4]);
  model::LanguageModel model = model::LanguageModel::open(arguments[0], "auto", dtype_from_name(arguments[5]).value(), at::kCPU);
  const std::int64_t before = memory("RssAnon");
  std::int64_t bytes = 0;
  std::vector<model::Block> blocks;
  for (std::int64_t l = 0; l < model.architecture().num_layers; ++l) {
    model::Block block = model.load_block(l, /*convert=*/false);
    for (model::Linear* const linear : block.linears()) {
      linear->kernel = packed(linear->weight_OI, bits, group);
      linear->weight_OI = at::Tensor();
      bytes += linear->kernel->bytes();
    }
    model.release_block(l);
    blocks.push_back(std::move(block));
  }
  model.replace_blocks(std::move(blocks));
  std::int64_t head_bytes = static_cast<std::int64_t>(model.head_VH().nbytes());
  if (head_bits > 0) {
    const auto head = packed(model.function_head_VH(), head_bits, 32);
    model.replace_head(head);
    bytes += head->bytes();
    head_bytes = head->bytes();
  }
  malloc_trim(0);
  const std::int64_t held = memory("RssAnon");
  model::KvCache cache(model.architecture().num_layers);
  at::Tensor input = at::arange(1, 17, at::kLong).unsqueeze(0);
  std::vector<double> seconds, cpu;
  for (std::int64_t t = 0; t <= tokens; ++t) {
    const auto begin = std::chrono::steady_clock::now();
    const std::clock_t cpu_begin = std::clock();
    input = model.forward(input, &cache, /*last_only=*/true).argmax(-1);
    if (t == 0) continue;  // the prompt
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    cpu.push_back(static_cast<double>(std::clock() - cpu_begin) / CLOCKS_PER_SEC);
  }
  const std::int64_t decoding = memory("RssAnon");
  const auto median = [](std::vector<double>& values) {
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
  };
  const double sum = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  const ReadRate rate = read_rate();
  const double middle = median(seconds), cpu_middle = median(cpu);
  const std::int64_t read = bytes + (head_bits > 0 ? 0 : head_bytes);
  std::printf("{\"tokens_per_second\": %.1f, \"median_ms\": %.3f, \"median_cpu_ms\": %.3f, \"packed_bytes\": %ld, \"read_bytes\": %ld, "
              "\"anonymous_bytes\": %ld, \"decoding_bytes\": %ld, \"threads\": %d, \"read_gbs\": %.2f, \"share_of_bandwidth\": %.3f, "
              "\"read_gbs_cpu\": %.2f, \"share_of_bandwidth_cpu\": %.3f}\n",
              static_cast<double>(tokens) / sum, 1e3 * middle, 1e3 * cpu_middle, bytes, read, held - before, decoding - before, at::get_num_threads(),
              rate.wall * 1e-9, static_cast<double>(read) / rate.wall / middle, rate.cpu * 1e-9, static_cast<double>(read) / rate.cpu / cpu_middle);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 7) {
    std::cerr << "usage: bench_decode MODEL BITS GROUP HEAD_BITS TOKENS DTYPE\n";
    return 2;
  }
  run(arguments + 1);
}
