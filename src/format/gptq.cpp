// GPTQ checkpoints (AutoGPTQ, GPTQModel): codes packed along the input, zero points along the output, one group index for
// each input. Sources: gptqmodel 7.6 nn_modules/qlinear/__init__.py (packing), quantization/config.py (dynamic);
// AutoGPTQ@9f7d370; vLLM 0.33 auto_gptq.py, transformers 5.17, llama.cpp convert_hf_to_gguf.py for what is served.
#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "formats.h"
#include "reading.h"

namespace miq::format {
namespace {

using quantizer::Granularity;
using quantizer::QuantizedLinear;

bool has_width(std::int64_t bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

// What a configuration says of one linear, or of those without a word of their own.
struct Setting {
  std::int64_t bits, group;  // group -1: one scale for each output
  bool symmetric, act_order;
  auto operator<=>(const Setting&) const = default;
};

Setting setting_of(const Scheme& s) { return {s.grid.bits, declared_group(s), s.grid.symmetric, s.group_of_column}; }

std::int64_t groups_of(const Setting& setting, std::int64_t in_features) {
  return setting.group < 0 ? 1 : (in_features + setting.group - 1) / setting.group;
}

at::Tensor natural_groups(const quantizer::Grid& grid, std::int64_t columns) {
  return at::arange(columns, at::kLong).div_(grid.columns_per_group(columns), "floor");
}

// gptqmodel takes v1's zero points for v2's after adding 1 to every field at once: whole words, so that a 0 that was written
// has borrowed from its neighbour. Fields of 3 bits cross words and are added one by one.
at::Tensor zeros_from_v1(const at::Tensor& words, int bits, std::int64_t n) {
  if (bits == 3) return (unpack_bits(words, bits, n) + 1).bitwise_and_(7);
  const std::int64_t ones = 0xffffffffll / ((1 << bits) - 1);
  return unpack_bits((words.to(at::kLong) + ones).to(at::kInt), bits, n);
}

class GptqDecoder : public TableDecoder {
 public:
  GptqDecoder(Contents contents, const nlohmann::json& quantization) : TableDecoder(std::move(contents)) {
    read_config(quantization);
    for (const std::string& name : contents_.named(".qweight"))
      add(read_scheme(name), {name + ".qweight", name + ".qzeros", name + ".scales", name + ".g_idx"});
    if (linears().empty()) contents_.refuse("*.qweight", "the checkpoint has no tensors of that name");
  }

  QuantizedLinear linear(const std::string& name) const override {
    const Scheme& s = scheme(name);
    const int bits = s.grid.bits;
    const std::int64_t rows = s.out_features, columns = s.in_features, groups = s.grid.num_groups(columns);
    const at::Tensor packed = contents_.read(name + ".qweight", {at::kInt}, {columns * bits / 32, rows});
    const at::Tensor words = contents_.read(name + ".qzeros", {at::kInt}, {groups, (rows * bits + 31) / 32});
    const at::Tensor scales = contents_.read(name + ".scales", {s.grid.scale_dtype}, {groups, rows});
    QuantizedLinear out;
    out.grid = s.grid;
    out.codes_OI = unpack_bits(packed.t(), bits, columns);
    const at::Tensor zeros = version_one_ ? zeros_from_v1(words, bits, rows) : unpack_bits(words, bits, rows);
    out.params.scales_OG = scales.t().to(at::kFloat).contiguous();
    out.params.zeros_OG = zeros.t().to(at::kFloat).contiguous();
    if (s.group_of_column) out.group_of_column = group_index(s);
    return out;
  }

 private:
  void read_config(const nlohmann::json& q) {
    const std::string& where = contents_.where();
    base_ = read_setting(q, std::nullopt);
    const std::string layout = text(q, "checkpoint_format", where, text(q, "format", where, "gptq"));
    if (layout != "gptq" && layout != "gptq_v2")
      throw Error(ErrorKind::unsupported, "GPTQ checkpoints of checkpoint_format '" + layout + "' cannot be read", where, "gptq and gptq_v2 can");
    if (flag(q, "is_marlin_format", where, false)) throw Error(ErrorKind::unsupported, "GPTQ checkpoints repacked for Marlin cannot be read", where);
    if (text(q, "pack_dtype", where, "int32") != "int32")
      throw Error(ErrorKind::unsupported, "GPTQ checkpoints are read with pack_dtype int32 only", where);
    version_one_ = layout == "gptq";
    for (const auto& [key, value] : member(q, "dynamic", where).items()) {
      if (key.starts_with("-:") || !value.is_object()) continue;  // excluded: seen by its tensors
      overrides_.emplace_back(NamePattern(key.starts_with("+:") ? key.substr(2) : key, where), read_setting(value, base_));
    }
  }

  Setting read_setting(const nlohmann::json& q, const std::optional<Setting>& base) const {
    const std::string& where = contents_.where();
    Setting setting{whole_number(q, "bits", 1, 32, where, base ? std::optional(base->bits) : std::nullopt),
                    whole_number(q, "group_size", -1, kMaxGroup, where, base ? std::optional(base->group) : std::nullopt),
                    flag(q, "sym", where, base ? base->symmetric : true), flag(q, "desc_act", where, base ? base->act_order : false)};
    if (!has_width(setting.bits))
      throw Error(ErrorKind::unsupported, "GPTQ linears of " + std::to_string(setting.bits) + " bits cannot be read", where, "2, 3, 4 and 8 can");
    if (setting.group == 0) throw Error(ErrorKind::io, "quantization configuration: 'group_size' is 0", where);
    return setting;
  }

  Scheme read_scheme(const std::string& name) const {
    const TensorSpec &weight = contents_.spec(name + ".qweight", 2), &scales = contents_.spec(name + ".scales", 2);
    const std::int64_t words = weight.shape[0];
    if (weight.dtype != at::kInt) contents_.refuse(name + ".qweight", "the type is not int32");
    if (scales.dtype != at::kHalf && scales.dtype != at::kBFloat16 && scales.dtype != at::kFloat)
      contents_.refuse(name + ".scales", "the type is not float16");
    const bool indexed = contents_.has(name + ".g_idx");
    // The shapes settle which entry holds: the order of `dynamic`, of which the first counts, is not kept by JSON.
    std::vector<Setting> candidates;
    for (const auto& [pattern, setting] : overrides_)
      if (pattern.matches(name)) candidates.push_back(setting);
    candidates.push_back(base_);
    for (const Setting& setting : candidates) {
      const std::int64_t columns = indexed ? contents_.spec(name + ".g_idx", 1).shape[0] : words * 32 / setting.bits;
      if (columns * setting.bits != words * 32 || scales.shape[0] != groups_of(setting, columns)) continue;
      Scheme s;
      s.name = name;
      s.out_features = weight.shape[1];
      s.in_features = columns;
      s.grid.bits = static_cast<int>(setting.bits);
      s.grid.symmetric = setting.symmetric;
      s.grid.granularity = setting.group < 0 ? Granularity::channel : Granularity::group;
      s.grid.group_size = setting.group < 0 ? s.grid.group_size : setting.group;
      s.grid.convention = quantizer::GridConvention::ist;
      s.grid.scale_dtype = scales.dtype;
      s.group_of_column = indexed && group_index(s).defined();
      return s;
    }
    contents_.refuse(name + ".qweight", "its shape and the scales' agree with no bits and group_size of the configuration");
  }

  // Undefined: runs of columns.
  at::Tensor group_index(const Scheme& s) const {
    const std::string name = s.name + ".g_idx";
    const std::int64_t columns = s.in_features, groups = s.grid.num_groups(columns);
    const at::Tensor index = contents_.read(name, {at::kInt}, {columns}).to(at::kLong);
    if (index.min().item<std::int64_t>() < 0 || index.max().item<std::int64_t>() >= groups)
      contents_.refuse(name, "a group is not 0 to " + std::to_string(groups - 1));
    return at::equal(index, natural_groups(s.grid, columns)) ? at::Tensor() : index;
  }

  Setting base_{};
  bool version_one_ = true;
  std::vector<std::pair<NamePattern, Setting>> overrides_;
};

bool is_version_one(const FormatOptions& options) {
  if (options.variant.empty() || options.variant == "v1") return true;
  if (options.variant == "v2") return false;
  throw Error(ErrorKind::config, "unknown version '" + options.variant + "' of the GPTQ layout", "export.variant", "v1 or v2");
}

std::optional<std::string> why_not(const Scheme& s, const FormatOptions& options) {
  const bool version_one = is_version_one(options);
  if (auto reason = why_not_plain(s, "GPTQ")) return reason;
  if (s.grid.is_fp8()) return "GPTQ holds integers, not fp8; compressed-tensors, fp8, modelopt and miq can";
  if (s.rotated_input || s.rotated_output) return "GPTQ cannot hold rotations done at run time; compressed-tensors, miq and dequantized can";
  if (s.activation.enabled()) return "GPTQ cannot say that activations are quantized; compressed-tensors and miq can";
  if (!has_width(s.grid.bits)) return "GPTQ holds 2, 3, 4 and 8 bits, not " + std::to_string(s.grid.bits) + "; compressed-tensors and miq can";
  if (version_one && s.zero_point_of_zero)
    return "version v1 of GPTQ cannot hold a zero point of 0, which an asymmetric grid may need; version v2, compressed-tensors and miq can";
  if (s.in_features % 32 != 0) return "GPTQ packs 32 inputs at a time, not " + std::to_string(s.in_features) + "; miq and dequantized can";
  if (s.out_features % 32 != 0) return "GPTQ packs 32 outputs at a time, not " + std::to_string(s.out_features) + "; miq and dequantized can";
  if (is_ragged(s)) return "GPTQ has no shorter last group; miq and dequantized can";
  return std::nullopt;
}

std::vector<std::string> warnings(const std::vector<Scheme>& schemes, const FormatOptions&) {
  using Reason = std::optional<std::string>;
  std::vector<std::string> out;
  const auto types = [](const Scheme& s) -> Reason {
    if (!s.grid.symmetric) return "is asymmetric";
    if (s.grid.bits != 4 && s.grid.bits != 8) return "has " + std::to_string(s.grid.bits) + " bits";
    const std::int64_t group = declared_group(s);
    if (group != -1 && group != 32 && group != 64 && group != 128) return "has groups of " + std::to_string(group);
    return std::nullopt;
  };
  warn_first(out, "vLLM serves GPTQ of 4 and 8 bits, symmetric, in whole groups of 32, 64, 128 or a row, without desc_act", schemes,
             [&](const Scheme& s) -> Reason {
               if (Reason reason = types(s)) return reason;
               if (s.group_of_column) return "has desc_act";
               if (declared_group(s) > 0 && s.in_features % declared_group(s) != 0) return "has fewer inputs than a group";
               return std::nullopt;
             });
  warn_of_fused(out, schemes, [](const Scheme& a, const Scheme& b) { return setting_of(a) == setting_of(b); });
  warn_first(out, "SGLang serves GPTQ of 4 and 8 bits, symmetric, with inputs in 128s and outputs in 64s", schemes, [&](const Scheme& s) -> Reason {
    if (Reason reason = types(s)) return reason;
    if (s.in_features % 128 != 0) return "has " + std::to_string(s.in_features) + " inputs";
    if (s.out_features % 64 != 0) return "has " + std::to_string(s.out_features) + " outputs";
    return std::nullopt;
  });
  warn_first(out, "transformers reads one setting for all linears and no quantized head", schemes, [&](const Scheme& s) -> Reason {
    if (is_head(s.name)) return "is the head";
    if (setting_of(s) != setting_of(schemes.front())) return "differs from " + schemes.front().name;
    return std::nullopt;
  });
  warn_first(out, "llama.cpp converts 2, 4 and 8 bits, one width", schemes, [&](const Scheme& s) -> Reason {
    if (s.grid.bits == 3 || s.grid.bits != schemes.front().grid.bits) return "has " + std::to_string(s.grid.bits) + " bits";
    return std::nullopt;
  });
  out.push_back("TensorRT-LLM reads no GPTQ checkpoints");
  return out;
}

std::vector<NamedTensor> encode(const std::vector<NamedLinear>& linears, const FormatOptions& options) {
  const bool version_one = is_version_one(options);
  std::vector<NamedTensor> out;
  for (const NamedLinear& named : linears) {
    const QuantizedLinear& linear = *named.linear;
    const int bits = linear.grid.bits;
    at::Tensor zeros_OG = stored_zeros(named);
    if (version_one) {
      if (zeros_OG.eq(0).any().item<bool>())
        throw Error(ErrorKind::unsupported, "version v1 of GPTQ cannot hold its zero points of 0", named.name, "write version v2");
      zeros_OG = zeros_OG - 1;
    }
    const at::Tensor index = linear.group_of_column.defined() ? linear.group_of_column : natural_groups(linear.grid, linear.in_features());
    out.push_back({named.name + ".qweight", pack_bits(linear.codes_OI, bits).t().contiguous()});
    out.push_back({named.name + ".qzeros", pack_bits(zeros_OG.t(), bits)});
    out.push_back({named.name + ".scales", stored_scales(named, at::kHalf).t().contiguous()});
    out.push_back({named.name + ".g_idx", index.to(at::kInt)});
  }
  return out;
}

// `dynamic`: what differs from the base. vLLM looks up a fused linear by its own name: it gets what all of its parts have.
nlohmann::ordered_json overrides(const std::vector<Scheme>& schemes, const std::vector<std::string>& kept, const Setting& base) {
  nlohmann::ordered_json dynamic = nlohmann::ordered_json::object();
  std::map<std::string, std::vector<nlohmann::ordered_json>> fused;  // by sign and name
  const auto add = [&](const std::string& sign, const std::string& name, const nlohmann::ordered_json& value) {
    dynamic[sign + exact_pattern(name)] = value;
    const std::string whole = fused_name(name);
    if (whole.empty()) return;
    std::vector<nlohmann::ordered_json>& parts = fused[sign + whole];
    parts.push_back(value);
    if (parts.size() == fused_parts(whole) && std::count(parts.begin(), parts.end(), value) == std::ssize(parts))
      dynamic[sign + exact_pattern(whole)] = value;
  };
  for (const Scheme& s : schemes) {
    const Setting own = setting_of(s);
    if (own == base) continue;
    nlohmann::ordered_json difference;
    if (own.bits != base.bits) difference["bits"] = own.bits;
    if (own.group != base.group) difference["group_size"] = own.group;
    if (own.symmetric != base.symmetric) difference["sym"] = own.symmetric;
    if (own.act_order != base.act_order) difference["desc_act"] = own.act_order;
    add("+:", s.name, difference);
  }
  for (const std::string& name : kept)
    if (!is_head(name)) add("-:", name, nlohmann::ordered_json::object());
  return dynamic;
}

void declare(const std::vector<Scheme>& schemes, const std::vector<std::string>& kept, const FormatOptions& options, Declaration& declaration) {
  std::map<Setting, size_t> count;
  for (const Scheme& s : schemes)
    if (!is_head(s.name)) ++count[setting_of(s)];
  if (count.empty() && !schemes.empty()) ++count[setting_of(schemes.front())];
  const auto commonest = std::max_element(count.begin(), count.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const Setting base = commonest == count.end() ? Setting{4, 128, true, false} : commonest->first;
  const bool head = std::any_of(schemes.begin(), schemes.end(), [](const Scheme& s) { return is_head(s.name); });
  const nlohmann::ordered_json dynamic = overrides(schemes, kept, base);
  const std::string layout = is_version_one(options) ? "gptq" : "gptq_v2";
  nlohmann::ordered_json config = {{"quant_method", "gptq"}, {"bits", base.bits},    {"group_size", base.group},    {"desc_act", base.act_order},
                                   {"sym", base.symmetric},  {"lm_head", head},      {"checkpoint_format", layout}, {"format", layout},
                                   {"method", "gptq"},       {"pack_dtype", "int32"}};
  if (!dynamic.empty()) config["dynamic"] = dynamic;
  config["meta"] = {{"quantizer", nlohmann::ordered_json::array({"miq:" MIQ_VERSION})}};
  declaration.config["quantization_config"] = config;
  declaration.files["quantize_config.json"] = config.dump(2) + "\n";
}

bool recognises(const nlohmann::json& q) {
  if (!q.is_object()) return false;
  if (const auto method = q.find("quant_method"); method != q.end()) return *method == "gptq";
  return q.contains("bits") && q.contains("group_size") && q.contains("desc_act") && !q.contains("zero_point");  // AutoGPTQ's quantize_config.json
}

}  // namespace

const Format gptq_format = {
    .name = "gptq",
    .summary = "GPTQ (AutoGPTQ, GPTQModel): 2, 3, 4, 8 bits; versions v1 and v2",
    .why_not = why_not,
    .warnings = warnings,
    .scale_dtype = [](const quantizer::Grid&, const FormatOptions&) { return at::kHalf; },
    .encode = encode,
    .declare = declare,
    .recognises = recognises,
    .open = [](std::shared_ptr<const TensorSource> source, const nlohmann::json& quantization, const nlohmann::json&, const std::string& where)
        -> std::unique_ptr<Decoder> { return std::make_unique<GptqDecoder>(Contents(std::move(source), where), quantization); },
    .variants = {"v1", "v2"},
};

}  // namespace miq::format
