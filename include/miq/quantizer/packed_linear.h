// A quantized linear in the memory that its bits take, and products from there.
#pragma once

#include <vector>

#include "miq/quantizer/quantized_linear.h"

struct miq_packed_matrix;

namespace miq::quantizer {

/// Instruction sets of the products for few rows of x, in rising order.
enum class Simd { portable, avx2, avx512 };
/// The best that this CPU has, up to the limit.
Simd simd();
/// No better one from here on: for tests and benchmarks.
void limit_simd(Simd limit);

/// Codes at their real width, scales in the smallest of float16, bfloat16 and float32 that holds them all
/// exactly, zeros in a byte where they are whole. Nothing is lost: unpack() gives back what was packed.
///
/// Up to 8 rows of x are multiplied with the packed codes. There x stands as whole numbers of 16 bits with
/// one scale for each block of up to 128 columns: an error of 2^-16 of the block's largest value, finer
/// than float16. Other grids (groups that are no multiple of 32 columns) and many rows are unpacked
/// for LibTorch's product. On a GPU the same holds of a build with the fused kernels (MIQ_GPU); others unpack. Re-entrant.
class PackedLinear {
 public:
  explicit PackedLinear(const QuantizedLinear& linear);

  QuantizedLinear unpack() const;
  /// As quantizer::dequantize, to the bit.
  at::Tensor dequantize(at::ScalarType dtype) const;
  /// x [..., I] of any floating type -> [..., O]; many rows as quantizer::forward, to the bit.
  at::Tensor forward(const at::Tensor& x) const;
  /// The products of one x with several matrices: it is turned to whole numbers once, threads start once.
  static std::vector<at::Tensor> forward_many(const std::vector<const PackedLinear*>& linears, const at::Tensor& x);

  std::int64_t out_features() const { return rows_; }
  std::int64_t in_features() const { return columns_; }
  std::int64_t bytes() const;  ///< of all its tensors
  /// Whether few rows of x are multiplied with the packed codes.
  bool has_kernel() const { return block_ > 0; }

 private:
  struct Kernel;
  void pack_params(const QuantizedLinear& linear);
  GridParams unpack_params() const;
  void narrow_outliers();
  bool multiplies(const at::Tensor& x) const;
  bool shares_input_with(const PackedLinear& other) const;
  at::Tensor before_product(const at::Tensor& x) const;
  void add_outliers(const Kernel& kernel, std::int64_t panel, const float* x, std::int64_t x_rows, std::int64_t x_stride, float* out) const;
  // Of a GPU, packed_device.cpp.
  bool is_on_device() const;
  miq_packed_matrix device_matrix() const;
  void pack_on_device(const at::Tensor& codes_OI);
  at::Tensor unpack_on_device() const;
  at::Tensor dequantize_on_device(at::ScalarType dtype) const;
  void move_to_device();
  bool multiplies_on_device(const at::Tensor& x) const;
  static std::vector<at::Tensor> multiply_on_device(const std::vector<const PackedLinear*>& linears, const at::Tensor& x, at::ScalarType dtype);
  static std::vector<at::Tensor> multiply(const std::vector<const PackedLinear*>& linears, const at::Tensor& x, at::ScalarType dtype);

  QuantizedLinear rest_;       // all but what is packed below; narrow outliers, codes of a second level packed
  std::int64_t rows_ = 0, columns_ = 0, group_ = 0, groups_ = 0;
  std::int64_t block_ = 0;     // columns of x that share a scale; 0: no kernel
  at::Device device_ = at::kCPU;
  at::Tensor codes_;
  at::Tensor scales_, zeros_;  // undefined: they follow from the second level
  at::Tensor order_;           // int32 [I], the column at each position, so that groups stand together
};

}  // namespace miq::quantizer
