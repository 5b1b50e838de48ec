// The native format: whatever a QuantizedLinear holds, to the last bit - second levels of scales, outliers, rotations by their
// seed, divisors, activations. Codes take their real width. For each linear, under its name:
//   shape         int64 [2]: O, I
//   codes         int32 [O, ceil(I b / 32)], a little-endian bit stream along each row; 8 bits: uint8 or float8 [O, I]
//   scales        [R, G] of the grid's type, R: rows that have some of their own (O, blocks, 1)
//   zeros         int32 [ceil(R G b / 32)], a bit stream; not whole: [R, G] of the grid's type or float32; none: the middle of the grid
//   {scale,zero}_{codes,scales,zeros}  in place of scales, zeros: the second level
//   group_of_column int32 [I]; outlier_{rows,columns,values} (CSR); divisor float32 [I]; input_scale, input_zero float32 []
//   {input,output}_rotation.<kind>.<part>, and .check: the product with a known vector
#include <ATen/ATen.h>

#include <set>

#include "formats.h"
#include "miq/core/config.h"
#include "miq/core/dtype.h"
#include "miq/quantizer/linear_problem.h"
#include "reading.h"

namespace miq::format {
namespace {

using quantizer::Granularity;
using quantizer::Grid;
using quantizer::Orthogonal;
using quantizer::OrthogonalParts;
using quantizer::QuantizedLinear;

constexpr std::int64_t kVersion = 1, kMaxColumns = std::int64_t{1} << 32;
const std::vector<at::ScalarType> kFloats = {at::kFloat, at::kHalf, at::kBFloat16};

// Every so many rows have parameters of their own.
std::int64_t rows_per_parameter(const Grid& grid, std::int64_t rows) {
  if (grid.granularity == Granularity::tensor) return rows;
  return grid.granularity == Granularity::block ? grid.group_size : 1;
}

float middle(const Grid& grid) {
  if (grid.is_fp8()) return 0;
  const auto half = static_cast<float>(1 << (grid.bits - 1));
  return grid.convention == quantizer::GridConvention::quip ? half - 0.5f : half;
}

// Whether zero points that are not stored are in the middle of the grid.
bool has_middle(const Grid& grid) { return grid.is_fp8() || grid.symmetric || grid.convention == quantizer::GridConvention::quip; }

// What such linears have beside codes, scales and zeros.
std::set<std::string> parts_of(const Scheme& s) {
  std::set<std::string> parts;
  if (s.group_of_column) parts.insert("group_of_column");
  if (s.outliers) parts.insert("outliers");
  if (s.divisor) parts.insert("divisor");
  if (s.rotated_input) parts.insert("input_rotation");
  if (s.rotated_output) parts.insert("output_rotation");
  return parts;
}

std::optional<std::string> why_not(const Scheme&, const FormatOptions&) { return std::nullopt; }

std::vector<std::string> warnings(const std::vector<Scheme>&, const FormatOptions&) { return {"only miq itself reads its native format: miq export converts what other formats can hold"}; }

at::ScalarType scale_dtype(const Grid& grid, const FormatOptions&) { return grid.granularity == Granularity::group ? at::kHalf : at::kFloat; }

at::Tensor stored(const at::Tensor& values, at::ScalarType dtype) { return values.to(holds(dtype, values) ? dtype : at::kFloat).contiguous(); }

class Encoder {
 public:
  Encoder(const NamedLinear& named, std::vector<NamedTensor>& tensors) : prefix_(named.name + "."), linear_(*named.linear), tensors_(tensors) {}

  void encode() {
    const Grid& grid = linear_.grid;
    put("shape", at::tensor({linear_.out_features(), linear_.in_features()}, at::kLong));
    if (grid.is_fp8()) put("codes", linear_.codes_OI.view(grid.type == quantizer::GridType::fp8_e4m3 ? at::kFloat8_e4m3fn : at::kFloat8_e5m2));
    else put("codes", grid.bits == 8 ? linear_.codes_OI.contiguous() : pack_bits(linear_.codes_OI, grid.bits));
    const quantizer::BilevelParams& b = linear_.bilevel;
    if (b.scale_codes_OG.defined()) second_level("scale", b.scale_codes_OG, grid.bilevel.scale_bits, b.scale_scales_RG, b.scale_zeros_RG);
    else put("scales", stored(own_rows(linear_.params.scales_OG), grid.scale_dtype));
    if (b.zero_codes_OG.defined()) second_level("zero", b.zero_codes_OG, grid.bilevel.zero_bits, b.zero_scales_RG, b.zero_zeros_RG);
    else encode_zeros(own_rows(linear_.params.zeros_OG));
    if (linear_.group_of_column.defined()) put("group_of_column", linear_.group_of_column.to(at::kInt));
    encode_outliers();
    if (linear_.online.divisor_I.defined()) put("divisor", linear_.online.divisor_I.to(at::kFloat));
    rotation("input_rotation", linear_.online.input.get());
    rotation("output_rotation", linear_.online.output.get());
    if (linear_.activation_params.scale.defined()) put("input_scale", linear_.activation_params.scale.to(at::kFloat).reshape({}));
    if (linear_.activation_params.zero.defined()) put("input_zero", linear_.activation_params.zero.to(at::kFloat).reshape({}));
  }

  // The product with a vector that a matrix of another seed, or made otherwise, will not give.
  static at::Tensor check_of(const Orthogonal& matrix) {
    const at::Tensor product = matrix.apply(at::arange(1, matrix.order() + 1, at::kFloat).cos().unsqueeze(0)).flatten();
    return product.narrow(0, 0, std::min<std::int64_t>(8, product.numel())).clone();
  }

 private:
  void put(const std::string& name, const at::Tensor& tensor) { tensors_.push_back({prefix_ + name, tensor.contiguous()}); }

  at::Tensor own_rows(const at::Tensor& params_OG) const {
    return params_OG.slice(0, 0, params_OG.size(0), rows_per_parameter(linear_.grid, params_OG.size(0))).contiguous();
  }

  void second_level(const std::string& what, const at::Tensor& codes, int bits, const at::Tensor& scales, const at::Tensor& zeros) {
    put(what + "_codes", pack_bits(codes.reshape({1, -1}), bits).flatten());
    put(what + "_scales", stored(scales, linear_.grid.scale_dtype));
    put(what + "_zeros", stored(zeros, linear_.grid.scale_dtype));
  }

  void encode_zeros(const at::Tensor& zeros) {
    const int bits = linear_.grid.bits;
    if (has_middle(linear_.grid) && zeros.eq(middle(linear_.grid)).all().item<bool>()) return;
    const at::Tensor whole = zeros.round().clamp(0, (1 << bits) - 1);
    put("zeros", at::equal(whole, zeros) ? pack_bits(whole.to(at::kByte).reshape({1, -1}), bits).flatten() : stored(zeros, linear_.grid.scale_dtype));
  }

  void encode_outliers() {
    const quantizer::Outliers& outliers = linear_.outliers;
    if (!outliers.row_offsets.defined()) return;
    put("outlier_rows", outliers.row_offsets);
    put("outlier_columns", linear_.in_features() <= 1 << 16 ? outliers.columns.to(at::kShort) : outliers.columns);
    put("outlier_values", outliers.values.to(outliers.value_bits == 16 ? at::kHalf : at::kFloat));
  }

  void rotation(const std::string& side, const Orthogonal* matrix) {
    if (matrix == nullptr) return;
    const OrthogonalParts parts = matrix->parts();
    for (const auto& [part, tensor] : parts.tensors) put(side + "." + parts.kind + "." + part, tensor);
    put(side + ".check", check_of(*matrix));
  }

  std::string prefix_;
  const QuantizedLinear& linear_;
  std::vector<NamedTensor>& tensors_;
};

std::vector<NamedTensor> encode(const std::vector<NamedLinear>& linears, const FormatOptions&) {
  std::vector<NamedTensor> tensors;
  for (const NamedLinear& named : linears) Encoder(named, tensors).encode();
  return tensors;
}

template <class T>
nlohmann::ordered_json fields_of(T value) {
  ConfigDumper dumper;
  visit_fields(dumper, value);
  return dumper.json();
}

void declare(const std::vector<Scheme>& schemes, const std::vector<std::string>& kept, const FormatOptions&, Declaration& declaration) {
  using Json = nlohmann::ordered_json;
  Json groups = Json::array();
  for (const Scheme& scheme : schemes) {
    const Json grid = fields_of(scheme.grid), activation = scheme.activation.enabled() ? fields_of(scheme.activation) : Json();
    const Json parts = parts_of(scheme);
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const Json& group) { return group["grid"] == grid && group["activation"] == activation && group["parts"] == parts; });
    if (same != groups.end()) (*same)["linears"].push_back(scheme.name);
    else groups.push_back({{"grid", grid}, {"activation", activation}, {"parts", parts}, {"linears", {scheme.name}}});
  }
  declaration.config["quantization_config"] = {{"quant_method", "miq"}, {"version", kVersion}, {"groups", groups}, {"kept", kept}};
}

bool recognises(const nlohmann::json& quantization) { return quantization.is_object() && quantization.value("quant_method", nlohmann::json()) == "miq"; }

template <class T>
void read_fields(const nlohmann::json& object, T& value, const std::string& where) {
  try {
    const ConfigSource source = ConfigSource::from_text(object.dump(), "quantization_config");
    ConfigReader reader(source);
    visit_fields(reader, value);
    reader.finish();
  } catch (const Error& error) {
    throw Error(ErrorKind::io, error.message() + " (" + error.where() + ")", where, error.fix());
  }
}

class MiqDecoder : public TableDecoder {
 public:
  MiqDecoder(std::shared_ptr<const TensorSource> source, const nlohmann::json& quantization, const std::string& where) : TableDecoder(Contents(std::move(source), where)) {
    whole_number(quantization, "version", 1, kVersion, where);
    for (const auto& [name, spec] : contents_.specs())
      for (const char* side : {".input_rotation.", ".output_rotation."})
        if (const size_t at = name.find(side); at != std::string::npos) parts_[name.substr(0, at)].push_back(name);
    const auto groups = quantization.find("groups");
    if (groups == quantization.end() || !groups->is_array()) throw Error(ErrorKind::io, "quantization configuration: 'groups' is no list", where);
    for (const nlohmann::json& group : *groups) {
      Scheme scheme;
      read_fields(member(group, "grid", where), scheme.grid, where);
      if (!member(group, "activation", where).empty()) read_fields(member(group, "activation", where), scheme.activation, where);
      const std::vector<std::string> parts = texts(group, "parts", where);
      for (const std::string& name : texts(group, "linears", where)) add_linear(name, scheme, {parts.begin(), parts.end()});
    }
  }

  QuantizedLinear linear(const std::string& name) const override {
    const Scheme& s = scheme(name);
    const std::int64_t groups = s.grid.num_groups(s.in_features), repeats = rows_per_parameter(s.grid, s.out_features);
    const std::int64_t rows = (s.out_features + repeats - 1) / repeats;
    QuantizedLinear linear;
    linear.grid = s.grid;
    linear.activation = s.activation;
    linear.codes_OI = read_codes(s);
    quantizer::BilevelParams& b = linear.bilevel;
    const std::string p = name + ".";
    if (contents_.has(p + "scale_codes")) {
      linear.params.scales_OG = read_second_level(s, "scale", s.grid.bilevel.scale_bits, groups, b.scale_codes_OG, b.scale_scales_RG, b.scale_zeros_RG);
    } else {
      linear.params.scales_OG = every_row(contents_.read(p + "scales", kFloats, {rows, groups}).to(at::kFloat), s, repeats);
    }
    if (contents_.has(p + "zero_codes"))
      linear.params.zeros_OG = read_second_level(s, "zero", s.grid.bilevel.zero_bits, groups, b.zero_codes_OG, b.zero_scales_RG, b.zero_zeros_RG);
    else
      linear.params.zeros_OG = every_row(read_zeros(s, rows, groups), s, repeats);
    if (s.group_of_column) {
      linear.group_of_column = contents_.read(p + "group_of_column", {at::kInt}, {s.in_features}).to(at::kLong);
      if (linear.group_of_column.min().item<std::int64_t>() < 0 || linear.group_of_column.max().item<std::int64_t>() >= groups)
        contents_.refuse(p + "group_of_column", "a column's group is none of " + std::to_string(groups));
    }
    read_outliers(s, linear.outliers);
    if (s.divisor) linear.online.divisor_I = contents_.read(p + "divisor", {at::kFloat}, {s.in_features});
    linear.online.input = read_rotation(s, "input_rotation", s.in_features, linear.online.parameter_bits);
    linear.online.output = read_rotation(s, "output_rotation", s.out_features, linear.online.parameter_bits);
    const bool static_input = s.activation.enabled() && !s.activation.dynamic;
    if (static_input) linear.activation_params.scale = contents_.read(p + "input_scale", {at::kFloat}, {});
    if (static_input && !s.activation.symmetric) linear.activation_params.zero = contents_.read(p + "input_zero", {at::kFloat}, {});
    return linear;
  }

 private:
  void add_linear(const std::string& name, Scheme scheme, const std::set<std::string>& parts) {
    scheme.name = name;
    const at::Tensor shape = contents_.read(name + ".shape", {at::kLong}, {2});
    scheme.out_features = shape[0].item<std::int64_t>();
    scheme.in_features = shape[1].item<std::int64_t>();
    // The codes take that much of the file: no absurd shape goes further.
    const std::int64_t wide = scheme.grid.bits == 8 ? scheme.in_features : (std::min(scheme.in_features, kMaxColumns) * scheme.grid.bits + 31) / 32;
    const TensorSpec& codes = contents_.spec(name + ".codes", 2);
    if (scheme.in_features > kMaxColumns || codes.shape[0] != scheme.out_features || codes.shape[1] != wide) contents_.refuse(name + ".codes", "are not of the shape that is declared");
    scheme.grid.scale_dtype = contents_.has(name + ".scales") ? contents_.specs().at(name + ".scales").dtype : at::kHalf;
    scheme.group_of_column = contents_.has(name + ".group_of_column");
    scheme.outliers = contents_.has(name + ".outlier_rows");
    scheme.divisor = contents_.has(name + ".divisor");
    std::vector<std::string> tensors;
    for (const char* part : {"shape", "codes", "scales", "zeros", "scale_codes", "scale_scales", "scale_zeros", "zero_codes", "zero_scales", "zero_zeros", "group_of_column",
                             "outlier_rows", "outlier_columns", "outlier_values", "divisor", "input_scale", "input_zero"})
      tensors.push_back(name + "." + part);
    if (const auto parts = parts_.find(name); parts != parts_.end())
      for (const std::string& part : parts->second) {
        tensors.push_back(part);
        if (part.ends_with(".check")) continue;
        (part.find(".input_rotation.") != std::string::npos ? scheme.rotated_input : scheme.rotated_output) = true;
      }
    if (const std::set<std::string> found = parts_of(scheme); found != parts)
      for (const std::string& part : parts)
        if (found.count(part) == 0) contents_.refuse(name + "." + part, "the tensor is missing");
    add(std::move(scheme), tensors);
  }

  at::Tensor read_codes(const Scheme& s) const {
    const std::string name = s.name + ".codes";
    if (s.grid.type == quantizer::GridType::fp8_e4m3) return contents_.read(name, {at::kFloat8_e4m3fn}, {s.out_features, s.in_features}).view(at::kByte);
    if (s.grid.type == quantizer::GridType::fp8_e5m2) return contents_.read(name, {at::kFloat8_e5m2}, {s.out_features, s.in_features}).view(at::kByte);
    if (s.grid.bits == 8) return contents_.read(name, {at::kByte}, {s.out_features, s.in_features});
    return unpack_bits(contents_.read(name, {at::kInt}, {s.out_features, -1}), s.grid.bits, s.in_features);
  }

  static at::Tensor every_row(const at::Tensor& params_RG, const Scheme& s, std::int64_t repeats) {
    return repeats == 1 ? params_RG : params_RG.repeat_interleave(repeats, 0).narrow(0, 0, s.out_features).contiguous();
  }

  at::Tensor read_zeros(const Scheme& s, std::int64_t rows, std::int64_t groups) const {
    const std::string name = s.name + ".zeros";
    if (!contents_.has(name) && has_middle(s.grid)) return at::full({rows, groups}, middle(s.grid));
    if (!contents_.has(name)) contents_.refuse(name, "the tensor is missing");
    if (contents_.specs().at(name).dtype == at::kInt) return read_stream(name, s.grid.bits, rows, groups).to(at::kFloat);
    return contents_.read(name, kFloats, {rows, groups}).to(at::kFloat);
  }

  at::Tensor read_stream(const std::string& name, int bits, std::int64_t rows, std::int64_t columns) const {
    const at::Tensor words = contents_.read(name, {at::kInt}, {(rows * columns * bits + 31) / 32});
    return unpack_bits(words.unsqueeze(0), bits, rows * columns).view({rows, columns});
  }

  // Codes, scales and zeros, and the values [O, G] that they stand for.
  at::Tensor read_second_level(const Scheme& s, const std::string& what, int bits, std::int64_t groups, at::Tensor& codes, at::Tensor& scales, at::Tensor& zeros) const {
    const std::int64_t rows = s.grid.bilevel.rows;
    if (bits == 0 || s.out_features % rows != 0) contents_.refuse(s.name + "." + what + "_codes", "the grid has no second level for so many outputs");
    codes = read_stream(s.name + "." + what + "_codes", bits, s.out_features, groups);
    scales = contents_.read(s.name + "." + what + "_scales", kFloats, {s.out_features / rows, groups}).to(at::kFloat);
    zeros = contents_.read(s.name + "." + what + "_zeros", kFloats, {s.out_features / rows, groups}).to(at::kFloat);
    return scales.repeat_interleave(rows, 0) * (codes.to(at::kFloat) - zeros.repeat_interleave(rows, 0));
  }

  void read_outliers(const Scheme& s, quantizer::Outliers& outliers) const {
    if (!s.outliers) return;
    const std::string p = s.name + ".outlier_";
    outliers.row_offsets = contents_.read(p + "rows", {at::kInt}, {s.out_features + 1});
    const at::Tensor columns = contents_.read(p + "columns", {at::kShort, at::kInt}, {-1});
    outliers.columns = columns.scalar_type() == at::kShort ? columns.to(at::kInt).bitwise_and(0xFFFF) : columns;
    const at::Tensor values = contents_.read(p + "values", {at::kHalf, at::kFloat}, {columns.size(0)});
    outliers.value_bits = values.scalar_type() == at::kHalf ? 16 : 32;
    outliers.values = values.to(at::kFloat);
    const at::Tensor counts = outliers.row_offsets.diff();
    if (outliers.row_offsets[0].item<int>() != 0 || outliers.row_offsets[-1].item<int>() != columns.size(0) || counts.lt(0).any().item<bool>())
      contents_.refuse(p + "rows", "the offsets do not rise from 0 to " + std::to_string(columns.size(0)));
    if (columns.size(0) > 0 && (outliers.columns.min().item<int>() < 0 || outliers.columns.max().item<int>() >= s.in_features))
      contents_.refuse(p + "columns", "a column is none of " + std::to_string(s.in_features));
  }

  std::shared_ptr<const Orthogonal> read_rotation(const Scheme& s, const std::string& side, std::int64_t order, std::int64_t& parameter_bits) const {
    const auto found = parts_.find(s.name);
    if (found == parts_.end()) return nullptr;
    const std::string prefix = s.name + "." + side + ".";
    OrthogonalParts parts;
    parts.order = order;
    for (const std::string& name : found->second) {
      if (!name.starts_with(prefix) || name == prefix + "check") continue;
      const std::string rest = name.substr(prefix.size());
      const size_t dot = rest.find('.');
      if (dot == std::string::npos || (!parts.kind.empty() && rest.substr(0, dot) != parts.kind)) contents_.refuse(name, "is no part of a rotation");
      parts.kind = rest.substr(0, dot);
      parts.tensors[rest.substr(dot + 1)] = contents_.read(name, {contents_.specs().at(name).dtype}, contents_.specs().at(name).shape);
    }
    if (parts.kind.empty()) return nullptr;
    auto matrix = quantizer::make_orthogonal(parts);
    if (matrix->order() != order) contents_.refuse(prefix + parts.kind, "is of the order " + std::to_string(matrix->order()) + ", not " + std::to_string(order));
    const at::Tensor expected = contents_.read(prefix + "check", {at::kFloat}, {std::min<std::int64_t>(8, order)});
    if (!at::allclose(Encoder::check_of(*matrix), expected, 1e-4, 1e-4))
      throw Error(ErrorKind::numeric, "the rotation made from its seed is not the one it was quantized with", s.name, "another version of the linear algebra library makes another matrix: export it there with --format dequantized");
    if (parts.tensors.count("seed") != 0) parameter_bits += 64;
    return matrix;
  }

  std::map<std::string, std::vector<std::string>> parts_;  // tensors of rotations, by linear
};

std::unique_ptr<Decoder> open(std::shared_ptr<const TensorSource> source, const nlohmann::json& quantization, const nlohmann::json&, const std::string& where) {
  return std::make_unique<MiqDecoder>(std::move(source), quantization, where);
}

}  // namespace

const Format miq_format = {.name = "miq",
                           .summary = "the native one: everything that miq makes, to the last bit; read by miq",
                           .why_not = why_not,
                           .warnings = warnings,
                           .scale_dtype = scale_dtype,
                           .encode = encode,
                           .declare = declare,
                           .recognises = recognises,
                           .open = open};

}  // namespace miq::format
