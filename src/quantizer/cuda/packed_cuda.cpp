// PackedLinear's product on a CUDA device: tensors to the C interface of packed_matvec.cu.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../packed/codes.h"
#include "miq/quantizer/packed_linear.h"
#include "packed_matvec.h"

namespace miq::quantizer {
namespace {

int store_of(at::ScalarType type) {
  switch (type) {
    case at::kByte: return MIQ_UINT8;
    case at::kHalf: return MIQ_FLOAT16;
    case at::kBFloat16: return MIQ_BFLOAT16;
    default: return MIQ_FLOAT32;
  }
}

miq_parameters parameters_of(const at::Tensor& packed) {
  if (packed.dim() == 0) return {MIQ_CONSTANT, packed.item<float>(), nullptr};
  return {store_of(packed.scalar_type()), 0, packed.const_data_ptr()};
}

}  // namespace

void PackedLinear::move_to_device() {
  if (!device_.is_cuda()) return;
  codes_ = codes_.to(device_);
  for (at::Tensor* const t : {&scales_, &zeros_})
    if (t->defined() && t->dim() > 0) *t = t->to(device_);
}

bool PackedLinear::multiplies_on_device(const at::Tensor& x) const {
  return x.is_cuda() && codes_.is_cuda() && x.device() == codes_.device() && rest_.grid.is_integer() && !rest_.outliers.defined();
}

at::Tensor PackedLinear::multiply_on_device(const at::Tensor& x, at::ScalarType dtype) const {
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor source = x.to(dtype);
  if (order_.defined()) source = source.index_select(1, order_.to(x.device()));
  source = source.contiguous();
  const miq_packed_matrix matrix{rest_.grid.bits,
                                 codes_.const_data_ptr<std::uint8_t>(),
                                 rows_,
                                 columns_,
                                 groups_,
                                 (group_ + packed::kChunk - 1) / packed::kChunk,
                                 block_ / packed::kChunk,
                                 parameters_of(scales_),
                                 parameters_of(zeros_)};
  at::Tensor y = at::empty({source.size(0), rows_}, source.options());
  const at::Tensor scratch = at::empty({static_cast<std::int64_t>(miq_cuda_scratch_bytes(&matrix, source.size(0)))}, source.options().dtype(at::kByte));
  C10_CUDA_CHECK(static_cast<cudaError_t>(miq_cuda_packed_matvec(&matrix, source.const_data_ptr(), source.size(0), store_of(dtype), y.mutable_data_ptr(),
                                                                 scratch.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream().stream())));
  return y;
}

}  // namespace miq::quantizer
