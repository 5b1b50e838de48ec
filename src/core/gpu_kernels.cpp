#include "miq/core/gpu_kernels.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include "gpu/kernels.h"
#include "miq/core/dtype.h"
#include "miq/core/error.h"

namespace miq {

const miq_gpu_kernels* gpu_kernels(const at::Device& device) { return device.is_cpu() ? nullptr : miq_gpu(); }

void* native_stream(const at::Device& device) { return c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle(); }

void check_launch(int code, const char* name) {
  if (code != 0) throw Error(ErrorKind::internal, std::string("the GPU kernel ") + name + " did not start: " + miq_gpu()->error_text(code));
}

int gpu_store(at::ScalarType type) {
  switch (type) {
    case at::kByte: return MIQ_UINT8;
    case at::kHalf: return MIQ_FLOAT16;
    case at::kBFloat16: return MIQ_BFLOAT16;
    case at::kFloat: return MIQ_FLOAT32;
    default: throw Error(ErrorKind::internal, std::string("no GPU kernel takes ") + dtype_name(type));
  }
}

}  // namespace miq
