#include "miq/quantizer/packed_linear.h"

#include <ATen/ATen.h>

#include "packed/codes.h"

namespace miq::quantizer {
namespace {

using packed::kChunk;

// The columns group by group, int32, where every group is full (the last as full as the rest of the columns
// makes it); else undefined.
at::Tensor order_by_group(const at::Tensor& group_of_column, std::int64_t group) {
  const at::Tensor groups = group_of_column.to(at::kCPU), order = groups.argsort(/*stable=*/true);
  return at::equal(groups.index_select(0, order), at::arange(order.numel()).floor_divide(group)) ? order.to(at::kInt) : at::Tensor();
}

// Columns of x that share a scale: as many whole chunks as divide a group; 0 where groups do not consist of chunks.
std::int64_t block_columns(std::int64_t group, std::int64_t groups) {
  if (groups == 1) group = (group + kChunk - 1) / kChunk * kChunk;
  for (const std::int64_t block : {packed::kMaxBlock, packed::kMaxBlock / 2, kChunk})
    if (group % block == 0) return block;
  return 0;
}

bool is_paired(const at::Tensor& codes) { return codes.numel() % 2 == 0 && codes.max().item<int>() <= 15; }

// Codes of a second level, two in a byte: [O G / 2].
at::Tensor pair_codes(const at::Tensor& codes_OG) {
  const at::Tensor pairs = codes_OG.reshape({-1, 2});
  return pairs.select(1, 0).bitwise_or(pairs.select(1, 1) * 16);
}
at::Tensor part_codes(const at::Tensor& pairs, at::IntArrayRef sizes) {
  return at::stack({pairs.bitwise_and(15), pairs.bitwise_right_shift(4)}, 1).view(sizes);
}

at::Tensor values_of_second_level(const at::Tensor& codes_OG, const at::Tensor& scales_RG, const at::Tensor& zeros_RG) {
  const std::int64_t rows = codes_OG.size(0) / scales_RG.size(0);
  return scales_RG.repeat_interleave(rows, 0) * (codes_OG.to(at::kFloat) - zeros_RG.repeat_interleave(rows, 0));
}

std::int64_t bytes_of(std::initializer_list<at::Tensor> tensors) {
  std::int64_t bytes = 0;
  for (const at::Tensor& t : tensors)
    if (t.defined()) bytes += static_cast<std::int64_t>(t.nbytes());
  return bytes;
}

// Scales or zeros that follow from a second level are not held twice.
at::Tensor pack_half(const at::Tensor& values_OG, at::Tensor& codes_OG, at::Tensor& scales_RG, at::Tensor& zeros_RG) {
  if (!codes_OG.defined()) return packed::pack_parameters(values_OG);
  const bool follows = at::equal(values_of_second_level(codes_OG, scales_RG, zeros_RG), values_OG) && is_paired(codes_OG);
  scales_RG = packed::smallest_type(scales_RG);
  zeros_RG = packed::smallest_type(zeros_RG);
  if (!follows) return packed::pack_parameters(values_OG);
  codes_OG = pair_codes(codes_OG);
  return {};
}

}  // namespace

PackedLinear::PackedLinear(const QuantizedLinear& linear)
    : rest_(linear), rows_(linear.out_features()), columns_(linear.in_features()), device_(linear.codes_OI.device()) {
  rest_.codes_OI = rest_.params.scales_OG = rest_.params.zeros_OG = at::Tensor();
  groups_ = linear.params.scales_OG.size(1);
  group_ = groups_ == 1 ? columns_ : linear.grid.columns_per_group(columns_);
  if (linear.group_of_column.defined()) {
    order_ = order_by_group(linear.group_of_column, group_);
    if (order_.defined()) rest_.group_of_column = at::Tensor();
  }
  if (is_on_device()) {
    move_to_device();  // the order
    pack_on_device(linear.codes_OI);
  } else {
    codes_ = packed::pack_codes(linear.codes_OI, packed::code_type(linear.grid), packed::code_bits(linear.grid), order_);
  }
  pack_params(linear);
  narrow_outliers();
  move_to_device();
}

void PackedLinear::pack_params(const QuantizedLinear& linear) {
  BilevelParams& b = rest_.bilevel;
  scales_ = pack_half(linear.params.scales_OG, b.scale_codes_OG, b.scale_scales_RG, b.scale_zeros_RG);
  zeros_ = pack_half(linear.params.zeros_OG, b.zero_codes_OG, b.zero_scales_RG, b.zero_zeros_RG);
  const bool in_chunks = scales_.defined() && zeros_.defined() && !rest_.group_of_column.defined();
  block_ = in_chunks ? block_columns(group_, groups_) : 0;
}

GridParams PackedLinear::unpack_params() const {
  const BilevelParams& b = rest_.bilevel;
  const auto unpack_half = [&](const at::Tensor& packed, const at::Tensor& codes, const at::Tensor& scales, const at::Tensor& zeros) {
    if (packed.defined()) return packed::unpack_parameters(packed, rows_, groups_);
    return values_of_second_level(part_codes(codes, {rows_, groups_}), scales.to(at::kFloat), zeros.to(at::kFloat));
  };
  return {unpack_half(scales_, b.scale_codes_OG, b.scale_scales_RG, b.scale_zeros_RG),
          unpack_half(zeros_, b.zero_codes_OG, b.zero_scales_RG, b.zero_zeros_RG)};
}

void PackedLinear::narrow_outliers() {
  Outliers& outliers = rest_.outliers;
  if (!outliers.defined()) return;
  outliers.values = packed::smallest_type(outliers.values.to(at::kCPU));
  at::Tensor places = outliers.columns.to(at::kCPU, at::kLong);  // in the order of the codes
  if (order_.defined()) places = order_.cpu().argsort().index_select(0, places);
  outliers.columns = places.to(columns_ <= INT16_MAX ? at::kShort : at::kInt);
  outliers.row_offsets = outliers.row_offsets.to(at::kCPU);
}

QuantizedLinear PackedLinear::unpack() const {
  QuantizedLinear linear = rest_;
  const at::Tensor order = order_.defined() ? order_.cpu() : order_;
  linear.codes_OI = is_on_device() ? unpack_on_device()
                                   : packed::unpack_codes(codes_.cpu(), rows_, columns_, packed::code_type(rest_.grid), packed::code_bits(rest_.grid), order).to(device_);
  const GridParams params = unpack_params();
  linear.params = {params.scales_OG.to(device_), params.zeros_OG.to(device_)};
  if (order_.defined()) {
    linear.group_of_column = at::empty({columns_}, at::kLong);
    linear.group_of_column.index_put_({order.to(at::kLong)}, at::arange(columns_).floor_divide(group_));
    linear.group_of_column = linear.group_of_column.to(device_);
  }
  BilevelParams& b = linear.bilevel;
  if (!scales_.defined()) b.scale_codes_OG = part_codes(b.scale_codes_OG, {rows_, groups_});
  if (!zeros_.defined()) b.zero_codes_OG = part_codes(b.zero_codes_OG, {rows_, groups_});
  for (at::Tensor* const t : {&b.scale_scales_RG, &b.scale_zeros_RG, &b.zero_scales_RG, &b.zero_zeros_RG})
    if (t->defined()) *t = t->to(at::kFloat);
  if (rest_.outliers.defined()) {
    linear.outliers.values = rest_.outliers.values.to(device_, at::kFloat);
    const at::Tensor places = rest_.outliers.columns.to(at::kLong);
    linear.outliers.columns = (order.defined() ? order.index_select(0, places) : places).to(device_, at::kInt);
    linear.outliers.row_offsets = rest_.outliers.row_offsets.to(device_);
  }
  return linear;
}

at::Tensor PackedLinear::dequantize(at::ScalarType dtype) const {
  const OnlineTransform& online = rest_.online;
  const bool plain = !rest_.outliers.defined() && !rest_.group_of_column.defined() && !online.divisor_I.defined() && !online.input && !online.output;
  if (plain && is_on_device() && scales_.defined() && zeros_.defined()) return dequantize_on_device(dtype);
  if (!plain || !device_.is_cpu()) return quantizer::dequantize(unpack(), dtype);
  const GridParams params = unpack_params();
  return packed::dequantize_codes(codes_, params.scales_OG, params.zeros_OG, columns_, packed::code_type(rest_.grid), packed::code_bits(rest_.grid),
                                  group_, order_, dtype);
}

std::int64_t PackedLinear::bytes() const {
  const BilevelParams& b = rest_.bilevel;
  return bytes_of({codes_, scales_, zeros_, order_, rest_.group_of_column, rest_.outliers.row_offsets, rest_.outliers.columns, rest_.outliers.values,
                   b.scale_codes_OG, b.zero_codes_OG, b.scale_scales_RG, b.scale_zeros_RG, b.zero_scales_RG, b.zero_zeros_RG, rest_.online.divisor_I}) +
         (rest_.online.parameter_bits + 7) / 8;
}

}  // namespace miq::quantizer
