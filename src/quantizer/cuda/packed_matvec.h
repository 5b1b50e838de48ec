/* Products of packed codes (packed/layout.h) with a few rows of x on a CUDA device. A plain C interface, so that
   nvcc never sees LibTorch. All pointers but `matrix` and `input` themselves are device pointers. */
#ifndef MIQ_QUANTIZER_CUDA_PACKED_MATVEC_H_
#define MIQ_QUANTIZER_CUDA_PACKED_MATVEC_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum miq_store { MIQ_CONSTANT, MIQ_UINT8, MIQ_FLOAT16, MIQ_BFLOAT16, MIQ_FLOAT32 };

typedef struct {
  int store;        /* enum miq_store */
  float value;      /* of MIQ_CONSTANT */
  const void* data; /* [panel][group][16] */
} miq_parameters;

typedef struct {
  int bits;             /* 2 .. 8, integer codes */
  const uint8_t* codes; /* [panels][chunks][64 * bits] */
  int64_t rows, columns;
  int64_t groups, chunks_per_group, chunks_per_block;
  miq_parameters scales, zeros;
} miq_packed_matrix;

/* Bytes of scratch that x [rows, columns] takes as whole numbers. */
size_t miq_cuda_scratch_bytes(const miq_packed_matrix* matrix, int64_t x_rows);

/* y [x_rows, rows] = x [x_rows, columns] W^T. x and y are float16, bfloat16 or float32 (enum miq_store). `stream`: a
   cudaStream_t. Returns a cudaError_t, 0 when all was started. */
int miq_cuda_packed_matvec(const miq_packed_matrix* matrix, const void* x, int64_t x_rows, int type, void* y, void* scratch, void* stream);

#ifdef __cplusplus
}
#endif

#endif
