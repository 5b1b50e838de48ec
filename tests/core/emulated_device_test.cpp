// The device that stands in for a GPU finds what a GPU would, and device plumbing that is the same for all of them.
#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gmock/gmock.h>

#include "miq/core/device.h"
#include "miq/core/device_memory.h"
#include "miq/core/error.h"
#include "support/emulated_device.h"
#include "support/test_device.h"

namespace miq {
namespace {

using testing::HasSubstr;

class EmulatedDevice : public testing::Test {
 protected:
  void SetUp() override {
    if (test::device().type() != c10::DeviceType::PrivateUse1) GTEST_SKIP() << "MIQ_TEST_DEVICE is not emulated";
  }
  static at::Tensor there(const at::Tensor& t, int index = 0) { return t.to(test::emulated::device(index)); }
  template <class Act>
  static std::string failure(const Act& act) {
    try {
      act();
    } catch (const c10::Error& error) {
      return error.what_without_backtrace();
    }
    ADD_FAILURE() << "nothing failed";
    return "";
  }
};

TEST_F(EmulatedDevice, ComputesAsTheCpuDoes) {
  const at::Tensor a = at::randn({5, 7}), b = at::randn({7, 3});
  EXPECT_TRUE(at::equal(there(a).mm(there(b)).cpu(), a.mm(b)));
  EXPECT_TRUE(at::equal((there(a) + 1).narrow(1, 2, 3).t().contiguous().cpu(), (a + 1).narrow(1, 2, 3).t().contiguous()));
  at::Tensor x = there(a);
  at::Tensor row = x[2];  // a view is written through
  row.mul_(3).narrow(0, 0, 2).fill_(at::scalar_tensor(4.0));
  EXPECT_TRUE(at::equal(x.select(0, 2).narrow(0, 2, 5).cpu(), a[2].narrow(0, 2, 5) * 3));
  EXPECT_EQ(x[2][1].item<float>(), 4);
  EXPECT_TRUE(at::equal(there(a).index({at::tensor({1, 4})}).cpu(), a.index({at::tensor({1, 4})})));  // indices may lie on the CPU
  EXPECT_TRUE(at::equal(std::get<1>(there(a).sort(1)).cpu(), std::get<1>(a.sort(1))));
  EXPECT_TRUE(at::equal(there(a).view({7, 5}).unflatten(0, {7, 1}).cpu(), a.view({7, 5}).unflatten(0, {7, 1})));
  EXPECT_TRUE(at::equal(at::addmm(there(at::ones({5, 3})), there(a), there(b)).cpu(), at::addmm(at::ones({5, 3}), a, b)));
  EXPECT_TRUE(at::equal(there(a).gt(0).nonzero().cpu(), a.gt(0).nonzero()));
  EXPECT_TRUE(at::equal(there(a).to(test::emulated::device(1)).cpu(), a));
}

TEST_F(EmulatedDevice, TensorsOfTwoDevicesDoNotMeet) {
  const at::Tensor a = at::ones({4}), x = there(a);
  EXPECT_THAT(failure([&] { (void)(x + a); }), HasSubstr("device"));
  EXPECT_THAT(failure([&] { (void)(x + there(a, 1)); }), HasSubstr("device"));
  EXPECT_THAT(failure([&] { (void)x.index_select(0, at::tensor({1})); }), HasSubstr("lies on the CPU"));
  EXPECT_THAT(failure([&] { (void)at::cat({x, a}); }), HasSubstr("lies on the CPU"));
  EXPECT_THAT(failure([&] { at::randn_out(*std::make_unique<at::Tensor>(x.clone()), {4}, at::globalContext().defaultGenerator(at::kCPU)); }), HasSubstr("generator"));
  EXPECT_EQ((x + at::scalar_tensor(2.0)).sum().item<float>(), 12);  // a number may come from the CPU
}

TEST_F(EmulatedDevice, TheHostMayNotTouchItsMemory) {
  testing::FLAGS_gtest_death_test_style = "fast";
  const at::Tensor x = there(at::ones({4}));
  EXPECT_DEATH({ [[maybe_unused]] volatile float value = *x.const_data_ptr<float>(); }, "the host touched memory of the emulated device");
  const test::emulated::HostAccess access;
  EXPECT_EQ(*x.const_data_ptr<float>(), 1);
}

TEST_F(EmulatedDevice, ACopyIsDoneWhenItWasWaitedFor) {
  const at::Device device = test::emulated::device();
  const c10::impl::VirtualGuardImpl streams(device.type());
  const c10::Stream side = streams.getStreamFromGlobalPool(device);
  const at::Tensor host = host_tensor({1000}, at::kFloat).fill_(3);
  ASSERT_TRUE(host.is_pinned());
  at::Tensor x;
  c10::Event copied(device.type());
  {
    const c10::StreamGuard guard(side);
    x = host.to(device, /*non_blocking=*/true);
    copied.record(side);
  }
  EXPECT_TRUE(x.sum().isnan().item<bool>()) << "what nobody wrote is NaN";
  copied.block(streams.getStream(device));
  EXPECT_EQ(x.sum().item<float>(), 3000);
  at::Tensor back = host_tensor({1000}, at::kFloat).fill_(0);
  back.copy_(x, /*non_blocking=*/true);
  EXPECT_EQ(back.sum().item<float>(), 0);
  streams.synchronizeStream(streams.getStream(device));
  EXPECT_EQ(back.sum().item<float>(), 3000);
}

TEST_F(EmulatedDevice, MemoryIsCountedAndEnds) {
  const at::Device device = test::emulated::device();
  reset_peak_device_bytes(device);
  const std::int64_t before = test::emulated::device_memory().now;
  { const at::Tensor x = at::empty({1 << 20}, at::TensorOptions(at::kByte).device(device)); }
  EXPECT_EQ(test::emulated::device_memory().now, before);
  EXPECT_EQ(peak_device_bytes(device), before + (1 << 20));
  const test::emulated::Limit limit(before + (1 << 20));
  EXPECT_EQ(device_memory(device).free, 1 << 20);
  EXPECT_THROW((void)at::empty({(1 << 20) + 1}, at::TensorOptions(at::kByte).device(device)), c10::OutOfMemoryError);
  EXPECT_NO_THROW((void)at::empty({1 << 20}, at::TensorOptions(at::kByte).device(device)));
}

TEST_F(EmulatedDevice, IsWhatCudaMeans) {
  EXPECT_EQ(parse_device("cuda"), test::emulated::device(0));
  EXPECT_EQ(parse_device("auto"), test::emulated::device(0));
  EXPECT_EQ(parse_device("cuda:1"), test::emulated::device(1));
  EXPECT_EQ(parse_devices("cuda").size(), 2u);
  EXPECT_EQ(parse_devices("cuda:1"), std::vector<at::Device>{test::emulated::device(1)});
  EXPECT_EQ(parse_devices("cpu"), std::vector<at::Device>{at::kCPU});
  EXPECT_EQ(describe(parse_device("cuda")), "emulated:0 (8.0 GiB)");
  try {
    parse_device("cuda:2");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported);
    EXPECT_THAT(error.what(), HasSubstr("there are only 2 GPUs"));
  }
}

TEST_F(EmulatedDevice, Tf32IsAllowedForAWhile) {
  const auto before = at::globalContext().float32MatmulPrecision();
  {
    const Tf32Products products(parse_device("cuda"), true);
    EXPECT_EQ(at::globalContext().float32MatmulPrecision(), at::Float32MatmulPrecision::HIGH);
  }
  EXPECT_EQ(at::globalContext().float32MatmulPrecision(), before);
  const Tf32Products of_cpu(at::kCPU, true);
  EXPECT_EQ(at::globalContext().float32MatmulPrecision(), before);
}

}  // namespace
}  // namespace miq
