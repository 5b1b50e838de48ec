// From tensors to the fused kernels of src/gpu, which know neither LibTorch nor are known by vendor here.
#pragma once

#include <ATen/core/Tensor.h>

struct miq_gpu_kernels;

namespace miq {

/// The fused kernels for what lies on `device`; null on a CPU and in builds without (MIQ_GPU=OFF), where LibTorch's own operators do.
const miq_gpu_kernels* gpu_kernels(const at::Device& device);

/// The native handle of the stream that work on `device`, a GPU, is queued on now. The device must be the current one (c10::DeviceGuard).
void* native_stream(const at::Device& device);

/// @throws Error{internal} with the vendor's words when a launch of the kernel `name` was refused.
void check_launch(int code, const char* name);

/// MIQ_FLOAT16, MIQ_BFLOAT16, MIQ_FLOAT32 or MIQ_UINT8 for a type. @throws Error{internal} for another.
int gpu_store(at::ScalarType type);

}  // namespace miq
