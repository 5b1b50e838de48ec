#include "reading.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "miq/core/dtype.h"
#include "miq/core/text.h"

namespace miq::format {
namespace {

constexpr size_t kMaxPattern = 4096, kMaxName = 1024;  // std::regex recurses with the length of both

[[noreturn]] void refuse_key(const std::string& key, const std::string& what, const std::string& where) {
  throw Error(ErrorKind::io, "quantization configuration: '" + key + "' " + what, where);
}

const nlohmann::json* find(const nlohmann::json& object, const std::string& key, const std::string& where) {
  if (!object.is_object()) throw Error(ErrorKind::io, "quantization configuration: what should hold '" + key + "' is no object", where);
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string out = "[";
  for (const std::int64_t size : shape) out += (out.size() > 1 ? ", " : "") + (size < 0 ? std::string("?") : std::to_string(size));
  return out + "]";
}

// The name that a pattern quotes whole: letters, escaped punctuation, "$" at the end.
std::optional<std::string> quoted_name(const std::string& pattern) {
  size_t begin = pattern.starts_with('^') ? 1 : 0;
  if (!pattern.ends_with('$')) return std::nullopt;
  std::string name;
  for (size_t i = begin; i + 1 < pattern.size(); ++i) {
    char c = pattern[i];
    if (c == '\\') {
      c = pattern[++i];
      if (i + 1 >= pattern.size() || std::isalnum(static_cast<unsigned char>(c))) return std::nullopt;
    } else if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_') {
      return std::nullopt;
    }
    name += c;
  }
  return name;
}

}  // namespace

Contents::Contents(std::shared_ptr<const TensorSource> source, std::string where) : source_(std::move(source)), where_(std::move(where)) {
  for (TensorSpec& spec : source_->specs()) {
    std::string name = spec.name;
    specs_.emplace(std::move(name), std::move(spec));
  }
}

void Contents::refuse(const std::string& name, const std::string& what) const { throw Error(ErrorKind::io, printable(name) + ": " + what, where_); }

const TensorSpec& Contents::spec(const std::string& name, size_t dims) const {
  const auto found = specs_.find(name);
  if (found == specs_.end()) refuse(name, "the tensor is missing");
  const TensorSpec& spec = found->second;
  if (spec.shape.size() != dims || std::any_of(spec.shape.begin(), spec.shape.end(), [](std::int64_t size) { return size <= 0; }))
    refuse(name, "the shape is " + shape_text(spec.shape) + ", not of " + std::to_string(dims) + " dimensions");
  return spec;
}

at::Tensor Contents::read(const std::string& name, const std::vector<at::ScalarType>& types, const std::vector<std::int64_t>& shape) const {
  const auto found = specs_.find(name);
  if (found == specs_.end()) refuse(name, "the tensor is missing");
  const TensorSpec& spec = found->second;
  if (std::find(types.begin(), types.end(), spec.dtype) == types.end())
    refuse(name, "the type is " + dtype_name(spec.dtype) + ", not " + dtype_name(types.front()));
  bool fits = spec.shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == spec.shape[i];
  if (!fits) refuse(name, "the shape is " + shape_text(spec.shape) + ", not " + shape_text(shape));
  return source_->tensor(name).contiguous();
}

std::vector<std::string> Contents::named(const std::string& suffix) const {
  std::vector<std::string> out;
  for (const auto& [name, spec] : specs_)
    if (name.size() > suffix.size() && name.ends_with(suffix)) out.push_back(name.substr(0, name.size() - suffix.size()));
  return out;
}

void TableDecoder::add(Scheme scheme, const std::vector<std::string>& tensors) {
  for (const std::string& tensor : tensors)
    if (contents_.has(tensor)) owned_.insert(tensor);
  index_[scheme.name] = schemes_.size();
  schemes_.push_back(std::move(scheme));
}

const Scheme& TableDecoder::scheme(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) contents_.refuse(name, "there is no such quantized linear");
  return schemes_[found->second];
}

std::int64_t whole_number(const nlohmann::json& object, const std::string& key, std::int64_t low, std::int64_t high, const std::string& where,
                          std::optional<std::int64_t> fallback) {
  const nlohmann::json* value = find(object, key, where);
  if (value == nullptr) {
    if (fallback) return *fallback;
    refuse_key(key, "is missing", where);
  }
  if (!value->is_number_integer() || (value->is_number_unsigned() && value->get<std::uint64_t>() > INT64_MAX))
    refuse_key(key, "is no whole number", where);
  const auto number = value->get<std::int64_t>();
  if (number < low || number > high)
    refuse_key(key, "is " + std::to_string(number) + ", not " + std::to_string(low) + " to " + std::to_string(high), where);
  return number;
}

bool flag(const nlohmann::json& object, const std::string& key, const std::string& where, std::optional<bool> fallback) {
  const nlohmann::json* value = find(object, key, where);
  if (value == nullptr) {
    if (fallback) return *fallback;
    refuse_key(key, "is missing", where);
  }
  if (!value->is_boolean()) refuse_key(key, "is neither true nor false", where);
  return value->get<bool>();
}

std::string text(const nlohmann::json& object, const std::string& key, const std::string& where, std::optional<std::string> fallback) {
  const nlohmann::json* value = find(object, key, where);
  if (value == nullptr) {
    if (fallback) return *fallback;
    refuse_key(key, "is missing", where);
  }
  if (!value->is_string()) refuse_key(key, "is no text", where);
  return value->get<std::string>();
}

const nlohmann::json& member(const nlohmann::json& object, const std::string& key, const std::string& where) {
  static const nlohmann::json kEmpty = nlohmann::json::object();
  const nlohmann::json* value = find(object, key, where);
  if (value == nullptr) return kEmpty;
  if (!value->is_object()) refuse_key(key, "is no object", where);
  return *value;
}

std::vector<std::string> texts(const nlohmann::json& object, const std::string& key, const std::string& where) {
  std::vector<std::string> out;
  const nlohmann::json* value = find(object, key, where);
  if (value == nullptr) return out;
  if (!value->is_array()) refuse_key(key, "is no list", where);
  for (const nlohmann::json& entry : *value) {
    if (!entry.is_string()) refuse_key(key, "holds something else than text", where);
    out.push_back(entry.get<std::string>());
  }
  return out;
}

NamePattern::NamePattern(const std::string& pattern, const std::string& where) : literal_(quoted_name(pattern)) {
  if (literal_) return;
  if (pattern.size() > kMaxPattern)
    throw Error(ErrorKind::io, "quantization configuration: a pattern of names has " + std::to_string(pattern.size()) + " characters", where);
  try {
    regex_ = std::regex(pattern, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    throw Error(ErrorKind::io, "quantization configuration: '" + printable(pattern) + "' is no regular expression (" + error.what() + ")", where);
  }
}

bool NamePattern::matches(const std::string& name) const {
  if (literal_) return name == *literal_;
  if (name.size() > kMaxName) return false;
  try {
    return std::regex_search(name, regex_, std::regex_constants::match_continuous);
  } catch (const std::regex_error&) {  // too complex
    return false;
  }
}

std::string exact_pattern(const std::string& name) {
  std::string out = "^";
  for (const char c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_') out += '\\';
    out += c;
  }
  return out + "$";
}

bool is_head(const std::string& linear) { return linear == "lm_head" || linear.ends_with(".lm_head"); }

std::string fused_name(const std::string& linear) {
  const size_t dot = linear.rfind('.');
  if (dot == std::string::npos) return "";
  const std::string last = linear.substr(dot + 1), before = linear.substr(0, dot + 1);
  if (last == "q_proj" || last == "k_proj" || last == "v_proj") return before + "qkv_proj";
  return last == "gate_proj" || last == "up_proj" ? before + "gate_up_proj" : "";
}

size_t fused_parts(const std::string& fused) { return fused.ends_with("qkv_proj") ? 3 : 2; }

at::Tensor stored_scales(const NamedLinear& linear, at::ScalarType dtype) {
  const at::Tensor& scales = linear.linear->params.scales_OG;
  if (!holds(dtype, scales))
    throw Error(ErrorKind::unsupported, "its scales are not numbers of " + dtype_name(dtype), linear.name,
                "quantize with this export in the job, or export to miq");
  return scales.to(dtype);
}

at::Tensor stored_zeros(const NamedLinear& linear) {
  const at::Tensor zeros = linear.linear->params.zeros_OG, codes = zeros.clamp(0, (1 << linear.linear->grid.bits) - 1).round();
  if (!at::equal(codes, zeros))
    throw Error(ErrorKind::unsupported, "its zero points are not whole numbers of " + std::to_string(linear.linear->grid.bits) + " bits", linear.name,
                "export to miq or dequantized");
  return codes.to(at::kByte);
}

std::optional<std::string> why_not_plain(const Scheme& s, const std::string& format) {
  const std::string end = "; miq and dequantized can";
  if (s.outliers) return format + " cannot hold outliers kept in float" + end;
  if (s.grid.bilevel.enabled()) return format + " cannot hold quantized scales and zeros" + end;
  if (s.grid.real_zeros || s.grid.convention == quantizer::GridConvention::quip) return format + " cannot hold zero points that are not whole" + end;
  if (s.divisor) return format + " cannot hold a division of the input that was not folded into the operation before" + end;
  return std::nullopt;
}

std::int64_t declared_group(const Scheme& s) {
  const bool grouped = s.grid.granularity == quantizer::Granularity::group || s.grid.granularity == quantizer::Granularity::block;
  return grouped ? s.grid.group_size : -1;
}

bool is_ragged(const Scheme& s) { return s.in_features % s.grid.columns_per_group(s.in_features) != 0; }

}  // namespace miq::format
