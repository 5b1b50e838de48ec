// Where the tests of the fused kernels run: on the emulation (the host's memory), or on the device of MIQ_TEST_DEVICE.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "gpu/kernels.h"
#include "miq/core/device.h"
#include "miq/core/gpu_kernels.h"

extern "C" const miq_gpu_kernels miq_gpu_emulated_kernels;

namespace miq::test {

inline at::Device device() {
  const char* const name = std::getenv("MIQ_TEST_DEVICE");
  return name == nullptr ? at::Device(at::kCPU) : parse_device(name);
}

inline const miq_gpu_kernels& kernels() { return device().is_cpu() ? miq_gpu_emulated_kernels : *miq_gpu(); }
inline void* stream() { return device().is_cpu() ? nullptr : native_stream(device()); }

/// A copy there, so that a kernel never sees what the test compares with.
inline at::Tensor there(const at::Tensor& t) { return t.defined() ? t.to(device(), /*non_blocking=*/false, /*copy=*/true).contiguous() : t; }

/// Memory there for `sizes`, filled with what no kernel writes: NaN or 0xA5.
inline at::Tensor unwritten(at::IntArrayRef sizes, at::ScalarType type) {
  at::Tensor t = at::empty(sizes, at::TensorOptions().dtype(type).device(device()));
  if (t.numel() > 0) t.view(-1).view(at::kByte).fill_(type == at::kByte || type == at::kChar ? 0xA5 : 0xFF);
  return t;
}

template <class T>
T* data(const at::Tensor& t) {
  return t.defined() ? static_cast<T*>(t.data_ptr()) : nullptr;
}

inline void expect_started(int code) { ASSERT_EQ(code, 0) << kernels().error_text(code); }

/// The same bits, but that 0 may have either sign.
inline testing::AssertionResult same(const at::Tensor& found, const at::Tensor& expected) {
  const at::Tensor a = found.cpu(), b = expected.cpu();
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return testing::AssertionFailure() << "another shape or type";
  if (at::equal(a, b)) return testing::AssertionSuccess();
  const at::Tensor x = a.to(at::kDouble).flatten(), y = b.to(at::kDouble).flatten(), differs = (x != y).nonzero().flatten();
  const auto first = differs[0].item<std::int64_t>();
  return testing::AssertionFailure() << differs.numel() << " of " << x.numel() << " differ, first at " << first << ": " << x[first].item<double>() << " instead of "
                                     << y[first].item<double>();
}

/// Differences of at most `tolerance` times the largest expected value.
inline testing::AssertionResult near(const at::Tensor& found, const at::Tensor& expected, double tolerance) {
  const at::Tensor a = found.cpu().to(at::kDouble), b = expected.cpu().to(at::kDouble);
  if (a.sizes() != b.sizes()) return testing::AssertionFailure() << "another shape";
  const double largest = b.abs().max().item<double>(), difference = (a - b).abs().max().item<double>();
  if (difference <= tolerance * largest) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "differs by " << difference << " where the largest value is " << largest;
}

}  // namespace miq::test
