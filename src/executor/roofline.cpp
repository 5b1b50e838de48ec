#include "roofline.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <atomic>
#include <chrono>

#include "miq/core/vectorised.h"

namespace miq::executor {
namespace {

MIQ_VECTORISED std::uint64_t sum_words(const std::uint64_t* words, std::int64_t count) {
  std::uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < count; ++i) sum += words[i];
  return sum;
}

// The best rate of `tries` calls of run(), each of so much work.
template <class Run>
double best_rate(double work, int tries, const Run& run) {
  double best = 0;
  for (int i = 0; i < tries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::max(best, work / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

double matrix_rate(at::ScalarType dtype, const at::Device& device) {
  if (!device.is_cpu()) {  // one wait for many products
    constexpr std::int64_t kSize = 8192, kProducts = 10;
    const at::Tensor x = at::randn({kSize, kSize}, at::TensorOptions().device(device)).to(dtype);
    at::Tensor y = at::empty_like(x);
    return best_rate(kProducts * 2.0 * kSize * kSize * kSize, 4, [&] {
      for (std::int64_t i = 0; i < kProducts; ++i) at::mm_out(y, x, x);
      y[0][0].item<float>();
    });
  }
  const at::Tensor x = at::randn({1024, 1024}, at::TensorOptions().device(device)).to(dtype);
  return best_rate(2 * 1024.0 * 1024 * 1024, 6, [&] { at::linear(x, x).sum().item<float>(); });
}

double read_bandwidth(const at::Device& device) {
  if (!device.is_cpu()) {
    constexpr std::int64_t kBytes = std::int64_t{2} << 30, kPasses = 8;
    const at::Tensor buffer = at::ones({kBytes / 4}, at::TensorOptions(at::kFloat).device(device));
    at::Tensor sum = at::zeros({}, buffer.options());
    return best_rate(static_cast<double>(kBytes * kPasses), 4, [&] {
      for (std::int64_t i = 0; i < kPasses; ++i) sum.add_(buffer.sum());
      sum.item<float>();
    });
  }
  constexpr std::int64_t kBytes = std::int64_t{512} << 20;
  const at::Tensor buffer = at::ones({kBytes / 8}, at::TensorOptions(at::kLong).device(device));
  const auto* const words = reinterpret_cast<const std::uint64_t*>(buffer.const_data_ptr<std::int64_t>());
  std::atomic<std::uint64_t> sink{0};
  return best_rate(kBytes, 8, [&] {
    at::parallel_for(0, buffer.numel(), 1 << 16, [&](std::int64_t begin, std::int64_t end) { sink += sum_words(words + begin, end - begin); });
  });
}

}  // namespace miq::executor
