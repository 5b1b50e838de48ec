// Reads compressed-tensors checkpoints: which group of the configuration a linear belongs to, and its tensors.
// Sources: compressed-tensors 0.19 quantization/{quant_args,quant_config,quant_scheme}.py, compressors/; its packing before
// 0.17 (pull request 715), which padded every 32-bit word.
#include <ATen/ATen.h>

#include "compressed_tensors.h"

namespace miq::format::ct {
namespace {

using nlohmann::json;
using quantizer::Activation;
using quantizer::ActivationGranularity;
using quantizer::Granularity;
using quantizer::Grid;
using quantizer::GridType;
using quantizer::QuantizedLinear;

const std::vector<at::ScalarType> kScaleTypes = {at::kBFloat16, at::kHalf, at::kFloat};

std::int64_t dense_words(std::int64_t n, int bits) { return (n * bits + 31) / 32; }
std::int64_t padded_words(std::int64_t n, int bits) { return (n + 32 / bits - 1) / (32 / bits); }

// Codes of each row, in either packing: the number of words says which; where it is the same for both, `padded` does.
at::Tensor unpack_rows(const at::Tensor& words, int bits, std::int64_t n, bool padded) {
  const bool fits_dense = words.size(1) == dense_words(n, bits), fits_padded = words.size(1) == padded_words(n, bits);
  if (fits_dense && !(padded && fits_padded)) return unpack_bits(words, bits, n);
  const std::int64_t per_word = 32 / bits;
  return unpack_bits(words.reshape({-1, 1}), bits, per_word).reshape({words.size(0), words.size(1) * per_word}).narrow(1, 0, n).contiguous();
}

// Whether a version, "0.16.0", is of before the dense packing.
bool pads_words(const std::string& version) {
  if (!version.starts_with("0.")) return false;
  const size_t digits = version.find_first_not_of("0123456789", 2);
  const std::string minor = version.substr(2, digits == std::string::npos ? digits : digits - 2);
  return !minor.empty() && minor.size() < 3 && std::stoi(minor) < 17;
}

[[noreturn]] void unsupported(const std::string& what, const std::string& where) {
  throw Error(ErrorKind::unsupported, what + " cannot be read", where);
}

Grid read_grid(const json& args, const std::string& where) {
  Grid grid;
  grid.convention = quantizer::GridConvention::ct;
  const std::int64_t bits = whole_number(args, "num_bits", 1, 64, where, 8);
  const std::string type = text(args, "type", where, "int");
  if (type != "int" && type != "float") unsupported("weights of type '" + type + "'", where);
  if (type == "float" ? bits != 8 : bits < 2 || bits > 8) unsupported("weights of type " + type + std::to_string(bits), where);
  grid.type = type == "int" ? GridType::integer : GridType::fp8_e4m3;
  grid.bits = static_cast<int>(bits);
  grid.symmetric = flag(args, "symmetric", where, true);
  const std::int64_t group = whole_number(args, "group_size", -1, kMaxGroup, where, 0);
  const std::string strategy = text(args, "strategy", where, group > 0 ? "group" : group < 0 ? "channel" : "tensor");
  if (strategy == "tensor") {
    grid.granularity = Granularity::tensor;
  } else if (strategy == "channel") {
    grid.granularity = Granularity::channel;
  } else if (strategy == "group") {
    grid.granularity = Granularity::group;
    grid.group_size = whole_number(args, "group_size", 1, kMaxGroup, where);
  } else if (strategy == "block") {
    grid.granularity = Granularity::block;
    const auto found = args.find("block_structure");
    const bool pair =
        found != args.end() && found->is_array() && found->size() == 2 && found->at(0).is_number_integer() && found->at(1).is_number_integer();
    if (!pair) throw Error(ErrorKind::io, "quantization configuration: 'block_structure' is no pair of numbers", where);
    const std::int64_t rows = found->at(0).get<std::int64_t>();
    if (rows < 1 || rows > kMaxGroup) throw Error(ErrorKind::io, "quantization configuration: 'block_structure' is " + found->dump(), where);
    if (rows != found->at(1).get<std::int64_t>()) unsupported("blocks that are not square", where);
    grid.group_size = rows;
  } else {
    unsupported("weights of strategy '" + strategy + "'", where);
  }
  return grid;
}

Activation read_activation(const json& args, const std::string& where) {
  Activation activation;
  if (args.empty()) return activation;
  const std::int64_t bits = whole_number(args, "num_bits", 1, 64, where, 8);
  const std::string type = text(args, "type", where, "int"), strategy = text(args, "strategy", where, "tensor");
  if ((type != "int" && type != "float") || (type == "float" ? bits != 8 : bits < 2 || bits > 8))
    unsupported("activations of type " + type + std::to_string(bits), where);
  activation.type = type == "int" ? GridType::integer : GridType::fp8_e4m3;
  activation.bits = static_cast<int>(bits);
  activation.symmetric = flag(args, "symmetric", where, true);
  if (const auto dynamic = args.find("dynamic"); dynamic != args.end() && dynamic->is_string())
    unsupported("activations that are dynamic in part", where);
  activation.dynamic = flag(args, "dynamic", where, false);
  if (strategy == "tensor") {
    activation.granularity = ActivationGranularity::tensor;
  } else if (strategy == "token") {
    activation.granularity = ActivationGranularity::token;
  } else if (strategy == "group") {
    activation.granularity = ActivationGranularity::group;
    activation.group_size = whole_number(args, "group_size", 1, kMaxGroup, where);
  } else {
    unsupported("activations of strategy '" + strategy + "'", where);
  }
  if (!activation.dynamic && activation.granularity != ActivationGranularity::tensor)
    unsupported("static activations of strategy '" + strategy + "'", where);
  return activation;
}

void check_layout(const std::string& layout, const std::string& where) {
  static const std::set<std::string> kKnown = {"pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision"};
  if (!layout.empty() && kKnown.count(layout) == 0) unsupported("compressed-tensors checkpoints of format '" + layout + "'", where);
}

class CompressedTensorsDecoder : public TableDecoder {
 public:
  CompressedTensorsDecoder(Contents contents, const json& quantization) : TableDecoder(std::move(contents)), rotations_(contents_, quantization) {
    read_config(quantization);
    std::set<std::string> names;
    for (const char* end : {".weight_packed", ".weight_scale"})
      for (const std::string& name : contents_.named(end)) names.insert(name);
    for (const std::string& name : contents_.named(".weight")) {  // also where its scale is missing
      const at::ScalarType type = contents_.specs().at(name + ".weight").dtype;
      if (type == at::kChar || type == at::kFloat8_e4m3fn) names.insert(name);
    }
    for (const std::string& name : names) {
      std::vector<std::string> tensors;
      for (const char* end : {".weight", ".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx", ".input_scale",
                              ".input_zero_point"})
        tensors.push_back(name + end);
      add(read_scheme(name), tensors);
    }
    if (names.empty()) contents_.refuse("*.weight_scale", "the checkpoint has no tensors of that name");
    owned_.insert(rotations_.tensors().begin(), rotations_.tensors().end());
    for (const char* end : {".k_scale", ".v_scale", ".q_scale", ".k_zero_point", ".v_zero_point"})  // of the cache: for servers
      for (const std::string& name : contents_.named(end)) owned_.insert(name + end);
  }

  QuantizedLinear linear(const std::string& name) const override {
    const Scheme& s = scheme(name);
    const std::int64_t rows = s.out_features, columns = s.in_features;
    const int bits = s.grid.bits;
    QuantizedLinear out;
    out.grid = s.grid;
    out.activation = s.activation;
    if (contents_.has(name + ".weight_packed")) {
      out.codes_OI = unpack_rows(contents_.read(name + ".weight_packed", {at::kInt}, {rows, -1}), bits, columns, padded_);
    } else if (s.grid.is_fp8()) {
      out.codes_OI = contents_.read(name + ".weight", {at::kFloat8_e4m3fn}, {rows, columns}).view(at::kByte);
    } else {
      out.codes_OI = unsigned_codes(name + ".weight", contents_.read(name + ".weight", {at::kChar}, {rows, columns}), bits);
    }
    out.params.scales_OG =
        for_each_row(contents_.read(name + ".weight_scale", kScaleTypes, contents_.specs().at(name + ".weight_scale").shape).to(at::kFloat), s);
    out.params.zeros_OG = zeros(s);
    if (s.activation.enabled() && !s.activation.dynamic) {
      out.activation_params.scale = scalar(name + ".input_scale", kScaleTypes);
      if (!s.activation.symmetric) out.activation_params.zero = scalar(name + ".input_zero_point", {at::kChar, at::kInt, at::kLong});
    }
    if (s.group_of_column) out.group_of_column = group_index(s);
    out.online.input = rotations_.rotation(contents_, name, "input", columns);
    out.online.output = rotations_.rotation(contents_, name, "output", rows);
    return out;
  }

 private:
  struct Group {
    Targets targets;
    Grid grid;
    Activation activation;
  };

  void read_config(const json& q) {
    const std::string& where = contents_.where();
    check_layout(text(q, "format", where, ""), where);
    padded_ = pads_words(text(q, "version", where, ""));
    if (const std::string sparse = text(member(q, "sparsity_config", where), "format", where, "dense"); sparse != "dense")
      unsupported("sparse weights ('" + sparse + "')", where);
    const json& groups = member(q, "config_groups", where);
    if (groups.empty()) throw Error(ErrorKind::io, "quantization configuration: 'config_groups' is missing", where);
    for (const auto& [name, group] : groups.items()) {
      const std::string at = where + ": config_groups." + name;
      if (!group.is_object()) throw Error(ErrorKind::io, "quantization configuration: a group is no object", at);
      check_layout(text(group, "format", at, ""), at);
      const json& weights = member(group, "weights", at);
      if (weights.empty()) continue;  // of caches or activations alone
      groups_.push_back(
          {Targets(texts(group, "targets", at), at), read_grid(weights, at), read_activation(member(group, "input_activations", at), at)});
    }
  }

  Scheme read_scheme(const std::string& name) const {
    const Group* best = nullptr;
    int rank = 3;
    for (const Group& group : groups_)
      if (const std::optional<int> match = group.targets.match(name); match && *match < rank) {
        rank = *match;
        best = &group;
      }
    if (best == nullptr) contents_.refuse(name, "no group of the configuration targets this linear");
    Scheme s;
    s.name = name;
    s.grid = best->grid;
    s.activation = best->activation;
    read_shape(s);
    const auto scale = contents_.specs().find(name + ".weight_scale");
    if (scale == contents_.specs().end()) contents_.refuse(name + ".weight_scale", "the tensor is missing");
    s.grid.scale_dtype = scale->second.dtype;
    if (std::find(kScaleTypes.begin(), kScaleTypes.end(), s.grid.scale_dtype) == kScaleTypes.end())
      contents_.refuse(name + ".weight_scale", "the type is not bfloat16, float16 or float32");
    const std::int64_t rows = scale_rows(s), groups = s.grid.num_groups(s.in_features);
    const bool flat = groups == 1 && scale->second.shape == std::vector<std::int64_t>{rows};
    const bool scalar = s.grid.granularity == Granularity::tensor && scale->second.numel() == 1;
    if (!flat && !scalar && scale->second.shape != std::vector<std::int64_t>{rows, groups})
      contents_.refuse(name + ".weight_scale",
                       "the shape is not [" + std::to_string(rows) + ", " + std::to_string(groups) + "], as the configuration has it");
    s.group_of_column = contents_.has(name + ".weight_g_idx") && group_index(s).defined();
    s.rotated_input = rotations_.rotates(name, "input");
    s.rotated_output = rotations_.rotates(name, "output");
    return s;
  }

  void read_shape(Scheme& s) const {
    if (!contents_.has(s.name + ".weight_packed")) {
      const TensorSpec& weight = contents_.spec(s.name + ".weight", 2);
      if (weight.dtype != (s.grid.is_fp8() ? at::kFloat8_e4m3fn : at::kChar))
        contents_.refuse(weight.name, s.grid.is_fp8() ? "the type is not float8_e4m3fn" : "the type is not int8");
      s.out_features = weight.shape[0];
      s.in_features = weight.shape[1];
      return;
    }
    const TensorSpec& packed = contents_.spec(s.name + ".weight_packed", 2);
    if (!s.grid.is_integer() || packed.dtype != at::kInt) contents_.refuse(packed.name, "packed weights are int32 words of integers");
    const at::Tensor shape = contents_.read(s.name + ".weight_shape", {at::kLong, at::kInt}, {2}).to(at::kLong);
    s.out_features = shape[0].item<std::int64_t>();
    s.in_features = shape[1].item<std::int64_t>();
    constexpr std::int64_t kMaxColumns = std::int64_t{1} << 40;  // so that products with it do not overflow
    if (s.out_features != packed.shape[0] || s.in_features < 1 || s.in_features > kMaxColumns ||
        (packed.shape[1] != dense_words(s.in_features, s.grid.bits) && packed.shape[1] != padded_words(s.in_features, s.grid.bits)))
      contents_.refuse(s.name + ".weight_shape", "it does not agree with the packed weight");
  }

  static std::int64_t scale_rows(const Scheme& s) {
    if (s.grid.granularity == Granularity::tensor) return 1;
    return s.grid.granularity == Granularity::block ? (s.out_features + s.grid.group_size - 1) / s.grid.group_size : s.out_features;
  }

  // Parameters of a tensor, a block or a row: [O, G].
  static at::Tensor for_each_row(const at::Tensor& stored, const Scheme& s) {
    const at::Tensor values = stored.reshape({scale_rows(s), s.grid.num_groups(s.in_features)});
    if (s.grid.granularity == Granularity::tensor) return values.expand({s.out_features, 1}).contiguous();
    if (s.grid.granularity != Granularity::block) return values.contiguous();
    return values.index_select(0, at::arange(s.out_features, at::kLong).div_(s.grid.group_size, "floor"));
  }

  at::Tensor unsigned_codes(const std::string& tensor, const at::Tensor& codes, int bits) const {
    const at::Tensor shifted = codes.to(at::kShort).add_(1 << (bits - 1));
    if (bits < 8 && (shifted.min().item<int>() < 0 || shifted.max().item<int>() >= 1 << bits))
      contents_.refuse(tensor, "a value is none of " + std::to_string(bits) + " bits");
    return shifted.to(at::kByte);
  }

  at::Tensor zeros(const Scheme& s) const {
    const std::int64_t rows = scale_rows(s), groups = s.grid.num_groups(s.in_features);
    const int bits = s.grid.bits;
    if (s.grid.is_fp8()) return at::zeros({s.out_features, groups});
    const std::string name = s.name + ".weight_zero_point";
    if (s.grid.symmetric) return at::full({s.out_features, groups}, static_cast<double>(1 << (bits - 1)), at::kFloat);
    if (!contents_.has(s.name + ".weight_packed")) {
      const at::Tensor stored =
          contents_.read(name, {at::kChar}, contents_.has(name) ? contents_.specs().at(name).shape : std::vector<std::int64_t>{rows, groups});
      if (stored.numel() != rows * groups) contents_.refuse(name, "it has not one zero point for each scale");
      return for_each_row(unsigned_codes(name, stored, bits).to(at::kFloat), s);
    }
    const at::Tensor words = contents_.read(name, {at::kInt}, {-1, groups});
    if (words.size(0) != dense_words(rows, bits) && words.size(0) != padded_words(rows, bits))
      contents_.refuse(name, "the shape does not fit " + std::to_string(rows) + " zero points");
    return for_each_row(unpack_rows(words.t(), bits, rows, padded_).t().to(at::kFloat).contiguous(), s);
  }

  at::Tensor scalar(const std::string& name, const std::vector<at::ScalarType>& types) const {
    const bool there = contents_.has(name);
    if (there && contents_.specs().at(name).numel() != 1) contents_.refuse(name, "it is not one number");
    return contents_.read(name, types, there ? contents_.specs().at(name).shape : std::vector<std::int64_t>{1}).to(at::kFloat).reshape({});
  }

  // actorder "group" before 0.19. Undefined: runs of columns.
  at::Tensor group_index(const Scheme& s) const {
    const std::string name = s.name + ".weight_g_idx";
    const at::Tensor index = contents_.read(name, {at::kInt, at::kLong}, {s.in_features}).to(at::kLong);
    if (index.min().item<std::int64_t>() < 0 || index.max().item<std::int64_t>() >= s.grid.num_groups(s.in_features))
      contents_.refuse(name, "there is no such group");
    return at::equal(index, at::arange(s.in_features, at::kLong).div_(s.grid.columns_per_group(s.in_features), "floor")) ? at::Tensor() : index;
  }

  Rotations rotations_;
  bool padded_ = false;
  std::vector<Group> groups_;
};

}  // namespace

Targets::Targets(const std::vector<std::string>& entries, const std::string& where) {
  for (const std::string& entry : entries) {
    if (entry.starts_with("re:"))
      patterns_.emplace_back(entry.substr(3), where);
    else if (entry == "Linear")
      class_ = true;
    else
      exact_.insert(entry);
  }
}

std::optional<int> Targets::match(const std::string& linear) const {
  if (exact_.count(linear) != 0) return 0;
  for (const NamePattern& pattern : patterns_)
    if (pattern.matches(linear)) return 1;
  return class_ ? std::optional<int>(2) : std::nullopt;
}

std::unique_ptr<Decoder> open(std::shared_ptr<const TensorSource> source, const json& quantization, const json&, const std::string& where) {
  return std::make_unique<CompressedTensorsDecoder>(Contents(std::move(source), where), quantization);
}

}  // namespace miq::format::ct
