// AWQ checkpoints in the GEMM layout: 4-bit codes and zero points packed along the output, eight to a word in the order that
// the kernel unpacks. Sources: AutoAWQ 0.2.9 modules/linear/gemm.py, gptqmodel 7.6 gemm_awq.py; vLLM 0.33 auto_awq.py.
#include <ATen/ATen.h>

#include <algorithm>

#include "formats.h"
#include "reading.h"

namespace miq::format {
namespace {

using quantizer::Granularity;
using quantizer::QuantizedLinear;

// Nibble i of a word holds column kColumnOfNibble[i] of its eight.
constexpr std::int64_t kColumnOfNibble[] = {0, 2, 4, 6, 1, 3, 5, 7};
constexpr std::int64_t kNibbleOfColumn[] = {0, 4, 1, 5, 2, 6, 3, 7};

// codes [rows, n], their eights rearranged.
at::Tensor rearranged(const at::Tensor& codes, const std::int64_t (&order)[8]) {
  const at::Tensor index = at::tensor(at::ArrayRef<std::int64_t>(order), at::kLong);
  return codes.reshape({codes.size(0), codes.size(1) / 8, 8}).index_select(2, index).reshape(codes.sizes());
}

at::Tensor pack(const at::Tensor& codes) { return pack_bits(rearranged(codes, kColumnOfNibble), 4); }
at::Tensor unpack(const at::Tensor& words) { return rearranged(unpack_bits(words, 4, words.size(1) * 8), kNibbleOfColumn); }

class AwqDecoder : public TableDecoder {
 public:
  AwqDecoder(Contents contents, const nlohmann::json& q) : TableDecoder(std::move(contents)) {
    const std::string& where = contents_.where();
    const std::int64_t bits = whole_number(q, q.contains("bits") ? "bits" : "w_bit", 1, 32, where);
    const std::int64_t group = whole_number(q, q.contains("group_size") ? "group_size" : "q_group_size", -1, kMaxGroup, where);
    if (group == 0) throw Error(ErrorKind::io, "quantization configuration: the group size is 0", where);
    std::string version = text(q, "version", where, "gemm");
    std::transform(version.begin(), version.end(), version.begin(), [](unsigned char c) { return std::tolower(c); });
    if (bits != 4) throw Error(ErrorKind::unsupported, "AWQ linears of " + std::to_string(bits) + " bits cannot be read", where, "4 bits can");
    if (version != "gemm") throw Error(ErrorKind::unsupported, "AWQ checkpoints of version '" + version + "' cannot be read", where, "gemm can");
    const bool symmetric = !flag(q, "zero_point", where, true);
    for (const std::string& name : contents_.named(".qweight"))
      add(read_scheme(name, group, symmetric), {name + ".qweight", name + ".qzeros", name + ".scales"});
    if (linears().empty()) contents_.refuse("*.qweight", "the checkpoint has no tensors of that name");
  }

  QuantizedLinear linear(const std::string& name) const override {
    const Scheme& s = scheme(name);
    const std::int64_t groups = s.grid.num_groups(s.in_features);
    const at::Tensor packed = contents_.read(name + ".qweight", {at::kInt}, {s.in_features, s.out_features / 8});
    const at::Tensor zeros = contents_.read(name + ".qzeros", {at::kInt}, {groups, s.out_features / 8});
    const at::Tensor scales = contents_.read(name + ".scales", {s.grid.scale_dtype}, {groups, s.out_features});
    QuantizedLinear out;
    out.grid = s.grid;
    out.codes_OI = unpack(packed).t().contiguous();
    out.params.scales_OG = scales.t().to(at::kFloat).contiguous();
    out.params.zeros_OG = unpack(zeros).t().to(at::kFloat).contiguous();
    return out;
  }

 private:
  Scheme read_scheme(const std::string& name, std::int64_t group, bool symmetric) const {
    const TensorSpec &weight = contents_.spec(name + ".qweight", 2), &scales = contents_.spec(name + ".scales", 2);
    if (weight.dtype != at::kInt) contents_.refuse(name + ".qweight", "the type is not int32");
    if (scales.dtype != at::kHalf && scales.dtype != at::kBFloat16 && scales.dtype != at::kFloat)
      contents_.refuse(name + ".scales", "the type is not float16");
    Scheme s;
    s.name = name;
    s.out_features = weight.shape[1] * 8;
    s.in_features = weight.shape[0];
    s.grid.bits = 4;
    s.grid.symmetric = symmetric;
    s.grid.granularity = group < 0 ? Granularity::channel : Granularity::group;
    s.grid.group_size = group < 0 ? s.grid.group_size : group;
    s.grid.convention = quantizer::GridConvention::awq;
    s.grid.scale_dtype = scales.dtype;
    if (scales.shape[0] != s.grid.num_groups(s.in_features) || scales.shape[1] != s.out_features)
      contents_.refuse(name + ".scales", "the shape agrees with no groups of " + std::to_string(group));
    return s;
  }
};

std::optional<std::string> why_not(const Scheme& s, const FormatOptions&) {
  if (auto reason = why_not_plain(s, "AWQ")) return reason;
  if (s.grid.is_fp8()) return "AWQ holds integers, not fp8; compressed-tensors, fp8, modelopt and miq can";
  if (s.rotated_input || s.rotated_output) return "AWQ cannot hold rotations done at run time; compressed-tensors, miq and dequantized can";
  if (s.activation.enabled()) return "AWQ cannot say that activations are quantized; compressed-tensors and miq can";
  if (s.grid.bits != 4) return "AWQ holds 4 bits, not " + std::to_string(s.grid.bits) + "; compressed-tensors and miq can";
  if (s.group_of_column) return "AWQ has no groups other than runs of columns; gptq and miq can";
  if (s.out_features % 8 != 0) return "AWQ packs 8 outputs at a time, not " + std::to_string(s.out_features) + "; miq and dequantized can";
  if (is_ragged(s)) return "AWQ has no shorter last group; miq and dequantized can";
  return std::nullopt;
}

std::optional<std::string> why_not_together(const std::vector<Scheme>& schemes) {
  for (const Scheme& s : schemes)
    if (declared_group(s) != declared_group(schemes.front()))
      return "AWQ has one group size for all linears, and " + s.name + " has another than " + schemes.front().name + "; compressed-tensors and miq can";
  return std::nullopt;
}

std::vector<std::string> warnings(const std::vector<Scheme>& schemes, const FormatOptions&) {
  using Reason = std::optional<std::string>;
  std::vector<std::string> out;
  warn_first(out, "vLLM and SGLang serve AWQ in whole groups of 32, 64, 128 or a row", schemes, [](const Scheme& s) -> Reason {
    const std::int64_t group = declared_group(s);
    if (group != -1 && group != 32 && group != 64 && group != 128) return "has groups of " + std::to_string(group);
    if (group > 0 && s.in_features % group != 0) return "has fewer inputs than a group";
    return std::nullopt;
  });
  warn_first(out, "vLLM serves symmetric AWQ with a slow kernel", schemes,
             [](const Scheme& s) -> Reason { return s.grid.symmetric ? Reason("is symmetric") : std::nullopt; });
  warn_first(out, "transformers keeps the head of AWQ checkpoints in float", schemes,
             [](const Scheme& s) -> Reason { return is_head(s.name) ? Reason("is the head") : std::nullopt; });
  out.push_back("TensorRT-LLM and llama.cpp read no AWQ checkpoints of this layout");
  return out;
}

std::vector<NamedTensor> encode(const std::vector<NamedLinear>& linears, const FormatOptions&) {
  std::vector<NamedTensor> out;
  for (const NamedLinear& named : linears) {
    const QuantizedLinear& linear = *named.linear;
    const at::ScalarType type = linear.grid.scale_dtype == at::kBFloat16 ? at::kBFloat16 : at::kHalf;
    out.push_back({named.name + ".qweight", pack(linear.codes_OI.t())});
    out.push_back({named.name + ".qzeros", pack(stored_zeros(named).t())});
    out.push_back({named.name + ".scales", stored_scales(named, type).t().contiguous()});
  }
  return out;
}

void declare(const std::vector<Scheme>& schemes, const std::vector<std::string>& kept, const FormatOptions&, Declaration& declaration) {
  const std::int64_t group = schemes.empty() ? 128 : declared_group(schemes.front());
  const bool symmetric = std::all_of(schemes.begin(), schemes.end(), [](const Scheme& s) { return s.grid.symmetric; });
  nlohmann::ordered_json config = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", group}, {"zero_point", !symmetric}, {"version", "gemm"}};
  config["modules_to_not_convert"] = kept.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(kept);
  declaration.config["quantization_config"] = config;
}

bool recognises(const nlohmann::json& q) {
  if (!q.is_object()) return false;
  if (const auto method = q.find("quant_method"); method != q.end()) return *method == "awq";
  return q.contains("zero_point") && (q.contains("w_bit") || q.contains("bits"));  // AutoAWQ's quant_config.json
}

}  // namespace

const Format awq_format = {
    .name = "awq",
    .summary = "AWQ (AutoAWQ's GEMM layout): 4 bits",
    .why_not = why_not,
    .warnings = warnings,
    .scale_dtype = [](const quantizer::Grid&,
                      const FormatOptions& options) { return options.model_dtype == at::kBFloat16 ? at::kBFloat16 : at::kHalf; },
    .encode = encode,
    .declare = declare,
    .recognises = recognises,
    .open = [](std::shared_ptr<const TensorSource> source, const nlohmann::json& quantization, const nlohmann::json&, const std::string& where)
        -> std::unique_ptr<Decoder> { return std::make_unique<AwqDecoder>(Contents(std::move(source), where), quantization); },
    .why_not_together = why_not_together,
};

}  // namespace miq::format
