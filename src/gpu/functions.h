// The functions behind miq_gpu_kernels, where the same-named members are explained.
#pragma once

#include "kernels.h"

// As MIQ_GPU_SPACE where kernels are compiled (grid_math.h): a program may hold those of a card and the emulated ones.
#if defined(MIQ_GPU_EMULATED)
#define MIQ_GPU_BUILD emulated
#else
#define MIQ_GPU_BUILD device
#endif

namespace miq::gpu {
inline namespace MIQ_GPU_BUILD {

const char* describe_error(int code);
int gptq_columns(const miq_column_block* block, void* stream);
int subtract_products(float* target, int64_t target_stride, int64_t rows, int64_t columns, const float* errors, int64_t depth, const float* upper, int64_t upper_stride, void* stream);
int fit_groups(const miq_group_fit* fit, void* stream);
int round_nearest(const miq_nearest* nearest, void* stream);
int quantize_activation(const miq_activation* activation, void* stream);
int pack_codes(const uint8_t* codes, const miq_packed_matrix* matrix, uint8_t* packed, void* stream);
int unpack_codes(const miq_packed_matrix* matrix, uint8_t* codes, void* stream);
int unpack_values(const miq_packed_matrix* matrix, int type, void* values, void* stream);
size_t matvec_scratch(int64_t columns, int64_t x_rows);
int matvec(const miq_packed_matrix* matrices, int count, const void* x, int64_t x_rows, int type, void* const* outputs, void* scratch, void* stream);
int rms_norm(const void* x, int x_type, const float* weight, int64_t rows, int64_t columns, float eps, int type, void* out, void* stream);
int silu_mul(const void* gate, int64_t gate_stride, const void* up, int64_t up_stride, int64_t rows, int64_t columns, int type, void* out, void* stream);
int add_to(float* hidden, const void* x, int type, int64_t count, void* stream);
int rotate_pairs(const void* x, int64_t stride_b, int64_t stride_n, int64_t stride_t, int64_t batch, int64_t heads, int64_t tokens, int64_t dim, const float* cos, const float* sin,
                 int64_t half, int interleaved, int type, void* out, void* stream);
size_t decode_attention_scratch(int64_t batch, int64_t heads, int64_t dim);
int decode_attention(const miq_decode_attention* attention, void* stream);

}  // namespace MIQ_GPU_BUILD
}  // namespace miq::gpu
