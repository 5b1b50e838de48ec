// Devices by name, and what this machine computes fast.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace miq {

/// "cpu", "cuda", "cuda:1" or "auto" ("cuda" if there is a GPU, else the CPU). "cuda" is the first GPU, of
/// several ranks (core/process_group.h) the one of local_rank(). ROCm builds of LibTorch answer to "cuda". @throws Error{config} for another name, Error{unsupported} when this
/// LibTorch or machine has no such device.
at::Device parse_device(const std::string& name);

/// Whether the CPU has a feature, by Linux's name for it ("avx512_bf16"); false where the system does not tell.
bool has_cpu_feature(const std::string& flag);

/// Whether matrix products in bfloat16 run on dedicated instructions here (AVX512_BF16 or AMX on a
/// CPU; any GPU), so that they beat float32 by several times.
bool has_fast_bfloat16(const at::Device& device);

/// Whether float16 products are at least as fast as float32 ones (GPUs; CPUs with AMX-FP16).
bool has_fast_float16(const at::Device& device);

/// "cpu (2 threads, AVX512)" or the GPU's name: for logs and results.json.
std::string describe(const at::Device& device);

}  // namespace miq
