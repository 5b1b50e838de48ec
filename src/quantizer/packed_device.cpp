// PackedLinear on a GPU: its tensors to the fused kernels.
#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include "gpu/kernels.h"
#include "miq/core/gpu_kernels.h"
#include "miq/quantizer/packed_linear.h"
#include "packed/codes.h"

namespace miq::quantizer {
namespace {

miq_parameters parameters_of(const at::Tensor& packed) {
  if (!packed.defined()) return {};  // they follow from a second level, or are not packed yet
  if (packed.dim() == 0) return {MIQ_CONSTANT, packed.item<float>(), nullptr};
  return {gpu_store(packed.scalar_type()), 0, packed.const_data_ptr()};
}

}  // namespace

miq_packed_matrix PackedLinear::device_matrix() const {
  return {static_cast<int>(packed::code_type(rest_.grid)), packed::code_bits(rest_.grid), codes_.const_data_ptr<std::uint8_t>(), rows_, columns_, groups_, group_,
          parameters_of(scales_), parameters_of(zeros_), order_.defined() ? order_.const_data_ptr<std::int32_t>() : nullptr};
}

bool PackedLinear::is_on_device() const { return gpu_kernels(device_) != nullptr; }

void PackedLinear::pack_on_device(const at::Tensor& codes_OI) {
  const c10::DeviceGuard guard(device_);
  const std::int64_t panels = (rows_ + packed::kPanelRows - 1) / packed::kPanelRows, chunks = (columns_ + packed::kChunk - 1) / packed::kChunk;
  codes_ = at::empty({panels, chunks * 64 * packed::code_bits(rest_.grid)}, codes_OI.options().dtype(at::kByte));
  const at::Tensor source = codes_OI.to(at::kByte).contiguous();
  const miq_packed_matrix matrix = device_matrix();
  check_launch(gpu_kernels(device_)->pack_codes(source.const_data_ptr<std::uint8_t>(), &matrix, codes_.mutable_data_ptr<std::uint8_t>(), native_stream(device_)), "pack_codes");
}

at::Tensor PackedLinear::unpack_on_device() const {
  const c10::DeviceGuard guard(device_);
  at::Tensor codes = at::empty({rows_, columns_}, codes_.options());
  const miq_packed_matrix matrix = device_matrix();
  check_launch(gpu_kernels(device_)->unpack_codes(&matrix, codes.mutable_data_ptr<std::uint8_t>(), native_stream(device_)), "unpack_codes");
  return codes;
}

at::Tensor PackedLinear::dequantize_on_device(at::ScalarType dtype) const {
  const c10::DeviceGuard guard(device_);
  at::Tensor values = at::empty({rows_, columns_}, codes_.options().dtype(dtype));
  const miq_packed_matrix matrix = device_matrix();
  check_launch(gpu_kernels(device_)->unpack_values(&matrix, gpu_store(dtype), values.mutable_data_ptr(), native_stream(device_)), "unpack_values");
  return values;
}

void PackedLinear::move_to_device() {
  if (device_.is_cpu()) return;
  if (codes_.defined()) codes_ = codes_.to(device_);
  if (order_.defined()) order_ = order_.to(device_);
  ActivationParams& activation = rest_.activation_params;
  for (at::Tensor* const t : {&activation.scale, &activation.zero})
    if (t->defined()) *t = t->to(device_);
  for (at::Tensor* const t : {&scales_, &zeros_})
    if (t->defined() && t->dim() > 0) *t = t->to(device_);
}

bool PackedLinear::multiplies_on_device(const at::Tensor& x) const {
  return is_on_device() && x.device() == device_ && rest_.grid.is_integer() && !rest_.outliers.defined();
}

std::vector<at::Tensor> PackedLinear::multiply_on_device(const std::vector<const PackedLinear*>& linears, const at::Tensor& x, at::ScalarType dtype) {
  const c10::DeviceGuard guard(x.device());
  const miq_gpu_kernels& gpu = *gpu_kernels(x.device());
  const at::Tensor source = x.to(dtype).contiguous();
  std::vector<miq_packed_matrix> matrices;
  std::vector<at::Tensor> outputs;
  std::vector<void*> targets;
  for (const PackedLinear* const linear : linears) {
    matrices.push_back(linear->device_matrix());
    outputs.push_back(at::empty({source.size(0), linear->rows_}, source.options()));
    targets.push_back(outputs.back().mutable_data_ptr());
  }
  const at::Tensor scratch = at::empty({static_cast<std::int64_t>(gpu.matvec_scratch(source.size(1), source.size(0)))}, source.options().dtype(at::kByte));
  check_launch(gpu.matvec(matrices.data(), static_cast<int>(matrices.size()), source.const_data_ptr(), source.size(0), gpu_store(dtype), targets.data(),
                          scratch.mutable_data_ptr(), native_stream(x.device())),
               "matvec");
  return outputs;
}

}  // namespace miq::quantizer
