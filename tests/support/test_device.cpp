#include "support/test_device.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "miq/core/device.h"
#include "miq/core/error.h"
#include "support/emulated_device.h"

namespace miq::test {
namespace {

std::string wanted() {
  const char* const name = std::getenv("MIQ_TEST_DEVICE");
  return name == nullptr ? "cpu" : name;
}

// Before any test: a device that is not there is told once, and loudly.
class DeviceIsThere : public testing::Environment {
  void SetUp() override {
    try {
      device();
    } catch (const Error& error) {
      if (wanted() == "cuda" && error.kind() == ErrorKind::unsupported) GTEST_SKIP() << "SKIPPED: NOTHING WAS TESTED ON A GPU: " << error.what();
      FAIL() << error.what();
    }
  }
};
[[maybe_unused]] testing::Environment* const environment = testing::AddGlobalTestEnvironment(new DeviceIsThere);

}  // namespace

at::Device device() {
  if (wanted() == "emulated") {
    emulated::install();
    return emulated::device();
  }
  return parse_device(wanted());
}

at::Tensor on_device(const at::Tensor& tensor) { return tensor.defined() ? tensor.to(device()) : tensor; }

}  // namespace miq::test
