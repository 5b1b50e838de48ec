// The fused kernels, compiled for the CPU, as the emulated device's: while one runs, device pointers are the host's.
#include "gpu/kernels.h"
#include "support/emulated_device.h"
#include "support/emulated_memory.h"

extern "C" const miq_gpu_kernels miq_gpu_emulated_kernels;

namespace miq::test::emulated {
namespace {

template <auto Slot>
struct Open;
template <class R, class... A, R (*miq_gpu_kernels::*Slot)(A...)>
struct Open<Slot> {
  static R call(A... arguments) {
    const HostAccess access;
    return (miq_gpu_emulated_kernels.*Slot)(arguments...);
  }
};

}  // namespace

void install_kernels() {
  static miq_gpu_kernels table = miq_gpu_emulated_kernels;
  table.gptq_columns = &Open<&miq_gpu_kernels::gptq_columns>::call;
  table.subtract_products = &Open<&miq_gpu_kernels::subtract_products>::call;
  table.fit_groups = &Open<&miq_gpu_kernels::fit_groups>::call;
  table.round_nearest = &Open<&miq_gpu_kernels::round_nearest>::call;
  table.quantize_activation = &Open<&miq_gpu_kernels::quantize_activation>::call;
  table.pack_codes = &Open<&miq_gpu_kernels::pack_codes>::call;
  table.unpack_codes = &Open<&miq_gpu_kernels::unpack_codes>::call;
  table.unpack_values = &Open<&miq_gpu_kernels::unpack_values>::call;
  table.matvec_scratch = &Open<&miq_gpu_kernels::matvec_scratch>::call;
  table.matvec = &Open<&miq_gpu_kernels::matvec>::call;
  table.rms_norm = &Open<&miq_gpu_kernels::rms_norm>::call;
  table.silu_mul = &Open<&miq_gpu_kernels::silu_mul>::call;
  table.add_to = &Open<&miq_gpu_kernels::add_to>::call;
  table.rotate_pairs = &Open<&miq_gpu_kernels::rotate_pairs>::call;
  table.decode_attention_scratch = &Open<&miq_gpu_kernels::decode_attention_scratch>::call;
  table.decode_attention = &Open<&miq_gpu_kernels::decode_attention>::call;
  miq_gpu_replace(&table);
}

}  // namespace miq::test::emulated
