/* The fused kernels for GPUs, as a plain C interface: neither nvcc nor hipcc sees LibTorch, and no caller sees a vendor.

   Every pointer inside a description is a device pointer, matrices are row-major, `stream` is the native stream that the
   work is queued on. A function returns 0 when its work was queued, else a code that error_text() explains. Arithmetic is
   float32 in the order of the CPU kernels, with fused multiply-adds where those have them, so that both find the same codes. */
#ifndef MIQ_GPU_KERNELS_H_
#define MIQ_GPU_KERNELS_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How numbers are stored. MIQ_CONSTANT: one value for all. */
enum miq_store { MIQ_CONSTANT, MIQ_UINT8, MIQ_FLOAT16, MIQ_BFLOAT16, MIQ_FLOAT32 };

/* quantizer::Grid, without its granularity. The enums count as quantizer::GridType and quantizer::GridConvention do. */
typedef struct {
  int type;        /* 0 integer, 1 fp8_e4m3, 2 fp8_e5m2 */
  int bits;
  int convention;  /* 0 miq, 1 ist, 2 awq, 3 ct, 4 absmax, 5 spqr, 6 quip, 7 hqq */
  int symmetric;
  int real_zeros;
  int scale_type;  /* MIQ_FLOAT16, MIQ_BFLOAT16 or MIQ_FLOAT32: what scales are numbers of */
} miq_grid;

/* quantizer::Range, of the kinds that are fitted here. */
typedef struct {
  int kind;        /* 0 min_max, 1 mse */
  float norm;      /* mse: sum |error|^norm */
  int grid;        /* mse: the interval shrinks by 1 / grid a step */
  int steps;       /* mse: how many are tried */
  int adjacent_zeros;
} miq_range;

/* One launch of GPTQ's column loop: the columns [begin, end) of a sweep, at most 128. Row by row, column by column: the code
   nearest to the weight, its error (w - q) / U[k][k], and the error's part of the columns behind it up to `end`. */
typedef struct {
  float* weights;         /* [rows][columns] in sweep order, changed in [begin, end) */
  int64_t rows, columns;
  int64_t begin, end;
  const float* upper;     /* U [columns][columns] */
  uint8_t* codes;         /* [rows][columns], in sweep order */
  float* errors;          /* [rows][end - begin] */
  float* squares;         /* [rows], += sum of squared errors */
  float* scales;          /* [rows][groups] */
  float* zeros;
  int64_t groups;
  const int32_t* slot;    /* [columns] the group of each position */
  int64_t fit_group;      /* 0: scales and zeros are given. Else groups of so many columns that begin in [begin, end) lie in it whole (the last
                             one may be ragged) and are fitted when the loop reaches them; one that began before is given. */
  miq_grid grid;
  miq_range range;
} miq_column_block;

/* Groups of `group` columns side by side from column `begin` to `end`, the last one ragged: group i's scale goes to
   scales[row * stride + first_group + i]. */
typedef struct {
  const float* weights;   /* [rows][columns] */
  int64_t rows, columns;
  int64_t begin, end, group;
  const float* limits;    /* like scales: |w| is clipped there before the interval is taken (min_max only); or null */
  float* scales;
  float* zeros;
  int64_t stride, first_group;
  miq_grid grid;
  miq_range range;
} miq_group_fit;

/* The nearest codes and what they stand for, with given parameters; either output may be null. */
typedef struct {
  const float* weights;   /* [rows][columns] */
  int64_t rows, columns;
  int64_t group, groups;  /* column c belongs to group c / group */
  const float* scales;    /* [rows][groups] */
  const float* zeros;
  uint8_t* codes;         /* [rows][columns] */
  float* values;          /* [rows][columns], scale * (code - zero) */
  miq_grid grid;
} miq_nearest;

/* Activations quantized row by row while a model runs: what shares a scale is `group` columns of a row, which divides them. */
typedef struct {
  const void* x;          /* [rows][columns] */
  int type;               /* of x and values: MIQ_FLOAT16, MIQ_BFLOAT16, MIQ_FLOAT32 */
  int64_t rows, columns, group;
  int format;             /* 0 integer, 1 fp8_e4m3, 2 fp8_e5m2 */
  int bits, symmetric;
  void* values;           /* [rows][columns], scale * (code - zero); or null */
  void* codes;            /* int8 or fp8 bytes [rows][columns]; or null */
  float* scales;          /* [rows][columns / group]; or null */
  float* zeros;           /* likewise; of asymmetric ones */
} miq_activation;

/* Numbers of a packed matrix, [panels][groups][16]. */
typedef struct {
  int store;              /* enum miq_store */
  float value;            /* of MIQ_CONSTANT */
  const void* data;
} miq_parameters;

/* A matrix of packed codes, as quantizer/packed/layout.h lays them out. */
typedef struct miq_packed_matrix {
  int type;               /* 0 integer, 1 fp8_e4m3, 2 fp8_e5m2 */
  int bits;               /* 2 .. 8; 8 for fp8 */
  const uint8_t* codes;   /* [panels][chunks][64 * bits] */
  int64_t rows, columns;
  int64_t groups, group;  /* columns of a group, in the order of the codes */
  miq_parameters scales, zeros;
  const int32_t* order;   /* [columns] the column at each position, or null */
} miq_packed_matrix;

/* One token of a block's attention against its cache, query heads [heads][dim] of each text; dim is at most 256. */
typedef struct {
  int type;               /* of all but the tables: MIQ_FLOAT16, MIQ_BFLOAT16, MIQ_FLOAT32 */
  const void* query;      /* [batch][heads][dim], before rotation; rows query_stride apart */
  const void* key;        /* [batch][kv_heads][dim], likewise */
  const void* value;
  int64_t query_stride, key_stride, value_stride; /* elements from text to text */
  const float* cos;       /* [positions][half], or null: no rotation */
  const float* sin;
  int64_t half;           /* pairs that turn */
  int interleaved;
  void* keys;             /* [batch][kv_heads][capacity][dim]: the new key and value are put at `past` */
  void* values;
  int64_t capacity;
  const int64_t* past;    /* on the device, so that a recorded graph goes on: tokens held before this one */
  int64_t batch, heads, kv_heads, dim;
  int64_t window;         /* 0, or keys that a query sees */
  const float* slopes;    /* [heads] of ALiBi, or null */
  void* out;              /* [batch][heads][dim] */
  void* scratch;          /* decode_attention_scratch() bytes */
} miq_decode_attention;

typedef struct miq_gpu_kernels {
  const char* (*error_text)(int code);

  int (*gptq_columns)(const miq_column_block* block, void* stream);
  /* target[r][c] -= sum over b in rising order of errors[r][b] * upper[b][c], one fused multiply-add each. */
  int (*subtract_products)(float* target, int64_t target_stride, int64_t rows, int64_t columns, const float* errors, int64_t depth, const float* upper,
                           int64_t upper_stride, void* stream);
  int (*fit_groups)(const miq_group_fit* fit, void* stream);
  int (*round_nearest)(const miq_nearest* nearest, void* stream);
  int (*quantize_activation)(const miq_activation* activation, void* stream);

  /* codes [rows][columns], a byte each -> matrix->codes, whose padding becomes 0. */
  int (*pack_codes)(const uint8_t* codes, const miq_packed_matrix* matrix, uint8_t* packed, void* stream);
  /* And back: codes [rows][columns] bytes. */
  int (*unpack_codes)(const miq_packed_matrix* matrix, uint8_t* codes, void* stream);
  /* scale * (code - zero) in float32, then as `type`: [rows][columns]. */
  int (*unpack_values)(const miq_packed_matrix* matrix, int type, void* values, void* stream);
  /* Bytes of scratch that products with x [x_rows][columns] take. */
  size_t (*matvec_scratch)(int64_t columns, int64_t x_rows);
  /* y [x_rows][rows] = x [x_rows][columns] W^T for `count` integer matrices of one width, groups and order, 1 to 8 rows of x. x stands as whole numbers
     of 16 bits with a scale for each block of columns, as on the CPU (packed_linear.h). outputs: host array of device pointers. */
  int (*matvec)(const miq_packed_matrix* matrices, int count, const void* x, int64_t x_rows, int type, void* const* outputs, void* scratch, void* stream);

  /* x [rows][columns] float32 or `type` -> out `type`: x / sqrt(mean x^2 + eps), rounded, times weight (float32), as kernels::rms_norm. */
  int (*rms_norm)(const void* x, int x_type, const float* weight, int64_t rows, int64_t columns, float eps, int type, void* out, void* stream);
  /* silu(gate), rounded, times up: rows that lie gate_stride and up_stride elements apart -> out [rows][columns]. */
  int (*silu_mul)(const void* gate, int64_t gate_stride, const void* up, int64_t up_stride, int64_t rows, int64_t columns, int type, void* out, void* stream);
  /* hidden [count] float32 += x. */
  int (*add_to)(float* hidden, const void* x, int type, int64_t count, void* stream);
  /* Rotary positions: x [batch][heads][tokens][dim] with these strides (dim contiguous) -> out, contiguous. cos, sin [tokens][half]. */
  int (*rotate_pairs)(const void* x, int64_t stride_b, int64_t stride_n, int64_t stride_t, int64_t batch, int64_t heads, int64_t tokens, int64_t dim,
                      const float* cos, const float* sin, int64_t half, int interleaved, int type, void* out, void* stream);
  size_t (*decode_attention_scratch)(int64_t batch, int64_t heads, int64_t dim);
  int (*decode_attention)(const miq_decode_attention* attention, void* stream);
} miq_gpu_kernels;

/* The kernels of this build, or null in one without (MIQ_GPU=OFF). */
const miq_gpu_kernels* miq_gpu(void);
/* Others in their place, for tests. */
void miq_gpu_replace(const miq_gpu_kernels* kernels);

#ifdef __cplusplus
}
#endif

#endif
