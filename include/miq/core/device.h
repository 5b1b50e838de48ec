// Devices by name, and what this machine computes fast.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace miq {

/// "cpu", "cuda", "cuda:1" or "auto" ("cuda" if there is a GPU, else the CPU). "cuda" is the first GPU, of
/// several ranks (core/process_group.h) the one of local_rank(). ROCm builds of LibTorch answer to "cuda". @throws Error{config} for another name, Error{unsupported} when this
/// LibTorch or machine has no such device.
at::Device parse_device(const std::string& name);

/// All that work of `name` may be shared out to, parse_device(name) first: every GPU for "cuda" and "auto" in a single process, else that one device.
/// @throws as parse_device.
std::vector<at::Device> parse_devices(const std::string& name);

/// How many GPUs this LibTorch sees, of whatever vendor; 0 without one.
int gpu_count();
bool is_built_for_gpus();  ///< this LibTorch is, whether or not it sees one

/// While it lives, products of float32 on GPUs are made in TF32 (10 bits of the mantissa, several times the rate) where the card has it, or, with
/// allowed = false, surely not. One at a time; CPUs are left as they are.
class Tf32Products {
 public:
  Tf32Products(const at::Device& device, bool allowed);
  ~Tf32Products();
  Tf32Products(const Tf32Products&) = delete;
  Tf32Products& operator=(const Tf32Products&) = delete;

 private:
  std::string before_;  // empty: nothing to restore
};

/// Whether the CPU has a feature, by Linux's name for it ("avx512_bf16"); false where the system does not tell.
bool has_cpu_feature(const std::string& flag);

/// Whether matrix products in bfloat16 run on dedicated instructions here (AVX512_BF16 or AMX on a
/// CPU; any GPU), so that they beat float32 by several times.
bool has_fast_bfloat16(const at::Device& device);

/// Whether float16 products are at least as fast as float32 ones (GPUs; CPUs with AMX-FP16).
bool has_fast_float16(const at::Device& device);

/// "cpu (2 threads, AVX512)", "cuda:0 (NVIDIA H100 80GB HBM3, 79.1 GiB)": for logs and results.json.
std::string describe(const at::Device& device);

}  // namespace miq
