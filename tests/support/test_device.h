// The device that tests of the product's results run on.
#pragma once

#include <ATen/core/Tensor.h>

namespace miq::test {

/// By MIQ_TEST_DEVICE: "cpu" (the default); "cuda", the first GPU of this LibTorch (without one every test of the program is skipped); "emulated"
/// (emulated_device.h), which is what "cuda" means from then on.
at::Device device();

/// `tensor` there; undefined stays undefined.
at::Tensor on_device(const at::Tensor& tensor);

}  // namespace miq::test
