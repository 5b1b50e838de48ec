// Runs on the emulation, or with MIQ_TEST_DEVICE on a card: exit status 77 says aloud that there is none.
#include <ATen/Parallel.h>

#include <cstdio>

#include "device.h"
#include "miq/core/error.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  at::set_num_threads(1);  // the CPU's part is small: more would wait for each other
  try {
    const at::Device device = miq::test::device();
    if (!device.is_cpu() && miq::gpu_kernels(device) == nullptr) {
      std::fprintf(stderr, "SKIPPED: this build has no fused kernels for a GPU (MIQ_GPU)\n");
      return 77;
    }
  } catch (const miq::Error& error) {
    std::fprintf(stderr, "SKIPPED: no GPU to run the fused kernels on: %s\n", error.what());
    return 77;
  }
  return RUN_ALL_TESTS();
}
