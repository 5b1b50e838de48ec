// Products with packed codes.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "miq/core/error.h"
#include "miq/core/narrow_float.h"
#include "miq/quantizer/packed_linear.h"
#include "packed/codes.h"
#include "packed/input.h"
#include "packed/kernels.h"

namespace miq::quantizer {
namespace {

using packed::kChunk, packed::kMaxRows, packed::kPanelRows;

constexpr std::int64_t kGrainBytes = 1 << 15;  // of codes: fewer are not worth a thread

}  // namespace

// A matrix with what multiplies it.
struct PackedLinear::Kernel {
  explicit Kernel(const PackedLinear& linear)
      : owner(&linear), run(packed::panel_kernel(packed::code_type(linear.rest_.grid), packed::code_bits(linear.rest_.grid))) {
    matrix.type = packed::code_type(linear.rest_.grid);
    matrix.bits = packed::code_bits(linear.rest_.grid);
    matrix.codes = linear.codes_.const_data_ptr<std::uint8_t>();
    matrix.chunks = (linear.columns_ + kChunk - 1) / kChunk;
    matrix.groups = linear.groups_;
    matrix.chunks_per_group = (linear.group_ + kChunk - 1) / kChunk;
    matrix.chunks_per_block = linear.block_ / kChunk;
    matrix.scales = packed::parameters(linear.scales_);
    matrix.zeros = packed::parameters(linear.zeros_);
    panels = (linear.rows_ + kPanelRows - 1) / kPanelRows;
  }
  const PackedLinear* owner;
  packed::PanelKernel run;
  packed::Matrix matrix;
  std::int64_t panels;
};

bool PackedLinear::multiplies(const at::Tensor& x) const {
  if (block_ == 0 || !(x.is_cpu() || multiplies_on_device(x)) || !is_float_type(x.scalar_type()) || x.requires_grad() || x.size(-1) != columns_) return false;
  const std::int64_t rows = x.numel() / columns_;
  return rows > 0 && rows <= kMaxRows;
}

// Whether x can be prepared once for both: nothing is done to it but the turn to whole numbers.
bool PackedLinear::shares_input_with(const PackedLinear& other) const {
  const auto as_it_is = [](const PackedLinear& linear) {
    const OnlineTransform& online = linear.rest_.online;
    return !linear.order_.defined() && !online.divisor_I.defined() && !online.input && !online.output && !linear.rest_.activation.enabled();
  };
  return as_it_is(*this) && as_it_is(other) && columns_ == other.columns_ && block_ == other.block_ &&
         rest_.grid.is_integer() == other.rest_.grid.is_integer();
}

// x as it meets the codes: transformed, its values those of the quantized activation.
at::Tensor PackedLinear::before_product(const at::Tensor& x) const {
  at::Tensor inside = x;
  if (rest_.online.divisor_I.defined()) inside = inside / rest_.online.divisor_I;
  if (rest_.online.input) inside = rest_.online.input->apply(inside.to(at::kFloat));
  if (rest_.activation.enabled()) inside = fake_quantize(inside.to(x.scalar_type()).to(at::kFloat), rest_.activation, rest_.activation_params);
  return inside;
}

// out [rows of x][16] += (outlier - value of its code) * x for the rows of a panel.
void PackedLinear::add_outliers(const Kernel& kernel, std::int64_t panel, const float* x, std::int64_t x_rows, std::int64_t x_stride, float* out) const {
  const Outliers& outliers = rest_.outliers;
  const auto* const offsets = outliers.row_offsets.const_data_ptr<std::int32_t>();
  const packed::Parameters values = packed::parameters(outliers.values);
  const bool narrow = outliers.columns.scalar_type() == at::kShort;
  const float* const floats = kernel.matrix.type == packed::CodeType::integer ? nullptr : packed::fp8_values(kernel.matrix.type);
  for (std::int64_t row = panel * kPanelRows; row < std::min(rows_, (panel + 1) * kPanelRows); ++row)
    for (std::int32_t i = offsets[row]; i < offsets[row + 1]; ++i) {
      const std::int64_t column = narrow ? outliers.columns.const_data_ptr<std::int16_t>()[i] : outliers.columns.const_data_ptr<std::int32_t>()[i];
      const std::int64_t lane = row % kPanelRows, at = (panel * groups_ + column / group_) * kPanelRows + lane;
      const int code = packed::code_at(kernel.matrix, row, column);
      const float number = floats ? floats[code] : static_cast<float>(code) - packed::value_at(kernel.matrix.zeros, at);
      const float change = packed::value_at(values, i) - packed::value_at(kernel.matrix.scales, at) * number;
      for (std::int64_t r = 0; r < x_rows; ++r) out[r * kPanelRows + lane] += change * x[r * x_stride + column];
    }
}

// x [rows, I] as it meets the codes of all `linears` -> [rows, O] each.
std::vector<at::Tensor> PackedLinear::multiply(const std::vector<const PackedLinear*>& linears, const at::Tensor& x, at::ScalarType dtype) {
  const PackedLinear& first = *linears.front();
  std::vector<Kernel> kernels;
  std::vector<at::Tensor> outputs;
  std::int64_t panels = 0, bytes = 0;
  for (const PackedLinear* const linear : linears) {
    const Kernel& kernel = kernels.emplace_back(*linear);
    outputs.push_back(at::empty({x.size(0), linear->rows_}, x.options().dtype(dtype)));
    panels += kernel.panels;
    bytes += kernel.panels * kernel.matrix.panel_bytes();
  }
  const packed::PreparedInput prepared(x, kernels.front().matrix.type, kernels.front().matrix.chunks, first.block_ / kChunk, first.order_);
  const packed::Input& input = prepared.view();
  with_float_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    std::vector<T*> targets;
    for (const at::Tensor& output : outputs) targets.push_back(output.mutable_data_ptr<T>());
    at::parallel_for(0, panels, std::max<std::int64_t>(1, kGrainBytes * panels / std::max<std::int64_t>(1, bytes)), [&](std::int64_t begin, std::int64_t end) {
      alignas(64) float out[kMaxRows * kPanelRows];
      size_t at = 0;
      std::int64_t before = 0;  // panels of the matrices before
      for (std::int64_t p = begin; p < end; ++p) {
        while (p - before >= kernels[at].panels) before += kernels[at++].panels;
        const Kernel& kernel = kernels[at];
        const std::int64_t panel = p - before, row = panel * kPanelRows, rows = kernel.owner->rows_, valid = std::min(kPanelRows, rows - row);
        kernel.run(kernel.matrix, input, panel, out);
        if (kernel.owner->rest_.outliers.defined()) kernel.owner->add_outliers(kernel, panel, prepared.values(), input.rows, input.columns, out);
        for (std::int64_t r = 0; r < input.rows; ++r)
          for (std::int64_t lane = 0; lane < valid; ++lane) store(out[r * kPanelRows + lane], targets[at][r * rows + row + lane]);
      }
    });
  });
  return outputs;
}

at::Tensor PackedLinear::forward(const at::Tensor& x) const {
  if (!multiplies(x)) {
    if (rest_.activation.enabled()) return quantizer::forward(unpack(), x);
    return at::linear(x, dequantize(x.scalar_type()));
  }
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = rows_;
  const auto& output = rest_.online.output;
  const at::Tensor inside = before_product(x).contiguous().view({-1, columns_});
  const at::ScalarType dtype = output ? at::kFloat : x.scalar_type();
  at::Tensor y = (x.is_cpu() ? multiply({this}, inside, dtype) : multiply_on_device({this}, inside, dtype)).front();
  if (output) y = output->apply_transposed(y).to(x.scalar_type());
  return y.view(shape);
}

std::vector<at::Tensor> PackedLinear::forward_many(const std::vector<const PackedLinear*>& linears, const at::Tensor& x) {
  std::vector<at::Tensor> outputs;
  const bool shared = !linears.empty() && std::all_of(linears.begin(), linears.end(), [&](const PackedLinear* linear) {
    return linear->multiplies(x) && linear->shares_input_with(*linears.front());
  });
  if (!shared) {
    for (const PackedLinear* const linear : linears) outputs.push_back(linear->forward(x));
    return outputs;
  }
  const at::Tensor rows = x.contiguous().view({-1, x.size(-1)});
  outputs = x.is_cpu() ? multiply(linears, rows, x.scalar_type()) : multiply_on_device(linears, rows, x.scalar_type());
  std::vector<std::int64_t> shape = x.sizes().vec();
  for (at::Tensor& output : outputs) {
    shape.back() = output.size(1);
    output = output.view(shape);
  }
  return outputs;
}

}  // namespace miq::quantizer
