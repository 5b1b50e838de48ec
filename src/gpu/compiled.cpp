// The kernels as one table: those of this build, or in tests those of the emulation.
#include "functions.h"

#if defined(MIQ_GPU_EMULATED)
#define MIQ_TABLE miq_gpu_emulated_kernels
#else
#define MIQ_TABLE miq_gpu_compiled
#endif

extern "C" {
extern const miq_gpu_kernels MIQ_TABLE;
const miq_gpu_kernels MIQ_TABLE = {miq::gpu::describe_error,
                                   miq::gpu::gptq_columns,
                                   miq::gpu::subtract_products,
                                   miq::gpu::fit_groups,
                                   miq::gpu::round_nearest,
                                   miq::gpu::quantize_activation,
                                   miq::gpu::pack_codes,
                                   miq::gpu::unpack_codes,
                                   miq::gpu::unpack_values,
                                   miq::gpu::matvec_scratch,
                                   miq::gpu::matvec,
                                   miq::gpu::rms_norm,
                                   miq::gpu::silu_mul,
                                   miq::gpu::add_to,
                                   miq::gpu::rotate_pairs,
                                   miq::gpu::decode_attention_scratch,
                                   miq::gpu::decode_attention};
}
