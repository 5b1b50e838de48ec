#include "device_kernels.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include "gpu/kernels.h"
#include "miq/core/gpu_kernels.h"
#include "miq/core/narrow_float.h"

namespace miq::model::kernels {
namespace {

// The kernels for a tensor's device, which is the current one as long as this lives.
struct Launch {
  explicit Launch(const at::Tensor& t) : guard(t.device()), gpu(*gpu_kernels(t.device())), stream(native_stream(t.device())) {}
  c10::DeviceGuard guard;
  const miq_gpu_kernels& gpu;
  void* stream;
};

// Rows of equal distance, which a slice of the columns of a matrix is.
at::Tensor as_rows(const at::Tensor& t) {
  const at::Tensor rows = t.dim() == 2 ? t : t.flatten(0, -2);
  return rows.stride(1) == 1 || rows.size(1) == 1 ? rows : rows.contiguous();
}

}  // namespace

bool has_device_kernels(const at::Tensor& t) { return !t.is_cpu() && is_float_type(t.scalar_type()) && t.numel() > 0 && gpu_kernels(t.device()) != nullptr; }

at::Tensor device_rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType dtype) {
  const Launch launch(x);
  const at::Tensor in = x.contiguous(), factors = weight.to(at::kFloat).contiguous();
  at::Tensor out = at::empty(x.sizes(), x.options().dtype(dtype));
  check_launch(launch.gpu.rms_norm(in.const_data_ptr(), gpu_store(in.scalar_type()), factors.const_data_ptr<float>(), in.numel() / in.size(-1), in.size(-1),
                                   static_cast<float>(eps), gpu_store(dtype), out.mutable_data_ptr(), launch.stream),
               "rms_norm");
  return out;
}

at::Tensor device_silu_mul(const at::Tensor& gate, const at::Tensor& up) {
  const Launch launch(gate);
  const at::Tensor g = as_rows(gate), u = as_rows(up);
  at::Tensor out = at::empty(gate.sizes(), gate.options());
  check_launch(launch.gpu.silu_mul(g.const_data_ptr(), g.stride(0), u.const_data_ptr(), u.stride(0), g.size(0), g.size(1), gpu_store(g.scalar_type()), out.mutable_data_ptr(),
                                   launch.stream),
               "silu_mul");
  return out;
}

void device_add_to(at::Tensor& hidden, const at::Tensor& x) {
  const Launch launch(hidden);
  const at::Tensor in = x.contiguous();
  check_launch(launch.gpu.add_to(hidden.mutable_data_ptr<float>(), in.const_data_ptr(), gpu_store(in.scalar_type()), in.numel(), launch.stream), "add_to");
}

at::Tensor device_rotate_pairs(const at::Tensor& x, const at::Tensor& cos_TD, const at::Tensor& sin_TD, bool interleaved) {
  const Launch launch(x);
  const at::Tensor cos = cos_TD.contiguous(), sin = sin_TD.contiguous();
  at::Tensor out = at::empty(x.sizes(), x.options());
  check_launch(launch.gpu.rotate_pairs(x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2), x.size(0), x.size(1), x.size(2), x.size(3), cos.const_data_ptr<float>(),
                                       sin.const_data_ptr<float>(), cos.size(1), interleaved, gpu_store(x.scalar_type()), out.mutable_data_ptr(), launch.stream),
               "rotate_pairs");
  return out;
}

at::Tensor device_decode_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& cos_PD, const at::Tensor& sin_PD,
                                   bool interleaved, at::Tensor& keys, at::Tensor& values, const at::Tensor& past, const AttentionMask& mask) {
  const Launch launch(query);
  const std::int64_t batch = query.size(0), heads = query.size(2), kv_heads = key.size(2), dim = query.size(3);
  // Heads of one text must follow one another.
  const auto dense = [&](const at::Tensor& t) { return t.stride(2) == dim && t.stride(3) == 1 ? t : t.contiguous(); };
  const at::Tensor q = dense(query), k = dense(key), v = dense(value);
  const at::Tensor slopes = mask.alibi_slopes_N.defined() ? mask.alibi_slopes_N.to(query.device()) : at::Tensor();
  at::Tensor out = at::empty({batch, 1, heads * dim}, query.options());
  const at::Tensor scratch = at::empty({static_cast<std::int64_t>(launch.gpu.decode_attention_scratch(batch, heads, dim))}, query.options().dtype(at::kByte));
  const miq_decode_attention call{gpu_store(query.scalar_type()),
                                  q.const_data_ptr(),
                                  k.const_data_ptr(),
                                  v.const_data_ptr(),
                                  q.stride(0),
                                  k.stride(0),
                                  v.stride(0),
                                  cos_PD.defined() ? cos_PD.const_data_ptr<float>() : nullptr,
                                  sin_PD.defined() ? sin_PD.const_data_ptr<float>() : nullptr,
                                  cos_PD.defined() ? cos_PD.size(1) : 0,
                                  interleaved,
                                  keys.mutable_data_ptr(),
                                  values.mutable_data_ptr(),
                                  keys.size(2),
                                  past.const_data_ptr<std::int64_t>(),
                                  batch,
                                  heads,
                                  kv_heads,
                                  dim,
                                  mask.window,
                                  slopes.defined() ? slopes.const_data_ptr<float>() : nullptr,
                                  out.mutable_data_ptr(),
                                  scratch.mutable_data_ptr()};
  check_launch(launch.gpu.decode_attention(&call, launch.stream), "decode_attention");
  return out;
}

}  // namespace miq::model::kernels
